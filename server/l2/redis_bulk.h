// One connection that carries nothing but chunks: SET from the chunk's own memory, GET into it.
//
// Operations are pipelined and answered in order. While the first attempt to connect after the
// start or after a loss is under way, operations wait for it; once one has failed they fail at
// once, until another has succeeded, and so they do while the endpoint's breaker is open
// (breaker.h). When no byte moves for op_timeout while answers are due, the connection is cut,
// everything on it fails, and a new one is made.
//
// The loop's thread only.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>

#include <asio/generic/stream_protocol.hpp>
#include <asio/io_context.hpp>

#include "server/base/loop.h"
#include "server/base/metrics.h"
#include "server/l2/breaker.h"
#include "server/l2/redis_connect.h"
#include "server/l2/redis_options.h"
#include "server/l2/redis_receiver.h"

namespace cistern::l2 {

class RedisBulk : public std::enable_shared_from_this<RedisBulk> {
 public:
  // A command and its reply. Held by who submits it, to cancel it.
  struct Op {
    std::string head;      // sent first
    base::ChunkPtr chunk;  // then its bytes, if any
    std::string tail;      // then this
    ReplyReceiver::Expected expected;
    // Called once, on the loop, never inside submit(); empty when cancelled.
    std::function<void(base::Result<StoredChunk>)> done;
    bool is_handshake = false;
  };
  using OpPtr = std::shared_ptr<Op>;

  // All of them outlive it.
  RedisBulk(std::shared_ptr<const RedisOptions> options, std::shared_ptr<Breaker> breaker,
            asio::io_context& io, base::Loop& loop, base::WorkerMetrics& metrics);
  ~RedisBulk();

  void start();
  // Error: why an operation would fail at once.
  base::Result<void> usable() const;
  // Operations that wait or are under way.
  std::size_t load() const { return waiting_.size() + ops_.size(); }
  void submit(OpPtr op);
  // `done` is not called any more. What was not sent won't be; the rest is received and dropped.
  void cancel(const OpPtr& op);
  // Fails everything (kShuttingDown). Nothing is called afterwards but what was posted already.
  void close();

 private:
  using Socket = asio::generic::stream_protocol::socket;
  using SocketPtr = std::shared_ptr<Socket>;
  enum class State { kNew, kConnecting, kHandshake, kReady, kBackoff, kClosed };

  void attempt();
  void connect_to(std::vector<RedisAddress> addresses, std::size_t index);
  void connected();
  void handshake();
  void handshake_command(std::initializer_list<std::string_view> words, bool last);
  void ready();
  void cut(const base::Error& why);
  void tell_breaker(const base::Error& why, bool was_up);
  void schedule_attempt();
  void fail_all(std::deque<OpPtr>& ops, const base::Error& why);
  void complete(const OpPtr& op, base::Result<StoredChunk> result);

  void flush();
  void sent(std::size_t bytes);
  void wait_writable();
  void wait_readable();
  void on_readable();
  bool deliver();
  void watch_progress();
  base::Error describe(base::Status status, std::string_view what) const;

  const std::shared_ptr<const RedisOptions> options_;
  const std::shared_ptr<Breaker> breaker_;
  asio::io_context& io_;
  base::Loop& loop_;
  base::WorkerMetrics& metrics_;
  Backoff backoff_;
  Breaker::Probe probe_;                   // this attempt is one
  std::shared_ptr<Breaker::Waiter> turn_;  // while the breaker is open

  State state_ = State::kNew;
  bool waiting_allowed_ = true;  // this attempt is the first since the start or a loss
  base::Error last_error_;
  std::uint64_t attempt_ = 0;  // handlers of earlier ones do nothing
  base::Loop::TimerId attempt_timer_ = base::Loop::TimerId::kNone;
  base::TimePoint ready_since_;
  bool was_ready_ = false;

  SocketPtr socket_;  // handlers of another one do nothing
  bool is_writing_ = false;
  std::deque<OpPtr> waiting_;  // for a connection
  std::deque<OpPtr> ops_;      // on the connection, unanswered; the first `sent_ops_` wholly sent
  std::size_t sent_ops_ = 0;
  std::size_t sent_bytes_ = 0;  // of ops_[sent_ops_]
  ReplyReceiver receiver_;
  base::TimePoint last_progress_;
  base::Loop::TimerId progress_timer_ = base::Loop::TimerId::kNone;
};

}  // namespace cistern::l2
