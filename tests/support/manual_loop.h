// A Loop that a test turns by hand: nothing runs, and no time passes, but by its calls.
#pragma once

#include <algorithm>
#include <deque>
#include <map>
#include <mutex>
#include <utility>

#include "server/base/loop.h"

namespace cistern::testing {

// post() from any thread; all else on the thread of the test.
class ManualLoop : public base::Loop {
 public:
  void post(base::Task task) override {
    const std::lock_guard lock(mutex_);
    posted_.push_back(std::move(task));
  }

  TimerId after(base::Duration delay, base::Task task) override {
    const auto id = static_cast<TimerId>(++last_timer_);
    timers_.emplace(std::pair(now_ + std::max(delay, base::Duration{0}), id), std::move(task));
    return id;
  }

  void cancel(TimerId timer) override {
    std::erase_if(timers_, [timer](const auto& entry) { return entry.first.second == timer; });
  }

  base::TimePoint now() const override { return now_; }
  std::uint64_t unix_ms() const override {
    const auto passed = std::chrono::duration_cast<std::chrono::milliseconds>(now_ - kStart);
    return kStartUnixMs + static_cast<std::uint64_t>(passed.count());
  }

  // Runs what is posted, and what that posts, until nothing is left. Returns how many tasks ran.
  std::size_t run_posted() {
    std::size_t count = 0;
    for (;; ++count) {
      base::Task task;
      {
        const std::lock_guard lock(mutex_);
        if (posted_.empty()) return count;
        task = std::move(posted_.front());
        posted_.pop_front();
      }
      task();
    }
  }

  // Runs the one task that was posted first; false when there is none.
  bool run_one() {
    base::Task task;
    {
      const std::lock_guard lock(mutex_);
      if (posted_.empty()) return false;
      task = std::move(posted_.front());
      posted_.pop_front();
    }
    task();
    return true;
  }

  // Lets `duration` pass: timers that fall due run at their own time and in their order, also those
  // that are set meanwhile; posted tasks run before and after each.
  void advance(base::Duration duration) {
    const base::TimePoint end = now_ + duration;
    run_posted();
    while (!timers_.empty() && timers_.begin()->first.first <= end) {
      auto first = timers_.extract(timers_.begin());
      now_ = std::max(now_, first.key().first);
      first.mapped()();
      run_posted();
    }
    now_ = end;
  }

  // Time passes, and nothing runs.
  void skip(base::Duration duration) { now_ += duration; }

  std::size_t posted() const {
    const std::lock_guard lock(mutex_);
    return posted_.size();
  }
  std::size_t timers() const { return timers_.size(); }

 private:
  static constexpr std::uint64_t kStartUnixMs = 1'700'000'000'000;
  static constexpr base::TimePoint kStart{std::chrono::hours(1)};

  mutable std::mutex mutex_;
  std::deque<base::Task> posted_;
  std::map<std::pair<base::TimePoint, TimerId>, base::Task> timers_;
  std::uint64_t last_timer_ = 0;
  base::TimePoint now_ = kStart;
};

}  // namespace cistern::testing
