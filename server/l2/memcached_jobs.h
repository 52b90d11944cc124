// What the memcached store has the pool do, beside commits: reads, chunk writes, expiries. They run
// on the pool's threads, where chunks are verified and copied, and give their result to `answer`,
// which may be called on any thread, once.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/base/metrics.h"
#include "server/l2/envelope.h"
#include "server/l2/memcached_pool.h"
#include "server/l2/result_label.h"
#include "server/l2/store.h"

namespace cistern::l2 {

// The label of an operation that ended with `status`.
template <typename T>
using JobAnswer = std::function<void(Result<T>)>;

// A job that is one read.
template <typename T>
class ReadJob : public MemcachedJob {
 public:
  explicit ReadJob(JobAnswer<T> answer) : answer_(std::move(answer)) {}
  void run(MemcachedLink&) override {}
  void refuse(const base::Error& why) override { answer_(tl::unexpected(why)); }

 protected:
  const JobAnswer<T> answer_;
};

class ManifestRead final : public ReadJob<std::optional<Manifest>> {
 public:
  ManifestRead(MemcachedPool& pool, std::string key, std::uint64_t unix_ms,
               JobAnswer<std::optional<Manifest>> answer)
      : ReadJob(std::move(answer)), pool_(pool), key_(std::move(key)), unix_ms_(unix_ms) {}
  // What lies there, under that cas id (0: not known), isn't a manifest of the key.
  std::function<void(std::uint64_t cas, const std::string& why)> on_corrupt;
  void on_read(const MemcachedLink::Item* item, bool too_large) override;

 private:
  Result<std::optional<Manifest>> decode(const MemcachedLink::Item& item);
  void renew(const MemcachedLink::Item& item);

  MemcachedPool& pool_;  // whose thread it runs on
  const std::string key_;
  const std::uint64_t unix_ms_;
};

class StampRead final : public ReadJob<std::optional<Stamp>> {
 public:
  StampRead(MemcachedClock& clock, JobAnswer<std::optional<Stamp>> answer)
      : ReadJob(std::move(answer)), clock_(clock) {}
  void on_read(const MemcachedLink::Item* item, bool too_large) override;

 private:
  MemcachedClock& clock_;
};

class ChunkRead final : public ReadJob<StoredChunk> {
 public:
  ChunkRead(const ChunkIdentity& identity, JobAnswer<StoredChunk> answer)
      : ReadJob(std::move(answer)), identity_(identity) {}
  void on_read(const MemcachedLink::Item* item, bool too_large) override;

 private:
  Result<StoredChunk> decode(base::Bytes stored) const;
  const ChunkIdentity identity_;
};

// A job that isn't a read.
class CallJob : public MemcachedJob {
 public:
  void on_read(const MemcachedLink::Item*, bool) override {}
};

class ChunkWrite final : public CallJob {
 public:
  ChunkWrite(std::string chunk_name, const ChunkHeader& header, base::ChunkPtr chunk,
             base::Duration ttl, JobAnswer<void> answer)
      : name_(std::move(chunk_name)),
        header_(header),
        chunk_(std::move(chunk)),
        ttl_(ttl),
        answer_(std::move(answer)) {}
  void run(MemcachedLink& link) override;
  void refuse(const base::Error& why) override;

 private:
  const std::string name_;
  const ChunkHeader header_;
  base::ChunkPtr chunk_;  // let go of before the answer
  const base::Duration ttl_;
  const JobAnswer<void> answer_;
};

// Touches some chunks one after the other; answers how many were there.
class ChunkTouch final : public CallJob {
 public:
  ChunkTouch(std::vector<std::string> names, base::Duration ttl, JobAnswer<std::uint64_t> answer)
      : names_(std::move(names)), ttl_(ttl), answer_(std::move(answer)) {}
  void run(MemcachedLink& link) override;
  void refuse(const base::Error& why) override { answer_(tl::unexpected(why)); }

 private:
  const std::vector<std::string> names_;
  const base::Duration ttl_;
  const JobAnswer<std::uint64_t> answer_;
};

}  // namespace cistern::l2
