#include "server/service/stat.h"

#include <utility>

#include "server/service/edit.h"
#include "server/service/l1_only.h"

namespace cistern::service {
namespace {

proto::Info info_of(const base::ValueMeta& meta, std::uint32_t flags) {
  return {.flags = flags,
          .size = meta.size,
          .version = meta.version,
          .expires_at_ms = meta.expires_at_ms,
          .chunk_bytes = meta.chunk_bytes,
          .digest = meta.digest,
          .metadata = proto::as_bytes(meta.metadata)};
}

class Stat : public std::enable_shared_from_this<Stat> {
 public:
  explicit Stat(Service::Done<proto::Info> done) : done_(std::move(done)) {}

  void start(l2::Store& store, Bytes key) {
    store.get_manifest(
        std::string(proto::as_text(key)),
        [self = shared_from_this()](const Result<std::optional<l2::Manifest>>& manifest) {
          self->on_manifest(manifest);
        });
  }
  void leave() { done_ = nullptr; }
  void fail(const Error& error) {
    if (const auto done = std::exchange(done_, nullptr)) done(tl::unexpected(error));
  }

 private:
  void on_manifest(const Result<std::optional<l2::Manifest>>& manifest) {
    const Service::Done<proto::Info> done = std::move(done_);
    done_ = nullptr;
    if (!done) return;
    if (!manifest) {
      done(tl::unexpected(manifest.error()));
    } else if (!manifest->has_value()) {
      done(base::fail(Status::kNotFound, {}));
    } else {
      done(info_of((*manifest)->meta, proto::kInL2));
    }
  }

  Service::Done<proto::Info> done_;
};

}  // namespace

OperationPtr stat(const std::shared_ptr<Worker>& worker, const proto::KeyRequest& request,
                  Service::Done<proto::Info> done) {
  const std::uint64_t hash = base::hash_key(request.key);
  if (const auto meta = worker->cache.describe(request.key, hash, worker->loop.now())) {
    std::uint32_t flags = proto::kInL1;
    if (worker->shared.l1_only->has(proto::as_text(request.key))) {
      flags |= proto::kValueDegraded;
    } else if (worker->store != nullptr) {
      flags |= proto::kInL2;
    }
    done(info_of(*meta, flags));
    return nullptr;
  }
  if (worker->store == nullptr) {
    done(base::fail(Status::kNotFound, {}));
    return nullptr;
  }
  auto operation = std::make_shared<Stat>(std::move(done));
  if (worker->shared.l1_only->has(proto::as_text(request.key))) {
    const Key key(request.key);
    make_settling(worker, key, [operation, worker, key](const Result<void>& settled) {
      if (!settled) return operation->fail(settled.error());
      operation->start(*worker->store, key.bytes());
    })->begin();
  } else {
    operation->start(*worker->store, request.key);
  }
  return std::make_unique<Handle<Stat>>(std::move(operation));
}

}  // namespace cistern::service
