#include "server/service/edit.h"

#include <utility>

#include <fmt/format.h>

#include "server/service/l1_only.h"

namespace cistern::service {

void Edit::begin() {
  job_ = worker_->begin_job(shared_from_this());
  waiter_ = worker_->gate.enter(key_.bytes(), key_.hash, worker_->loop,
                                [weak = weak_from_this()](WriteGate::Turn turn) {
                                  const auto self = weak.lock();
                                  if (!self) return;
                                  self->turn_ = std::move(turn);
                                  self->begun_ = true;
                                  self->take_turn();
                                });
}

void Edit::take_turn() {
  if (!looks_at_l2() || !worker_->shared.l1_only->has(key_.text)) return run();
  settle([self = shared_from_this()](Result<void> settled) {
    if (!settled) return self->unsettled(std::move(settled.error()));
    self->worker_->invalidate(self->key_);
    self->run();
  });
}

void Edit::settle(std::function<void(Result<void>)> done) {
  const std::optional<L1OnlyKeys::Mark> mark = worker_->shared.l1_only->find(key_.text);
  if (!mark) return done({});
  store().remove(
      key_.text, {},
      [self = shared_from_this(), mark = *mark,
       done = std::move(done)](const Result<l2::CommitResult>& removed) {
        if (!removed || removed->kind != l2::CommitKind::kCommitted) {
          return done(base::fail(
              removed ? Status::kL2Unavailable : removed.error().status,
              fmt::format("what the second tier has of this key is older than a value "
                          "that was stored in memory alone, and could not be removed: {}",
                          removed ? removed->cause : removed.error().message)));
        }
        self->worker_->shared.l1_only->settle(self->key_.text, mark);
        self->release_replaced(removed->replaced, 0);
        done({});
      });
}

void Edit::forget_mark() {
  L1OnlyKeys& marked = *worker_->shared.l1_only;
  if (const auto mark = marked.find(key_.text)) marked.settle(key_.text, *mark);
}

void Edit::leave() {
  forget();
  if (begun_) return;
  const auto self = shared_from_this();
  waiter_.reset();
  job_.end();
}

void Edit::end() {
  turn_.release();
  job_.end();
}

void Edit::release_replaced(const l2::Replaced& replaced, base::Version kept) {
  if (!replaced.chunks || replaced.chunks->version == kept) return;
  worker_->upkeep.expire(*replaced.chunks, 0, worker_->options.replace_grace, false);
}

void Edit::drop_outdated(const base::Condition& condition) {
  if (condition.kind != base::Condition::Kind::kIfVersion) return;
  worker_->gate.change(key_.bytes(), key_.hash, [&] {
    worker_->cache.erase(key_.bytes(), key_.hash, condition, l1::Removal::kInvalidated,
                         worker_->loop.now());
  });
}

namespace {

class Settling : public Edit {
 public:
  Settling(std::shared_ptr<Worker> worker, Key key, std::function<void(const Result<void>&)> done)
      : Edit(std::move(worker), std::move(key)), done_(std::move(done)) {}

 private:
  void run() override {
    settle([self = shared_from_this(), this](const Result<void>& settled) {
      end();
      if (const auto done = std::exchange(done_, nullptr)) done(settled);
    });
  }
  bool looks_at_l2() const override { return false; }
  void unsettled(Error) override {}
  void forget() override { done_ = nullptr; }

  std::function<void(const Result<void>&)> done_;
};

}  // namespace

std::shared_ptr<Edit> make_settling(std::shared_ptr<Worker> worker, Key key,
                                    std::function<void(const Result<void>&)> done) {
  return std::make_shared<Settling>(std::move(worker), std::move(key), std::move(done));
}

Error outcome_unknown(const std::string& cause) {
  return {
      Status::kOutcomeUnknown,
      fmt::format("the second tier did not confirm the commit; it may or may not have happened: "
                  "{}",
                  cause)};
}

}  // namespace cistern::service
