#include "server/l2/breaker.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "server/base/check.h"
#include "server/base/log.h"

namespace cistern::l2 {
namespace {

double seconds_of(base::Duration duration) {
  return std::chrono::duration<double>(std::max(base::Duration::zero(), duration)).count();
}

}  // namespace

// As the gate's waiters: the breaker holds a plain pointer, posted tasks and timers a weak one, so
// that it is never destroyed on another thread than its own.
class Breaker::Waiter {
 public:
  Waiter(std::shared_ptr<Breaker> breaker, base::Loop& loop, Go go)
      : breaker_(std::move(breaker)), loop_(loop), go_(std::move(go)) {}
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;
  ~Waiter() {
    loop_.cancel(timer_);
    const std::lock_guard lock(breaker_->mutex_);
    breaker_->waiters_.erase(place_);
  }

  // Looks whether it is its turn; else it looks again when the next probe is due, or is woken.
  void look() {
    loop_.cancel(std::exchange(timer_, base::Loop::TimerId::kNone));
    if (!go_) return;
    const base::TimePoint now = loop_.now();
    Probe probe = breaker_->try_probe(now);
    if (probe || breaker_->is_closed()) {
      const Go go = std::exchange(go_, nullptr);
      return go(std::move(probe));
    }
    base::TimePoint due;
    {
      const std::lock_guard lock(breaker_->mutex_);
      if (breaker_->state_ != State::kOpen) return;  // woken when that ends
      due = breaker_->due_;
    }
    timer_ = loop_.after(std::max(base::Duration::zero(), due - now), [weak = self_] {
      if (const auto self = weak.lock()) self->look();
    });
  }
  void look_later() {
    loop_.post([weak = self_] {
      if (const auto self = weak.lock()) self->look();
    });
  }

 private:
  friend class Breaker;
  const std::shared_ptr<Breaker> breaker_;
  base::Loop& loop_;
  Go go_;
  base::Loop::TimerId timer_ = base::Loop::TimerId::kNone;
  std::weak_ptr<Waiter> self_;
  std::list<Waiter*>::iterator place_;
};

Breaker::Breaker(std::string endpoint) : endpoint_(std::move(endpoint)) {}

Breaker::~Breaker() { CHECK(waiters_.empty()); }

std::shared_ptr<Breaker> Breaker::make(std::string endpoint) {
  std::shared_ptr<Breaker> breaker(new Breaker(std::move(endpoint)));
  breaker->self_ = breaker;
  return breaker;
}

// ---------------------------------------------------------------------------------------- Probes

Breaker::Probe& Breaker::Probe::operator=(Probe&& other) noexcept {
  if (this != &other) {
    give_back();
    breaker_ = std::move(other.breaker_);
  }
  return *this;
}

void Breaker::Probe::succeeded(base::TimePoint now) {
  const auto breaker = std::exchange(breaker_, nullptr);
  CHECK(breaker != nullptr);
  const std::lock_guard lock(breaker->mutex_);
  breaker->close(now);
}

void Breaker::Probe::failed(base::TimePoint now, const std::string& why) {
  const auto breaker = std::exchange(breaker_, nullptr);
  CHECK(breaker != nullptr);
  const std::lock_guard lock(breaker->mutex_);
  if (breaker->state_ == State::kClosed) return breaker->open(now, why, false);
  breaker->state_ = State::kOpen;
  breaker->why_ = why;
  breaker->schedule(now);
}

void Breaker::Probe::give_back() {
  const auto breaker = std::exchange(breaker_, nullptr);
  if (breaker == nullptr) return;
  const std::lock_guard lock(breaker->mutex_);
  if (breaker->state_ != State::kProbing) return;
  breaker->state_ = State::kOpen;  // due since before
  breaker->wake_waiters();
}

Breaker::Probe Breaker::try_probe(base::TimePoint now) {
  if (is_closed()) return {};
  const std::lock_guard lock(mutex_);
  if (state_ != State::kOpen || now < due_) return {};
  state_ = State::kProbing;
  ++probes_;
  return Probe(self_.lock());
}

std::shared_ptr<Breaker::Waiter> Breaker::wait(base::Loop& loop, Go go) {
  auto waiter = std::make_shared<Waiter>(self_.lock(), loop, std::move(go));
  waiter->self_ = waiter;
  {
    const std::lock_guard lock(mutex_);
    waiter->place_ = waiters_.insert(waiters_.end(), waiter.get());
  }
  waiter->look_later();
  return waiter;
}

void Breaker::wake_waiters() {
  for (Waiter* const waiter : waiters_) waiter->look_later();
}

// --------------------------------------------------------------------------------------- Findings

base::Result<void> Breaker::allows(base::TimePoint now, bool connected) const {
  if (is_closed()) return {};
  const std::lock_guard lock(mutex_);
  if (state_ == State::kClosed || (connected && !for_connected_)) return {};
  std::string next = "a probe is under way";
  if (state_ == State::kOpen) {
    next = fmt::format("the next probe is due in {:.1f} s", seconds_of(due_ - now));
  }
  return base::fail(
      base::Status::kL2Unavailable,
      fmt::format("{} (not asked since {:.1f} s; {})", why_, seconds_of(now - since_), next));
}

void Breaker::connected(base::TimePoint now) {
  if (is_closed()) return;
  const std::lock_guard lock(mutex_);
  close(now);
}

void Breaker::connect_failed(base::TimePoint now, const std::string& why) {
  const std::lock_guard lock(mutex_);
  if (state_ == State::kClosed) open(now, why, false);
}

void Breaker::timed_out(base::TimePoint now, const std::string& why) {
  const std::lock_guard lock(mutex_);
  ++timeouts_;
  awaits_answer_ = true;
  if (timeouts_ < kTimeouts && !on_trial_) return;
  if (state_ == State::kClosed) {
    open(now, why, true);
  } else {
    for_connected_ = true;
  }
}

void Breaker::answered() {
  if (!awaits_answer_.load(std::memory_order_relaxed)) return;
  const std::lock_guard lock(mutex_);
  timeouts_ = 0;
  awaits_answer_ = false;
  // What was sent before it opened may still be answered.
  if (state_ != State::kClosed) return;
  on_trial_ = false;
  backoff_.reset();
}

void Breaker::open(base::TimePoint now, const std::string& why, bool for_connected) {
  state_ = State::kOpen;
  for_connected_ = for_connected;
  on_trial_ = false;
  why_ = why;
  since_ = now;
  ++opens_;
  base::log::warn("l2_breaker_opened", {{"endpoint", endpoint_}, {"why", why}});
  schedule(now);
}

void Breaker::close(base::TimePoint now) {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  on_trial_ = true;
  awaits_answer_ = true;
  timeouts_ = 0;
  base::log::info("l2_breaker_closed",
                  {{"endpoint", endpoint_}, {"open_seconds", seconds_of(now - since_)}});
  wake_waiters();
}

void Breaker::schedule(base::TimePoint now) {
  due_ = now + backoff_.next();
  wake_waiters();
}

Breaker::Figures Breaker::figures() const {
  const std::lock_guard lock(mutex_);
  return {state_, opens_, probes_};
}

}  // namespace cistern::l2
