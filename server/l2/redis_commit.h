// The one atomic operation by which manifests change: a script that touches one key, and what is
// known when its answer doesn't come.
//
// Every request carries the latest time, by Redis' own clock, at which it may be executed, a margin
// before its deadline here. So a request that was left behind in a broken connection is refused
// when Redis gets to it after the deadline, and "unknown" is said only then.
//
// The loop's thread only.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "server/base/loop.h"
#include "server/l2/redis_control.h"
#include "server/l2/store.h"

namespace cistern::l2 {

// What RedisControl loads into Redis.
std::string_view commit_script();

class RedisCommitter : public std::enable_shared_from_this<RedisCommitter> {
 public:
  struct Request {
    std::string name;  // of the manifest
    base::Condition condition;
    // Instead of `condition`: the first kManifestFixedBytes of what is there are these.
    std::string only_if_begins;
    std::string manifest;             // empty: remove
    std::uint64_t expires_at_ms = 0;  // 0: after max_idle
  };
  struct Answer {
    CommitKind kind = CommitKind::kUnknown;
    bool existed = false;  // a manifest was there; then:
    base::Version version = 0;
    std::uint64_t chunk_count = 0;
    std::string cause;  // of kUnknown
  };
  using Done = std::function<void(base::Result<Answer>)>;

  RedisCommitter(std::shared_ptr<const RedisOptions> options, std::shared_ptr<RedisControl> control,
                 base::Loop& loop);

  // `done` is called once, possibly at once. Errors are definite.
  void run(Request request, Done done);
  // Calls `idle`, later, when no request is under way.
  void when_idle(std::function<void()> idle);

 private:
  struct Run {
    Request request;
    Done done;
    std::uint64_t not_after_ms = 0;
    bool has_script = false;  // this attempt carries the script's text
    bool is_resent = false;
    base::Result<Answer> answer = Answer();
    bool is_answered = false;
  };
  using RunPtr = std::shared_ptr<Run>;

  void submit(const RunPtr& run);
  RedisLink::Args command(Run& run);
  void take_reply(Run& run, const redisReply& reply);
  void ended(const RunPtr& run, const RedisControl::Outcome& outcome);
  void finish(const RunPtr& run, base::Result<Answer> answer);

  const std::shared_ptr<const RedisOptions> options_;
  const std::shared_ptr<RedisControl> control_;
  base::Loop& loop_;
  std::size_t under_way_ = 0;
  std::function<void()> idle_;
};

}  // namespace cistern::l2
