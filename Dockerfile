# cisternd and cistern on Debian 13. Built and started as deploy/README.md says.
FROM debian:trixie-slim AS build
WORKDIR /source
COPY deploy/install-deps deploy/install-deps
RUN deploy/install-deps --build
COPY . .
RUN cmake --preset release -DBUILD_TESTING=OFF \
 && cmake --build --preset release --target cisternd cistern_cli \
 && install -s -D -t /install/usr/local/bin build/release/bin/cisternd build/release/bin/cistern

FROM debian:trixie-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      libcpp-httplib0.18 libfmt10 libhiredis1.1.0 libjemalloc2 libmemcached11t64 \
      libprometheus-cpp-core1.0 libspdlog1.15 libxxhash0 libyaml-cpp0.8 libzstd1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin cistern \
 && install -d -o cistern -g cistern /run/cistern
COPY --from=build /install /
COPY deploy/container/cistern.yaml /etc/cistern/cistern.yaml
# A library that is missing, or a setting that the daemon does not know, shows here.
RUN cistern --version && cisternd --config /etc/cistern/cistern.yaml --check-config
USER 10001:10001
# Clients; metrics and health over HTTP.
EXPOSE 7400 7401
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["cistern", "ping"]
ENTRYPOINT ["cisternd"]
CMD ["--config", "/etc/cistern/cistern.yaml"]
