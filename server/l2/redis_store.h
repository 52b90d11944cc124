// Redis (7.0 or later) as the second tier.
//
//   RedisStore ---- RedisControl -- RedisLink (hiredis): commands, manifests, expiries
//        |             ^  RedisClock
//        |---- RedisCommitter: the script, and what is said when its answer doesn't come
//        +---- RedisBulk ... RedisBulk: one connection each, nothing but chunks
//
// A user of Redis' own for it needs the keys <l2.redis.key_prefix>* and the commands AUTH, SELECT,
// INFO, PING, TIME, SCRIPT LOAD, EVAL, EVALSHA, GET, GETRANGE, SET, DEL, EXISTS, PTTL and PEXPIRE.
// No command and no script touches more than one key.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "server/l2/breaker.h"
#include "server/l2/keys.h"
#include "server/l2/redis_bulk.h"
#include "server/l2/redis_commit.h"
#include "server/l2/redis_control.h"
#include "server/l2/redis_options.h"
#include "server/l2/store.h"

namespace cistern::l2 {

class RedisStore final : public Store {
 public:
  // Any thread; all else on the loop's, which is the one that runs `io`. Begins to connect on the
  // loop's next turn. `io`, `loop` and `metrics` outlive it. `breaker` is that of its endpoint,
  // which the stores of all workers share; null: one of its own.
  RedisStore(RedisOptions options, asio::io_context& io, base::Loop& loop,
             base::WorkerMetrics& metrics, std::shared_ptr<Breaker> breaker = nullptr);
  // After close() has called back, or when the loop never ran.
  ~RedisStore() override;

  Result<void> available() const override;
  // A value that has expired by the wall clock is not there. One without a TTL has its stay renewed
  // when less than three quarters of l2.max_idle are left.
  void get_manifest(std::string key, Callback<std::optional<Manifest>> done) override;
  void get_stamp(std::string key, Callback<std::optional<Stamp>> done) override;
  ReadId read_chunk(const std::string& key, const base::ValueMeta& meta, std::uint64_t index,
                    Form form, Callback<StoredChunk> done) override;
  void cancel_read(ReadId id) override;
  void write_chunk(const std::string& key, base::Version version, std::uint64_t index,
                   StoredChunk chunk, Callback<void> done) override;
  void expire_chunks(const ChunkSet& set, std::uint64_t first, std::uint64_t last, Duration ttl,
                     bool only_longer, Callback<std::uint64_t> done) override;
  // TOUCH replaces a manifest by one of the same version: then no chunk set was replaced.
  void commit(std::string key, const base::Condition& condition, const Manifest& manifest,
              Callback<CommitResult> done) override;
  void remove(std::string key, const base::Condition& condition,
              Callback<CommitResult> done) override;
  void discard(std::string key, base::Version version) override;
  void close(std::function<void()> closed) override;

 private:
  struct ManifestRead;
  struct ExpireRun;

  void manifest_arrived(const std::shared_ptr<ManifestRead>& read);
  void renew(const std::string& name, std::int64_t left_ms);
  void remove_corrupt(const std::string& name, std::string_view stored);
  void run_commit(base::L2Op op, std::string key, RedisCommitter::Request request,
                  base::Version own_version, Callback<CommitResult> done);
  void expire_batch(const std::shared_ptr<ExpireRun>& run);
  void expire_count(const std::shared_ptr<ExpireRun>& run);
  void expire_end(const std::shared_ptr<ExpireRun>& run, Result<std::uint64_t> result);
  Result<RedisBulk*> pick_bulk() const;
  void count(base::L2Op op, base::L2Result result, base::TimePoint since);

  const std::shared_ptr<const RedisOptions> options_;
  base::Loop& loop_;
  base::WorkerMetrics& metrics_;
  const std::shared_ptr<Breaker> breaker_;
  const std::shared_ptr<RedisControl> control_;
  const std::shared_ptr<RedisCommitter> committer_;
  std::vector<std::shared_ptr<RedisBulk>> bulks_;
  struct Read {
    RedisBulk* bulk = nullptr;
    RedisBulk::OpPtr op;
  };
  std::unordered_map<ReadId, Read> reads_;
  ReadId last_read_ = 0;
};

}  // namespace cistern::l2
