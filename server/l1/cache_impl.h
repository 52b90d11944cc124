// Private to l1: the shards together, and where room is made.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "server/l1/shard.h"

namespace cistern::l1 {

class Cache::Impl {
 public:
  Impl(const Options& options, base::Ledger& ledger);

  Shard& shard_of(std::uint64_t hash) const {
    return *shards_[shard_bits_ == 0 ? 0 : hash >> (64 - shard_bits_)];
  }
  static std::uint32_t tag_of(std::uint64_t hash) { return static_cast<std::uint32_t>(hash); }

  // Takes `bytes` from the budget as a claim, evicting until it has them; the entry of `key` goes
  // last, and its version is then put in `evicted_own`. False, with nothing taken, when it can't
  // be.
  bool acquire(std::uint64_t bytes, Bytes key, std::uint64_t hash, TimePoint now,
               std::optional<base::Version>& evicted_own);
  // The same with bytes that were claimed before, and stay so.
  bool take_claimed(std::uint64_t bytes, Bytes key, std::uint64_t hash, TimePoint now,
                    std::optional<base::Version>& evicted_own);
  void release(std::uint64_t bytes);
  // Frees large values that were taken out of L1, or leaves them to their readers. No lock is held.
  void dispose(Dropped& dropped);

  // What a Room has taken, and the version of the key's own entry that went for it.
  struct Taken {
    std::uint64_t bytes = 0;
    std::optional<base::Version> evicted_own;
  };
  Outcome insert(const Image& image, std::uint64_t hash, Taken taken,
                 const base::Condition& condition, Source source, TimePoint now);
  bool set_expiry(Bytes key, std::uint64_t hash, base::Version version, std::uint64_t expires_at_ms,
                  TimePoint now, std::uint64_t wall_now_ms);
  std::size_t sweep(std::size_t entries, TimePoint now);
  bool shrink(std::uint64_t step_bytes, TimePoint now);
  Stats stats() const;

  const Options options;
  Budget budget;
  std::atomic<std::uint64_t> no_room{0};
  std::atomic<std::uint64_t> revoked{0};

 private:
  // Whether this shard's next victim is about as old as the oldest of all.
  bool may_evict_here(Shard& shard, TimePoint now) const;
  Shard* oldest_shard(std::uint64_t exhausted, std::size_t& position) const;
  bool evict_somewhere(std::uint64_t wanted_bytes, Bytes key, std::uint64_t hash, TimePoint now,
                       std::uint64_t& exhausted);
  std::optional<base::Version> version_of(Bytes key, std::uint64_t hash, TimePoint now) const;
  Shard::Stored store(Shard& shard, const Image& image, Purse& purse, TimePoint now,
                      Dropped& dropped);

  base::Ledger& ledger_;
  unsigned shard_bits_ = 0;
  std::vector<std::unique_ptr<Shard>> shards_;
  std::atomic<std::size_t> sweep_shard_{0};
};

// When a value that expires at `expires_at_ms` is gone by the monotonic clock; kForever for 0.
std::int64_t expiry_deadline(std::uint64_t expires_at_ms, TimePoint now, std::uint64_t wall_now_ms);

}  // namespace cistern::l1
