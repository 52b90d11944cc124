#include "server/service/stat.h"

#include <utility>

#include "server/service/edit.h"
#include "server/service/hit.h"
#include "server/service/l1_only.h"
#include "server/service/proof.h"

namespace cistern::service {
namespace {

using Kind = Judgement::Kind;

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
  Stat(std::shared_ptr<Worker> worker, const Key& key, Service::Done<proto::Info> done)
      : worker_(std::move(worker)), key_(key), done_(std::move(done)), doubt_(worker_) {}

  // True when it was answered.
  bool look(Demand demand, const Error* cause = nullptr);
  void leave() {
    done_ = nullptr;
    doubt_.leave();
  }

 private:
  bool ask_l2() {
    if (!worker_->shared.l1_only->has(key_.text)) return ask_l2_now();
    make_settling(worker_, key_, [self = shared_from_this()](const Result<void>& settled) {
      if (!self->done_) return;
      if (settled) {
        self->ask_l2_now();
      } else {
        self->answer(tl::unexpected(settled.error()));
      }
    })->begin();
    return false;
  }
  bool ask_l2_now() {
    worker_->store->get_manifest(
        key_.text,
        [self = shared_from_this()](const Result<std::optional<l2::Manifest>>& manifest) {
          self->on_manifest(manifest);
        });
    return false;
  }
  bool prove(base::Version version);
  bool answer(const Result<proto::Info>& result) {
    std::exchange(done_, nullptr)(result);
    return true;
  }
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

  const std::shared_ptr<Worker> worker_;
  const Key key_;
  Service::Done<proto::Info> done_;
  Doubt doubt_;
};

bool Stat::look(Demand demand, const Error* cause) {
  const auto found = worker_->cache.describe(key_.bytes(), key_.hash, worker_->loop.now());
  if (!found) {
    return worker_->store == nullptr ? answer(base::fail(Status::kNotFound, {})) : ask_l2();
  }
  const Judgement judgement = judge(*worker_, key_.bytes(), key_.hash, found->proven_at, demand);
  if (judgement.kind == Kind::kDoubtful) return prove(found->meta.version);
  if (demand == Demand::kAny) count_stale(*worker_, judgement);
  if (judgement.kind == Kind::kRefuse) {
    return answer(tl::unexpected(too_stale(worker_->shared.freshness, judgement.age, *cause)));
  }
  std::uint32_t flags = worker_->store == nullptr ? proto::kInL1 : proto::kInL1 | proto::kInL2;
  if (judgement.kind == Kind::kServeDegraded) flags = proto::kInL1 | proto::kValueDegraded;
  proto::Info info = info_of(found->meta, flags);
  if (judgement.kind == Kind::kServeDegraded && !judgement.alone) {
    info.age_ms = age_ms(judgement.age);
  }
  return answer(info);
}

bool Stat::prove(base::Version version) {
  const std::optional<Error> cannot =
      doubt_.ask(key_, version, [weak = weak_from_this()](const std::optional<Error>& why_not) {
        const auto self = weak.lock();
        if (!self || !self->done_) return;
        if (why_not) {
          self->look(Demand::kAny, &*why_not);
        } else {
          self->look(Demand::kInBound);
        }
      });
  return cannot && look(Demand::kAny, &*cannot);
}

}  // namespace

OperationPtr stat(const std::shared_ptr<Worker>& worker, const proto::KeyRequest& request,
                  Service::Done<proto::Info> done) {
  auto operation = std::make_shared<Stat>(worker, Key(request.key), std::move(done));
  if (operation->look(Demand::kTrusted)) return nullptr;
  return std::make_unique<Handle<Stat>>(std::move(operation));
}

}  // namespace cistern::service
