#include "server/admin/endpoint.h"

#include <httplib.h>
#include <sys/socket.h>

#include <atomic>
#include <stdexcept>
#include <thread>

#include "server/admin/metrics.h"
#include "server/admin/stats.h"
#include "server/base/log.h"

namespace cistern::admin {
namespace {

constexpr std::size_t kThreads = 2;
// Nobody keeps one of the two threads for long.
constexpr time_t kTimeoutSeconds = 5;
constexpr std::size_t kMaxRequestBytes = 4096;

constexpr char kIndex[] =
    "cisternd\n"
    "\n"
    "/metrics  for Prometheus\n"
    "/healthz  200 while the process works\n"
    "/readyz   200 while it should get traffic; else the reasons\n"
    "/stats    the same figures for people, as JSON\n";

constexpr char kJson[] = "application/json";

void answer(httplib::Response& response, const Health& health) {
  response.status = health.status;
  response.set_content(health.body, kJson);
}

// As the wire's listeners: a second daemon on the port must fail, so no SO_REUSEPORT, which the
// library would set.
void set_options(socket_t socket) {
  const int on = 1;
  ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
}

}  // namespace

class Endpoint::Impl {
 public:
  Impl(const proto::Endpoint& listen, const Sources& sources)
      : sources_(sources), metrics_(sources), listening_(listen) {
    server_.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
    server_.set_socket_options(set_options);
    server_.set_read_timeout(kTimeoutSeconds);
    server_.set_write_timeout(kTimeoutSeconds);
    // A connection that is kept would keep a thread.
    server_.set_keep_alive_max_count(1);
    server_.set_payload_max_length(kMaxRequestBytes);
    routes();
    bind();
    thread_ = std::thread([this] {
      server_.listen_after_bind();
      ended_ = true;
    });
    // stop() is only heard by a server that runs.
    while (!server_.is_running() && !ended_) std::this_thread::yield();
    log::info("admin_listening", {{"endpoint", proto::to_string(listening_)}});
  }

  ~Impl() {
    server_.stop();
    thread_.join();
  }

  const proto::Endpoint& listening() const { return listening_; }

 private:
  void routes() {
    server_.Get("/", [](const httplib::Request&, httplib::Response& response) {
      response.set_content(kIndex, "text/plain; charset=utf-8");
    });
    server_.Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
      response.set_content(metrics_.text(), "text/plain; version=0.0.4; charset=utf-8");
    });
    server_.Get("/healthz", [this](const httplib::Request&, httplib::Response& response) {
      answer(response, health(sources_));
    });
    server_.Get("/readyz", [this](const httplib::Request&, httplib::Response& response) {
      answer(response, readiness(sources_));
    });
    server_.Get("/stats", [this](const httplib::Request&, httplib::Response& response) {
      response.set_content(stats_json(sources_) + "\n", kJson);
    });
  }

  void bind() {
    const std::string& host = listening_.host;
    if (listening_.port == 0) {
      const int port = server_.bind_to_any_port(host);
      if (port > 0) {
        listening_.port = static_cast<std::uint16_t>(port);
        return;
      }
    } else if (server_.bind_to_port(host, listening_.port)) {
      return;
    }
    throw std::runtime_error("cannot listen on " + proto::to_string(listening_) +
                             " (admin.listen): another process listens there, or the address is "
                             "not this machine's");
  }

  const Sources& sources_;
  const Metrics metrics_;
  proto::Endpoint listening_;
  httplib::Server server_;
  std::atomic<bool> ended_{false};
  std::thread thread_;
};

Endpoint::Endpoint(const proto::Endpoint& listen, const Sources& sources)
    : impl_(std::make_unique<Impl>(listen, sources)) {}
Endpoint::~Endpoint() = default;
const proto::Endpoint& Endpoint::listening() const { return impl_->listening(); }

}  // namespace cistern::admin
