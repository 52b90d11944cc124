// base::Loop over an io_context, run by a test on its own thread as long as it wants.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <utility>

#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>

#include "server/base/loop.h"

namespace cistern::testing {

class AsioLoop : public base::Loop {
 public:
  asio::io_context& io() { return io_; }

  void post(base::Task task) override { asio::post(io_, std::move(task)); }

  TimerId after(base::Duration delay, base::Task task) override {
    const auto id = static_cast<TimerId>(++last_timer_);
    auto timer = std::make_unique<asio::steady_timer>(io_, delay);
    timer->async_wait([this, id, task = std::move(task)](const asio::error_code& error) {
      // A cancelled timer is gone from the map even if it has fired already.
      if (error || timers_.erase(id) == 0) return;
      task();
    });
    timers_.emplace(id, std::move(timer));
    return id;
  }
  void cancel(TimerId timer) override { timers_.erase(timer); }

  base::TimePoint now() const override { return std::chrono::steady_clock::now(); }
  std::uint64_t unix_ms() const override {
    const auto since = std::chrono::system_clock::now().time_since_epoch();
    return static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::milliseconds>(since).count());
  }

  // Runs until `done()` holds, asking after every event. False: it didn't within `patience`.
  bool run_until(const std::function<bool()>& done,
                 std::chrono::milliseconds patience = std::chrono::seconds(20)) {
    const auto until = std::chrono::steady_clock::now() + patience;
    while (!done()) {
      if (io_.stopped()) io_.restart();
      if (io_.run_one_until(until) == 0 && std::chrono::steady_clock::now() >= until) return done();
    }
    return true;
  }
  void run_for(std::chrono::milliseconds time) {
    run_until([] { return false; }, time);
  }

 private:
  asio::io_context io_{1};
  asio::executor_work_guard<asio::io_context::executor_type> work_{io_.get_executor()};
  std::map<TimerId, std::unique_ptr<asio::steady_timer>> timers_;
  std::uint64_t last_timer_ = 0;
};

}  // namespace cistern::testing
