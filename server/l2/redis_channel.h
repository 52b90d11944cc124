// The channel by which Redis tells of every manifest that is written or removed, by whomever:
// client tracking in broadcast mode, over two connections.
//
//   subscriber   SUBSCRIBE __redis__:invalidate
//   tracker      CLIENT TRACKING ON REDIRECT <subscriber> BCAST PREFIX <manifests> PREFIX <beats>
//
// It fails in silence in many ways: either connection dies, Redis cuts the subscriber because its
// output buffer is full, the redirection breaks. So nothing is believed but a heartbeat that came
// through the channel itself: the tracker SETs a key of this daemon's own, with a name that is used
// once, and when a message names that key, all that Redis executed before it has been told. (A
// message of a cycle of Redis' may come after the heartbeat's of the same cycle; but what is told
// there was not acknowledged before the heartbeat was executed.) As of when the heartbeat was sent
// the channel is complete.
//
// A user of Redis' own needs the commands CLIENT|ID, CLIENT|TRACKING, SUBSCRIBE and SET, the
// channel &__redis__:invalidate and the keys <l2.redis.key_prefix>* for it. Without it, or while it
// is lost, entries of L1 are known by their own proofs alone.
//
// The loop's thread only.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "server/base/loop.h"
#include "server/base/metrics.h"
#include "server/l2/backoff.h"
#include "server/l2/invalidations.h"
#include "server/l2/redis_link.h"
#include "server/l2/redis_options.h"

namespace cistern::l2 {

class RedisChannel : public std::enable_shared_from_this<RedisChannel> {
 public:
  // All of them outlive it; options->heartbeat isn't 0.
  RedisChannel(std::shared_ptr<const RedisOptions> options, Invalidations& to, asio::io_context& io,
               base::Loop& loop, base::WorkerMetrics& metrics);

  void start();
  // Calls `closed`, later, when both connections are closed.
  void close(std::function<void()> closed);

 private:
  void attempt();
  void open_subscriber(const RedisAddress& address);
  void subscribe();
  void open_tracker(const RedisAddress& address);
  void track();
  void beat();
  void on_message(const redisReply& reply);
  void invalidated(std::string_view name, TimePoint now);
  void beat_came(TimePoint now);

  std::shared_ptr<RedisLink> open(const RedisAddress& address, std::function<void()> connected);
  void log_in(RedisLink& link);
  // Sends a command whose error is the channel's end, and otherwise goes on.
  void demand(RedisLink& link, RedisLink::Args command,
              std::function<void(const redisReply&)> then);
  void lost(const std::string& why);
  void watch(base::Duration patience, const char* what);
  void finish_close();

  const std::shared_ptr<const RedisOptions> options_;
  Invalidations& to_;
  asio::io_context& io_;
  base::Loop& loop_;
  base::WorkerMetrics& metrics_;
  const std::string manifests_;  // prefix of their names
  const std::string beats_;      // prefix of the heartbeats' names: "<prefix>t:<16 hex>:"
  Backoff backoff_;

  std::uint64_t attempt_ = 0;  // callbacks of earlier ones do nothing
  std::shared_ptr<RedisLink> subscriber_, tracker_;
  std::optional<RedisAddress> address_;
  unsigned open_links_ = 0;
  long long subscriber_id_ = 0;
  std::string step_;  // what is being done, for the message

  std::uint64_t beat_ = 0;  // the last one's number
  bool is_beat_out_ = false;
  base::TimePoint beat_sent_at_;
  base::TimePoint up_since_;
  bool is_up_ = false;
  bool is_closing_ = false;
  base::Loop::TimerId timer_ = base::Loop::TimerId::kNone;     // of the next attempt or heartbeat
  base::Loop::TimerId patience_ = base::Loop::TimerId::kNone;  // of what is waited for
  std::function<void()> closed_;
};

}  // namespace cistern::l2
