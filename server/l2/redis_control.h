// The connection for commands and small values: its life, and pipelined exchanges over it.
//
// While the first attempt to connect after the start or after a loss is under way, exchanges wait
// for it; once one has failed they fail at once, until another has succeeded, and so they do while
// the endpoint's breaker is open (breaker.h). An exchange has
// op_timeout from when it is sent; the connection on which one isn't answered in time is cut.
//
// The loop's thread only.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/base/loop.h"
#include "server/base/metrics.h"
#include "server/l2/breaker.h"
#include "server/l2/redis_clock.h"
#include "server/l2/redis_link.h"
#include "server/l2/redis_options.h"

namespace cistern::l2 {

class RedisControl : public std::enable_shared_from_this<RedisControl> {
 public:
  using Args = RedisLink::Args;

  struct Outcome {
    std::optional<base::Error> error;  // of the connection; replies that are errors are replies
    // Whether Redis may have seen the commands; then they can have been, or still be, executed.
    bool was_sent = false;
    base::TimePoint deadline;  // of the exchange, if it was sent
  };
  // Some commands that leave together, and their replies. Everything is called on the loop; on_end
  // once, possibly inside submit().
  struct Exchange {
    // Called when they are about to be sent, with the deadline of their replies.
    std::function<std::vector<Args>(base::TimePoint deadline)> commands;
    std::function<void(std::size_t index, const redisReply& reply)> on_reply;
    std::function<void(const Outcome& outcome)> on_end;
  };

  // All of them outlive it. `script` is loaded into every Redis that it connects to.
  RedisControl(std::shared_ptr<const RedisOptions> options, std::shared_ptr<Breaker> breaker,
               std::string script, asio::io_context& io, base::Loop& loop,
               base::WorkerMetrics& metrics);
  ~RedisControl();

  void start();
  base::Result<void> usable() const;
  void submit(Exchange exchange);
  // Refuses new exchanges, fails those that wait (kShuttingDown), and calls `closed`, later, when
  // those that were sent have ended and the connection is closed.
  void close(std::function<void()> closed);

  // Measured whenever a connection is made, and by measure_clock().
  RedisClock& clock() { return clock_; }
  bool is_ready() const { return state_ == State::kReady; }
  // Asks for Redis' time; `done` is called in any case, possibly at once.
  void measure_clock(std::function<void()> done);
  // Names the script in EVALSHA.
  const std::string& script_sha() const { return script_sha_; }
  base::Error describe(base::Status status, std::string_view what) const;

 private:
  enum class State { kNew, kConnecting, kHandshake, kReady, kBackoff, kClosing, kClosed };
  struct Pending {
    Exchange exchange;
    std::size_t unanswered = 0;
    std::size_t bytes = 0;
    base::TimePoint deadline;
  };
  using PendingPtr = std::shared_ptr<Pending>;

  void attempt();
  void connect_to(std::vector<RedisAddress> addresses, std::size_t index);
  void handshake();
  std::vector<Args> handshake_commands() const;
  void handshake_reply(const std::string& command, const redisReply& reply);
  void check_version(std::string_view info);
  void ready();
  void link_closed(const std::string& why);
  void cut(const base::Error& why);
  void went_down(const base::Error& why);
  void tell_breaker(const base::Error& why, bool was_up);
  void schedule_attempt();

  void send(Exchange exchange);
  void answered(const PendingPtr& pending, std::size_t index, const redisReply* reply);
  void watch_deadline();
  void finish_close();

  const std::shared_ptr<const RedisOptions> options_;
  const std::shared_ptr<Breaker> breaker_;
  const std::string script_;
  asio::io_context& io_;
  base::Loop& loop_;
  base::WorkerMetrics& metrics_;
  Backoff backoff_;
  Breaker::Probe probe_;                   // this attempt is one
  std::shared_ptr<Breaker::Waiter> turn_;  // while the breaker is open
  RedisClock clock_;
  std::string script_sha_;

  State state_ = State::kNew;
  bool waiting_allowed_ = true;  // this attempt is the first since the start or a loss
  base::Error last_error_;
  std::uint64_t attempt_ = 0;  // callbacks of earlier ones do nothing
  base::Loop::TimerId attempt_timer_ = base::Loop::TimerId::kNone;
  base::TimePoint ready_since_;
  bool was_ready_ = false;
  std::optional<base::Error> handshake_error_;
  base::TimePoint handshake_sent_;

  std::shared_ptr<RedisLink> link_;
  std::deque<Exchange> waiting_;      // for a connection
  std::deque<PendingPtr> in_flight_;  // sent, in order; their deadlines are, too
  std::size_t in_flight_bytes_ = 0;
  std::optional<base::Error> cut_reason_;
  base::Loop::TimerId deadline_timer_ = base::Loop::TimerId::kNone;
  std::function<void()> closed_;
};

// The error that a reply is, if it is one.
std::optional<base::Error> reply_error(const redisReply& reply);
// The bytes of a string or status reply; empty for every other.
std::string_view reply_text(const redisReply& reply);

}  // namespace cistern::l2
