// TOUCH through L2: rewrites the manifest if the version still matches. When the value shall live
// longer its chunks are raised first, when shorter the manifest is written first: at no time does
// the manifest promise chunks that have expired.
//
// The version that is matched is the one that was read just before. When it has changed meanwhile,
// by another daemon or because the value's time ran out, the manifest is read again and judged
// anew: the newer value is touched, unless the client has named the older, and one that is gone
// isn't found.
#include <utility>

#include <fmt/format.h>

#include "server/service/edit.h"

namespace cistern::service {
namespace {

// Another daemon that writes the key all the time is not waited for longer than this.
constexpr unsigned kMostLooks = 3;

class Touch : public Edit {
 public:
  Touch(std::shared_ptr<Worker> worker, Key key, const base::Condition& condition,
        std::uint64_t expires_at_ms, Service::Done<proto::Done> done)
      : Edit(std::move(worker), std::move(key)),
        condition_(condition),
        expires_at_ms_(expires_at_ms),
        done_(std::move(done)) {}

 private:
  void run() override {
    ++looks_;
    store().get_manifest(
        key_.text, [self = shared_from_this(), this](Result<std::optional<l2::Manifest>> manifest) {
          on_manifest(std::move(manifest));
        });
  }
  bool looks_at_l2() const override { return true; }
  void unsettled(Error error) override { fail(std::move(error)); }
  void forget() override { done_ = nullptr; }

  void on_manifest(Result<std::optional<l2::Manifest>> manifest);
  void raise();
  void commit();
  void on_commit(const Result<l2::CommitResult>& result);
  void succeed();
  void finish(const Result<proto::Done>& result);
  void fail(Error error) { finish(tl::unexpected(std::move(error))); }

  const base::ValueMeta& meta() const { return manifest_.meta; }
  bool is_inline() const { return meta().size <= l2::kInlineBytes; }
  l2::ChunkSet chunks() const { return {key_.text, meta().version, meta().chunk_count()}; }

  const base::Condition condition_;
  const std::uint64_t expires_at_ms_;
  Service::Done<proto::Done> done_;
  l2::Manifest manifest_;
  bool longer_ = false;
  unsigned looks_ = 0;  // at the manifest
};

void Touch::on_manifest(Result<std::optional<l2::Manifest>> manifest) {
  if (!manifest) {
    if (manifest.error().status == Status::kValueLost) worker_->invalidate(key_);
    return fail(std::move(manifest.error()));
  }
  const bool found = manifest->has_value();
  const auto current = found ? std::optional((*manifest)->meta.version) : std::nullopt;
  if (!condition_.holds(current)) {
    drop_outdated(condition_);
    return fail({Status::kConditionFailed, {}});
  }
  if (!found) {
    worker_->invalidate(key_);
    return fail({Status::kNotFound, {}});
  }
  manifest_ = std::move(**manifest);
  const std::uint64_t old_ms = std::exchange(manifest_.meta.expires_at_ms, expires_at_ms_);
  longer_ = old_ms != 0 && (expires_at_ms_ == 0 || expires_at_ms_ > old_ms);
  if (longer_ && !is_inline()) {
    raise();
  } else {
    commit();
  }
}

void Touch::raise() {
  expire_all(
      store(), chunks(), 0, worker_->chunk_ttl(expires_at_ms_), true,
      [self = shared_from_this(), this](const Result<std::uint64_t>& there) {
        if (!there) return fail(there.error());
        if (*there == meta().chunk_count()) return commit();
        worker_->value_lost(key_, meta().version, base::Loss::kMissing);
        fail(base::lost(base::Loss::kMissing, "chunks of the value are missing in the second tier")
                 .value());
      });
}

void Touch::commit() {
  store().commit(key_.text, {base::Condition::Kind::kIfVersion, meta().version}, manifest_,
                 [self = shared_from_this(), this](const Result<l2::CommitResult>& result) {
                   on_commit(result);
                 });
}

void Touch::on_commit(const Result<l2::CommitResult>& result) {
  if (!result) return fail(result.error());
  switch (result->kind) {
    case l2::CommitKind::kConditionFailed:
      // Another daemon has replaced or removed it since, or it has expired.
      drop_outdated({base::Condition::Kind::kIfVersion, meta().version});
      if (looks_ < kMostLooks) return run();
      return fail({Status::kL2Busy,
                   fmt::format("the value was replaced {} times while its expiry was to be written",
                               kMostLooks)});
    case l2::CommitKind::kUnknown:
      worker_->invalidate(key_);
      return fail(outcome_unknown(result->cause));
    case l2::CommitKind::kCommitted:
      break;
  }
  if (longer_ && expires_at_ms_ == 0) {
    // The entry was put into L1 to stay for as long as it lives. Now it has to leave again in time,
    // for a read to reach L2 and renew it there: so the next read fetches it anew.
    worker_->invalidate(key_);
  } else {
    worker_->gate.change(key_.bytes(), key_.hash, [this] {
      worker_->cache.set_expiry(key_.bytes(), key_.hash, meta().version, expires_at_ms_,
                                worker_->loop.now(), worker_->loop.unix_ms());
    });
  }
  if (longer_ || is_inline()) return succeed();
  // Still in its turn, or it could overtake the raise of a later TOUCH. When it fails the chunks
  // stay for longer than they need to.
  expire_all(store(), chunks(), 0, worker_->chunk_ttl(expires_at_ms_), false,
             [self = shared_from_this(), this](const Result<std::uint64_t>&) { succeed(); });
}

void Touch::succeed() {
  finish(proto::Done{
      .flags = proto::kInL2, .version = meta().version, .expires_at_ms = expires_at_ms_});
}

void Touch::finish(const Result<proto::Done>& result) {
  end();
  const Service::Done<proto::Done> done = std::move(done_);
  done_ = nullptr;
  if (done) done(result);
}

}  // namespace

std::shared_ptr<Edit> make_touch(std::shared_ptr<Worker> worker, Key key,
                                 const base::Condition& condition, std::uint64_t expires_at_ms,
                                 Service::Done<proto::Done> done) {
  return std::make_shared<Touch>(std::move(worker), std::move(key), condition, expires_at_ms,
                                 std::move(done));
}

}  // namespace cistern::service
