// A fleet of memcached servers as the second tier.
//
//   MemcachedStore, one for each worker ---- MemcachedPool, one for the process
//      what is asked for, deadlines             Ketama: which server has a value
//      MemcachedCommit: how manifests change    MemcachedLink: a connection, MemcachedClock
//
// Manifest and chunks of a value lie on the server that ketama names for the value's key: a server
// that is gone takes the values on it along and no others. They are out of reach then
// (kL2Unavailable), never absent.
//
// memcached has no command that makes an expiry longer and never shorter, and libmemcached can't
// ask for one. So `only_longer` looks at the manifest first: while it has the set's version, its
// chunks are given what a live value's have, if that is longer; else the set was replaced and they
// are given `ttl`.
//
// A commit can take op_timeout and up to five seconds more when its server stops answering, since
// memcached's clock counts whole seconds.
#pragma once

#include <memory>
#include <mutex>
#include <unordered_map>

#include "server/base/loop.h"
#include "server/base/metrics.h"
#include "server/l2/keys.h"
#include "server/l2/memcached_commit.h"
#include "server/l2/memcached_pool.h"
#include "server/l2/store.h"

namespace cistern::l2 {

class MemcachedStore final : public Store {
 public:
  // Any thread; all else on the loop's. `loop` and `metrics` outlive it.
  MemcachedStore(std::shared_ptr<MemcachedPool> pool, base::Loop& loop,
                 base::WorkerMetrics& metrics);
  // After close() has called back, or when the loop never ran.
  ~MemcachedStore() override;

  // Error only when no server can be used: which one is needed isn't known before the key.
  Result<void> available() const override;
  Result<void> ready() const override;
  // A value that has expired by the wall clock is not there. One without a TTL has its stay renewed
  // once in a quarter of l2.max_idle.
  void get_manifest(std::string key, Callback<std::optional<Manifest>> done) override;
  // Reads all of it: libmemcached has no partial read. Those that wait together leave together.
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
  // The way back from the pool's threads, which outlive the store.
  struct Mailbox {
    std::mutex mutex;
    base::Loop* loop = nullptr;  // null: the store is gone
    void post(base::Task task, const std::shared_ptr<Mailbox>& self);
  };
  // An operation whose caller waits.
  struct Pending {
    std::shared_ptr<MemcachedJob> job;
    base::Loop::TimerId timer = base::Loop::TimerId::kNone;
    std::function<void(const base::Error&)> fail;
  };
  using Id = std::uint64_t;
  template <typename T>
  struct Call {
    Id id = 0;
    // Any thread, once. Ends the operation on the loop, unless it has ended.
    std::function<void(Result<T>)> answer;
  };
  // Counts what `result` says of it, then calls `done`.
  template <typename T>
  Call<T> open(base::L2Op op, Callback<T> done,
               std::function<base::L2Result(const Result<T>&)> label);
  enum class Patience : std::uint8_t {
    kWhole,  // op_timeout for all of it
    kBegin,  // until it has begun; from then on the time without a byte counts
  };
  void start(Id id, const std::string& key, std::shared_ptr<MemcachedJob> job, Patience patience);
  void out_of_time(Id id, Patience patience);
  base::Error too_late(const std::string& what) const;

  struct CommitCall;
  void run_commit(base::L2Op op, std::string key, MemcachedCommit::Request request,
                  base::Version own_version, Callback<CommitResult> done);
  void commit_out_of_time(const std::shared_ptr<CommitCall>& call);
  void commit_answered(const std::shared_ptr<CommitCall>& call,
                       base::Result<MemcachedCommit::Answer> answer);
  void commit_end(const std::shared_ptr<CommitCall>& call, Result<CommitResult> result);
  void remove_corrupt(const std::string& key, std::uint64_t cas, const std::string& why);

  struct ExpireRun;
  void expire_look(const std::shared_ptr<ExpireRun>& run);
  void expire_batch(const std::shared_ptr<ExpireRun>& run);
  void expire_end(const std::shared_ptr<ExpireRun>& run, Result<std::uint64_t> result);

  std::string name_of(const std::string& key) const;
  void post(base::Task task);
  void check_closed();

  const std::shared_ptr<MemcachedPool> pool_;
  const MemcachedOptions& options_;
  base::Loop& loop_;
  base::WorkerMetrics& metrics_;
  const std::shared_ptr<Mailbox> mailbox_;
  std::unordered_map<Id, Pending> pending_;
  std::size_t commits_ = 0;  // under way
  Id last_id_ = 0;
  bool is_closing_ = false;
  std::function<void()> closed_;
};

}  // namespace cistern::l2
