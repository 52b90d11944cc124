#include <utility>

#include "server/service/edit.h"

namespace cistern::service {
namespace {

class Remove : public Edit {
 public:
  Remove(std::shared_ptr<Worker> worker, Key key, const base::Condition& condition,
         Service::Done<proto::Done> done)
      : Edit(std::move(worker), std::move(key)), condition_(condition), done_(std::move(done)) {}

 private:
  void run() override {
    store().remove(key_.text, condition_,
                   [self = shared_from_this(), this](const Result<l2::CommitResult>& result) {
                     finish(on_removed(result));
                   });
  }
  void forget() override { done_ = nullptr; }

  Result<proto::Done> on_removed(const Result<l2::CommitResult>& result) {
    if (!result) return tl::unexpected(result.error());
    switch (result->kind) {
      case l2::CommitKind::kConditionFailed:
        drop_outdated(condition_);
        return base::fail(Status::kConditionFailed, {});
      case l2::CommitKind::kUnknown:
        worker_->invalidate(key_);
        return tl::unexpected(outcome_unknown(result->cause));
      case l2::CommitKind::kCommitted:
        break;
    }
    worker_->gate.change(key_.bytes(), key_.hash, [this] {
      worker_->cache.erase(key_.bytes(), key_.hash, {}, l1::Removal::kDeleted, worker_->loop.now());
    });
    release_replaced(result->replaced, 0);
    if (!result->replaced.existed) return base::fail(Status::kNotFound, {});
    return proto::Done{};
  }

  void finish(const Result<proto::Done>& result) {
    end();
    const Service::Done<proto::Done> done = std::move(done_);
    done_ = nullptr;
    if (done) done(result);
  }

  const base::Condition condition_;
  Service::Done<proto::Done> done_;
};

}  // namespace

void refuse_for_size(const std::shared_ptr<Worker>& worker, Key key,
                     const base::Condition& condition, Error refusal,
                     std::function<void(const Error&)> done) {
  // With if-absent there is either nothing to remove or nothing that may be.
  if (condition.kind == base::Condition::Kind::kIfAbsent) return done(refusal);
  if (worker->store == nullptr) {
    worker->gate.change(key.bytes(), key.hash, [&] {
      worker->cache.erase(key.bytes(), key.hash, condition, l1::Removal::kReplaced,
                          worker->loop.now());
    });
    return done(refusal);
  }
  make_remove(
      worker, std::move(key), condition,
      [refusal = std::move(refusal), done = std::move(done)](const Result<proto::Done>& removed) {
        if (removed || !proto::is_retryable(removed.error().status)) return done(refusal);
        done(removed.error());
      })
      ->begin();
}

std::shared_ptr<Edit> make_remove(std::shared_ptr<Worker> worker, Key key,
                                  const base::Condition& condition,
                                  Service::Done<proto::Done> done) {
  return std::make_shared<Remove>(std::move(worker), std::move(key), condition, std::move(done));
}

}  // namespace cistern::service
