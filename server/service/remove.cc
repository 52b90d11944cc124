#include <utility>

#include "server/service/edit.h"
#include "server/service/l1_only.h"

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
  bool looks_at_l2() const override { return condition_.kind != base::Condition::Kind::kNone; }
  void unsettled(Error error) override {
    worker_->invalidate(key_);
    finish(tl::unexpected(std::move(error)));
  }
  void forget() override { done_ = nullptr; }

  Result<proto::Done> on_removed(const Result<l2::CommitResult>& result) {
    if (!result) {
      worker_->invalidate(key_);
      return tl::unexpected(result.error());
    }
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
    const bool was_marked = worker_->shared.l1_only->has(key_.text);
    forget_mark();
    auto in_l1 = l1::Cache::Erased::kAbsent;
    worker_->gate.change(key_.bytes(), key_.hash, [&] {
      in_l1 = worker_->cache.erase(key_.bytes(), key_.hash, {}, l1::Removal::kDeleted,
                                   worker_->loop.now());
    });
    release_replaced(result->replaced, 0);
    const bool existed =
        result->replaced.existed || (was_marked && in_l1 == l1::Cache::Erased::kErased);
    if (!existed) return base::fail(Status::kNotFound, {});
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
