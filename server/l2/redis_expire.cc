// expire_chunks of RedisStore: a batch at a time over the connection for commands.
#include <algorithm>
#include <utility>

#include "server/l2/redis_store.h"

namespace cistern::l2 {
namespace {

// Commands that are under way for one set; small, so that others get their turn between them.
constexpr std::uint64_t kBatch = 128;

}  // namespace

struct RedisStore::ExpireRun {
  ExpireRun(ChunkNames chunk_names) : names(std::move(chunk_names)) {}

  ChunkNames names;
  std::uint64_t next = 0;
  std::uint64_t last = 0;
  std::string ttl_ms;
  bool only_longer = false;
  base::TimePoint since;
  Callback<std::uint64_t> done;
  std::uint64_t present = 0;
  // Of this batch: not changed, because it isn't there or because its expiry is later already.
  std::vector<std::uint64_t> unchanged;
  std::optional<base::Error> error;
};

void RedisStore::expire_chunks(const ChunkSet& set, std::uint64_t first, std::uint64_t last,
                               Duration ttl, bool only_longer, Callback<std::uint64_t> done) {
  auto run = std::make_shared<ExpireRun>(
      ChunkNames(options_->key_prefix, proto::as_bytes(set.key), set.version));
  run->next = first;
  run->last = std::min(last, set.chunk_count);
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(ttl).count();
  run->ttl_ms = std::to_string(std::max<std::int64_t>(1, ms));
  run->only_longer = only_longer;
  run->since = loop_.now();
  run->done = std::move(done);
  expire_batch(run);
}

void RedisStore::expire_batch(const std::shared_ptr<ExpireRun>& run) {
  if (run->next >= run->last) return expire_end(run, run->present);
  const std::uint64_t first = run->next;
  run->next = std::min(run->last, first + kBatch);
  run->unchanged.clear();
  RedisControl::Exchange exchange;
  exchange.commands = [run, first](base::TimePoint) {
    std::vector<RedisLink::Args> commands;
    for (std::uint64_t i = first; i < run->next; ++i) {
      commands.push_back({"PEXPIRE", run->names.name(i), run->ttl_ms});
      if (run->only_longer) commands.back().push_back("GT");
    }
    return commands;
  };
  exchange.on_reply = [run, first](std::size_t index, const redisReply& reply) {
    if (auto error = reply_error(reply); error && !run->error) run->error = std::move(error);
    if (reply.type != REDIS_REPLY_INTEGER) return;
    if (reply.integer == 1) {
      ++run->present;
    } else {
      run->unchanged.push_back(first + index);
    }
  };
  exchange.on_end = [this, run](const RedisControl::Outcome& outcome) {
    if (!run->error) run->error = outcome.error;
    if (run->error) return expire_end(run, tl::unexpected(*run->error));
    if (run->only_longer && !run->unchanged.empty()) return expire_count(run);
    expire_batch(run);
  };
  control_->submit(std::move(exchange));
}

// One key to a command, as everywhere: the chunks of a value may lie on several nodes.
void RedisStore::expire_count(const std::shared_ptr<ExpireRun>& run) {
  RedisControl::Exchange exchange;
  exchange.commands = [run](base::TimePoint) {
    std::vector<RedisLink::Args> commands;
    for (const std::uint64_t i : run->unchanged) commands.push_back({"EXISTS", run->names.name(i)});
    return commands;
  };
  exchange.on_reply = [run](std::size_t, const redisReply& reply) {
    if (auto error = reply_error(reply); error && !run->error) run->error = std::move(error);
    if (reply.type == REDIS_REPLY_INTEGER && reply.integer == 1) ++run->present;
  };
  exchange.on_end = [this, run](const RedisControl::Outcome& outcome) {
    if (!run->error) run->error = outcome.error;
    if (run->error) return expire_end(run, tl::unexpected(*run->error));
    expire_batch(run);
  };
  control_->submit(std::move(exchange));
}

void RedisStore::expire_end(const std::shared_ptr<ExpireRun>& run, Result<std::uint64_t> result) {
  base::L2Result label = base::L2Result::kOk;
  if (!result) {
    const bool is_timeout = result.error().status == base::Status::kL2Timeout;
    const bool is_error = result.error().status == base::Status::kL2Error;
    label = is_timeout ? base::L2Result::kTimeout
            : is_error ? base::L2Result::kError
                       : base::L2Result::kUnavailable;
  }
  count(base::L2Op::kExpire, label, run->since);
  loop_.post([done = std::move(run->done), result = std::move(result)]() mutable {
    done(std::move(result));
  });
}

}  // namespace cistern::l2
