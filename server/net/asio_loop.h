// base::Loop over an asio::io_context that one thread runs.
#pragma once

#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include <asio.hpp>

#include "server/base/loop.h"

namespace cistern::net {

class AsioLoop final : public base::Loop {
 public:
  AsioLoop();
  ~AsioLoop() override;
  AsioLoop(const AsioLoop&) = delete;
  AsioLoop& operator=(const AsioLoop&) = delete;

  // Runs until stop(); this thread is the loop's. Once.
  void run();
  // Any thread. What is posted and timed and has not run is destroyed by run() before it returns.
  void stop();

  // For sockets; its handlers run on the loop's thread.
  asio::io_context& context() { return context_; }

  // base::Loop
  void post(base::Task task) override;
  TimerId after(base::Duration delay, base::Task task) override;
  void cancel(TimerId timer) override;
  base::TimePoint now() const override;
  std::uint64_t unix_ms() const override;

  // Another turn begins within one of Asio's: the clocks are to be read again.
  void forget_now() { fresh_ = unix_fresh_ = false; }
  // Reads the clock again within a turn, for what is measured inside one.
  base::TimePoint refresh();

 private:
  void run_posted();
  void arm(base::TimePoint when);
  void on_timer();
  void destroy_left();

  asio::io_context context_{1};
  asio::executor_work_guard<asio::io_context::executor_type> work_;

  std::mutex mutex_;
  std::vector<base::Task> posted_;
  bool wake_pending_ = false;
  bool stopped_ = false;

  // One kernel timer for all: deadlines are mostly cancelled, and then cost two map operations.
  std::map<std::pair<base::TimePoint, TimerId>, base::Task> timers_;
  std::unordered_map<TimerId, base::TimePoint> due_;
  std::uint64_t last_timer_ = 0;
  asio::steady_timer kernel_timer_;
  base::TimePoint armed_ = base::TimePoint::max();

  mutable base::TimePoint now_;
  mutable bool fresh_ = false;
  mutable std::uint64_t unix_ms_ = 0;
  mutable bool unix_fresh_ = false;
};

}  // namespace cistern::net
