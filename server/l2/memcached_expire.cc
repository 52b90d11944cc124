// expire_chunks of MemcachedStore: some chunks at a time, so that others get their turn between
// them.
#include <algorithm>
#include <chrono>
#include <utility>

#include "server/l2/memcached_jobs.h"
#include "server/l2/memcached_store.h"

namespace cistern::l2 {
namespace {

using base::L2Op;
using base::L2Result;

constexpr std::uint64_t kBatch = 32;

}  // namespace

struct MemcachedStore::ExpireRun {
  explicit ExpireRun(ChunkNames chunk_names) : names(std::move(chunk_names)) {}

  ChunkNames names;
  std::string key;
  base::Version version = 0;
  std::uint64_t next = 0;
  std::uint64_t last = 0;
  Duration ttl{};
  base::TimePoint since;
  Callback<std::uint64_t> done;
  std::uint64_t present = 0;
};

void MemcachedStore::expire_chunks(const ChunkSet& set, std::uint64_t first, std::uint64_t last,
                                   Duration ttl, bool only_longer, Callback<std::uint64_t> done) {
  auto run = std::make_shared<ExpireRun>(
      ChunkNames(options_.key_prefix, proto::as_bytes(set.key), set.version));
  run->key = set.key;
  run->version = set.version;
  run->next = first;
  run->last = std::min(last, set.chunk_count);
  run->ttl = ttl;
  run->since = loop_.now();
  run->done = std::move(done);
  if (only_longer) {
    expire_look(run);
  } else {
    expire_batch(run);
  }
}

void MemcachedStore::expire_look(const std::shared_ptr<ExpireRun>& run) {
  get_stamp(run->key, [this, run](const Result<std::optional<Stamp>>& stamp) {
    if (!stamp && stamp.error().status != base::Status::kValueLost) {
      return expire_end(run, tl::unexpected(stamp.error()));
    }
    if (stamp && *stamp && (*stamp)->version == run->version) {
      const std::uint64_t expires_at_ms = (*stamp)->expires_at_ms;
      const std::uint64_t now_ms = loop_.unix_ms();
      Duration live = options_.max_idle;
      if (expires_at_ms != 0) {
        const std::uint64_t left_ms = expires_at_ms > now_ms ? expires_at_ms - now_ms : 0;
        live =
            std::chrono::milliseconds(std::min(left_ms, proto::kMaxTtlMs)) + options_.replace_grace;
      }
      run->ttl = std::max(run->ttl, live);
    }
    expire_batch(run);
  });
}

void MemcachedStore::expire_batch(const std::shared_ptr<ExpireRun>& run) {
  if (run->next >= run->last) return expire_end(run, run->present);
  std::vector<std::string> names;
  while (run->next < run->last && names.size() < kBatch) {
    names.push_back(run->names.name(run->next++));
  }
  // Not counted one by one: a run is one operation.
  const Id id = ++last_id_;
  const auto finish = [this, id, run](const Result<std::uint64_t>& there) {
    const auto found = pending_.find(id);
    if (found == pending_.end()) return;
    loop_.cancel(found->second.timer);
    found->second.job->forget();
    pending_.erase(found);
    if (!there) return expire_end(run, tl::unexpected(there.error()));
    run->present += *there;
    expire_batch(run);
  };
  pending_[id].fail = [finish](const base::Error& why) { finish(tl::unexpected(why)); };
  auto job = std::make_shared<ChunkTouch>(
      std::move(names), run->ttl, [mailbox = mailbox_, finish](const Result<std::uint64_t>& there) {
        mailbox->post([finish, there] { finish(there); }, mailbox);
      });
  start(id, run->key, std::move(job), Patience::kBegin);
}

void MemcachedStore::expire_end(const std::shared_ptr<ExpireRun>& run,
                                Result<std::uint64_t> result) {
  metrics_.count_l2(L2Op::kExpire, result_label(result), loop_.now() - run->since);
  // Never inside of expire_chunks(): an empty range ends at once.
  const Id id = ++last_id_;
  pending_[id].fail = [](const base::Error&) {};
  post([this, id, run, result = std::move(result)] {
    pending_.erase(id);
    run->done(result);
    check_closed();
  });
}

}  // namespace cistern::l2
