#include "server/service/edit.h"

#include <utility>

#include <fmt/format.h>

namespace cistern::service {

void Edit::begin() {
  job_ = worker_->begin_job(shared_from_this());
  waiter_ = worker_->gate.enter(key_.bytes(), key_.hash, worker_->loop,
                                [weak = weak_from_this()](WriteGate::Turn turn) {
                                  const auto self = weak.lock();
                                  if (!self) return;
                                  self->turn_ = std::move(turn);
                                  self->begun_ = true;
                                  self->run();
                                });
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

Error outcome_unknown(const std::string& cause) {
  return {
      Status::kOutcomeUnknown,
      fmt::format("the second tier did not confirm the commit; it may or may not have happened: "
                  "{}",
                  cause)};
}

}  // namespace cistern::service
