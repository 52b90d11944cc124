#include "server/net/asio_loop.h"

#include <algorithm>

namespace cistern::net {

AsioLoop::AsioLoop() : work_(asio::make_work_guard(context_)), kernel_timer_(context_) {}

AsioLoop::~AsioLoop() { destroy_left(); }

void AsioLoop::run() {
  // One handler at a time, so that the cached clock is dropped between them.
  while (context_.run_one() > 0) forget_now();
  destroy_left();
}

void AsioLoop::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  context_.stop();
}

void AsioLoop::destroy_left() {
  // A task's destructor may post, set or cancel in its turn.
  for (;;) {
    std::vector<base::Task> tasks;
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
      tasks.swap(posted_);
    }
    decltype(timers_) timers;
    timers.swap(timers_);
    due_.clear();
    if (tasks.empty() && timers.empty()) return;
  }
}

void AsioLoop::post(base::Task task) {
  {
    const std::lock_guard lock(mutex_);
    if (stopped_) return;
    posted_.push_back(std::move(task));
    if (wake_pending_) return;
    wake_pending_ = true;
  }
  asio::post(context_, [this] { run_posted(); });
}

void AsioLoop::run_posted() {
  std::vector<base::Task> tasks;
  {
    const std::lock_guard lock(mutex_);
    tasks.swap(posted_);
    wake_pending_ = false;
  }
  for (base::Task& task : tasks) {
    task();
    task = nullptr;  // what it holds goes before the next one runs
  }
}

base::Loop::TimerId AsioLoop::after(base::Duration delay, base::Task task) {
  const auto id = static_cast<TimerId>(++last_timer_);
  const base::TimePoint when = now() + std::max(delay, base::Duration{0});
  timers_.emplace(std::pair(when, id), std::move(task));
  due_.emplace(id, when);
  if (when < armed_) arm(when);
  return id;
}

void AsioLoop::cancel(TimerId timer) {
  const auto found = due_.find(timer);
  if (found == due_.end()) return;
  // The kernel timer stays armed and finds nothing to do: cheaper than setting it again.
  auto task = timers_.extract({found->second, timer});
  due_.erase(found);
}

void AsioLoop::arm(base::TimePoint when) {
  armed_ = when;
  kernel_timer_.expires_at(when);
  kernel_timer_.async_wait([this](const asio::error_code& error) {
    if (!error) on_timer();
  });
}

void AsioLoop::on_timer() {
  armed_ = base::TimePoint::max();
  const base::TimePoint until = now();
  while (!timers_.empty() && timers_.begin()->first.first <= until) {
    auto first = timers_.extract(timers_.begin());
    due_.erase(first.key().second);
    first.mapped()();
  }
  if (!timers_.empty() && timers_.begin()->first.first < armed_) arm(timers_.begin()->first.first);
}

base::TimePoint AsioLoop::now() const {
  if (!fresh_) {
    now_ = std::chrono::steady_clock::now();
    fresh_ = true;
  }
  return now_;
}

base::TimePoint AsioLoop::refresh() {
  fresh_ = false;
  return now();
}

std::uint64_t AsioLoop::unix_ms() const {
  if (!unix_fresh_) {
    const auto since = std::chrono::system_clock::now().time_since_epoch();
    unix_ms_ = static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::milliseconds>(since).count());
    unix_fresh_ = true;
  }
  return unix_ms_;
}

}  // namespace cistern::net
