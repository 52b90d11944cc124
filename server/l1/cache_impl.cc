#include "server/l1/cache_impl.h"

#include <algorithm>
#include <bit>
#include <string>
#include <thread>

#include "server/base/check.h"

namespace cistern::l1 {
namespace {

constexpr std::uint64_t kBytesPerShard = 32 * proto::kMiB;
constexpr std::uint64_t kMaxShards = 64;
// Under one hold of a shard's lock.
constexpr unsigned kLocalEvictions = 16;
constexpr std::size_t kSweepPerHold = 64;
// Evictions in one shard before it is compared with the others again.
constexpr unsigned kLocalCredit = 64;
// Other threads may take what was freed, each time; each of them then has what it wanted.
constexpr unsigned kMaxRounds = 1000;
constexpr unsigned kMaxYields = 100'000;

// A page for a block, and one step of the index.
constexpr std::uint64_t kEntryOverheadBytes = kPageBytes + Index::kSegmentCost;

}  // namespace

std::int64_t expiry_deadline(std::uint64_t expires_at_ms, TimePoint now,
                             std::uint64_t wall_now_ms) {
  if (expires_at_ms == 0) return kForever;
  const std::int64_t now_ns = now.time_since_epoch().count();
  if (expires_at_ms <= wall_now_ms) return now_ns;
  const std::uint64_t left_ms = std::min(expires_at_ms - wall_now_ms, proto::kMaxTtlMs);
  return now_ns + static_cast<std::int64_t>(left_ms) * 1'000'000;
}

Cache::Impl::Impl(const Options& wanted, base::Ledger& ledger)
    : options(wanted), budget(wanted.budget_bytes), ledger_(ledger) {
  const std::uint64_t by_budget =
      std::clamp<std::uint64_t>(options.budget_bytes / kBytesPerShard, 1, kMaxShards);
  const std::uint64_t count = options.shards != 0 ? options.shards : std::bit_floor(by_budget);
  CHECK(std::has_single_bit(count) && count <= kMaxShards);
  shard_bits_ = static_cast<unsigned>(std::countr_zero(count));
  const std::uint64_t max_pages = std::max<std::uint64_t>(1, options.budget_bytes / kPageBytes);
  for (std::uint64_t i = 0; i < count; ++i) {
    shards_.push_back(std::make_unique<Shard>(budget, max_pages, options.budget_bytes / count));
  }
}

void Cache::Impl::dispose(Dropped& dropped) {
  for (base::ValuePtr& value : dropped) {
    const std::uint64_t cost = value->cost_bytes();
    if (value.use_count() > 1) {
      base::Reservation held = ledger_.try_reserve(base::Account::kHeld, cost);
      if (held) {
        value->hold(std::move(held));
      } else {
        value->revoke();
        revoked.fetch_add(1, std::memory_order_relaxed);
      }
    }
    // The memory goes before the account says so.
    value.reset();
    budget.give(cost);
    budget.end_leaving();
  }
  dropped.clear();
}

void Cache::Impl::release(std::uint64_t bytes) {
  if (bytes == 0) return;
  budget.give(bytes);
  budget.unclaim(bytes);
}

std::optional<base::Version> Cache::Impl::version_of(Bytes key, std::uint64_t hash,
                                                     TimePoint now) const {
  Shard& shard = shard_of(hash);
  const std::lock_guard lock(shard.mutex);
  const Handle handle = shard.find(key, tag_of(hash));
  if (handle == kNoHandle || Shard::is_past(shard.at(handle), now)) return std::nullopt;
  return shard.at(handle).version;
}

bool Cache::Impl::acquire(std::uint64_t bytes, Bytes key, std::uint64_t hash, TimePoint now,
                          std::optional<base::Version>& evicted_own) {
  if (!budget.claim(bytes)) return false;
  if (take_claimed(bytes, key, hash, now, evicted_own)) return true;
  budget.unclaim(bytes);
  return false;
}

bool Cache::Impl::take_claimed(std::uint64_t bytes, Bytes key, std::uint64_t hash, TimePoint now,
                               std::optional<base::Version>& evicted_own) {
  std::uint64_t taken = 0;
  std::uint64_t exhausted = 0;  // shards that have nothing but the spared entry
  std::optional<base::Version> own;
  unsigned yields = 0;
  Bytes spared = key;
  for (;;) {
    taken += budget.take_up_to(bytes - taken);
    if (taken == bytes) {
      if (own && !version_of(key, hash, now)) evicted_own = own;
      return true;
    }
    if (evict_somewhere(bytes - taken, spared, hash, now, exhausted)) continue;
    exhausted = 0;
    if (spared.data() != nullptr) {
      own = version_of(key, hash, now);
      spared = {};
    } else if (++yields < kMaxYields && (budget.anything_leaving() || yields < kMaxRounds)) {
      // Another thread is freeing what it took out, or is between paying and storing.
      std::this_thread::yield();
    } else {
      budget.give(taken);
      return false;
    }
  }
}

Shard* Cache::Impl::oldest_shard(std::uint64_t exhausted, std::size_t& position) const {
  Shard* oldest = nullptr;
  Stamp oldest_stamp = 0;
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    if ((exhausted >> i & 1) != 0) continue;
    const Shard::Published published = shards_[i]->published();
    if (!published.has_victim && !published.reclaimable) continue;
    const bool older = oldest == nullptr || later_by(oldest_stamp, published.oldest) > 0;
    if (!older && !published.reclaimable) continue;
    oldest = shards_[i].get();
    oldest_stamp = published.oldest;
    position = i;
    if (published.reclaimable) break;
  }
  return oldest;
}

bool Cache::Impl::evict_somewhere(std::uint64_t wanted_bytes, Bytes key, std::uint64_t hash,
                                  TimePoint now, std::uint64_t& exhausted) {
  std::size_t position = 0;
  while (Shard* const shard = oldest_shard(exhausted, position)) {
    Dropped dropped;
    Shard::Evicted evicted;
    {
      const std::lock_guard lock(shard->mutex);
      const bool own = shard == &shard_of(hash);
      evicted = shard->evict(wanted_bytes, own ? key : Bytes{}, tag_of(hash), now, dropped);
      shard->publish();
    }
    dispose(dropped);
    if (evicted.anything) return true;
    exhausted |= std::uint64_t{1} << position;
  }
  return false;
}

bool Cache::Impl::may_evict_here(Shard& shard, TimePoint now) const {
  const Shard::Published here = shard.published();
  if (!here.has_victim) return false;
  if (shard.local_evictions > 0) {
    --shard.local_evictions;
    return true;
  }
  const Stamp stamp = stamp_of(now);
  for (const auto& other : shards_) {
    const Shard::Published there = other->published();
    if (!there.has_victim) continue;
    const std::int32_t tolerated =
        std::max<std::int32_t>(kStampsPerSecond, later_by(stamp, there.oldest) / 8);
    if (later_by(here.oldest, there.oldest) > tolerated) return false;
  }
  shard.local_evictions = kLocalCredit;
  return true;
}

// Under the shard's lock.
Shard::Stored Cache::Impl::store(Shard& shard, const Image& image, Purse& purse, TimePoint now,
                                 Dropped& dropped) {
  const Handle old = shard.find(image.key, image.tag);
  Shard::Stored stored = shard.store(image, old, purse, now, dropped);
  if (stored != Shard::Stored::kNoSlot || !may_evict_here(shard, now)) return stored;
  for (unsigned i = 0; i < kLocalEvictions && dropped.empty(); ++i) {
    if (!shard.evict_one(old, now, dropped)) return stored;
    if (shard.has_slot(image.block_size())) return shard.store(image, old, purse, now, dropped);
  }
  return stored;
}

Cache::Outcome Cache::Impl::insert(const Image& image, std::uint64_t hash, Taken taken,
                                   const base::Condition& condition, Source source, TimePoint now) {
  const std::uint64_t cost = image.large != nullptr ? image.large->cost_bytes() : 0;
  const std::uint64_t need = cost == 0 ? 0 : cost + kEntryOverheadBytes;
  if (taken.bytes < need) {
    if (!acquire(need - taken.bytes, image.key, hash, now, taken.evicted_own)) {
      release(taken.bytes);
      no_room.fetch_add(1, std::memory_order_relaxed);
      return Outcome::kNoRoom;
    }
    taken.bytes = need;
  }
  Purse purse{budget, taken.bytes - cost};
  Shard& shard = shard_of(hash);
  Outcome outcome = Outcome::kNoRoom;
  for (unsigned round = 0; round < kMaxRounds; ++round) {
    Dropped dropped;
    Shard::Stored stored = Shard::Stored::kNoSlot;
    {
      const std::lock_guard lock(shard.mutex);
      const Handle old = shard.find(image.key, image.tag);
      if (old != kNoHandle && Shard::is_past(shard.at(old), now)) {
        shard.remove(old, Removal::kExpired, now, dropped);
        taken.evicted_own.reset();
      } else if (old != kNoHandle) {
        // Where a later round finds nothing, this one has gone for the sake of the new.
        taken.evicted_own = shard.at(old).version;
      }
      if (!condition.holds(taken.evicted_own)) {
        outcome = Outcome::kConditionFailed;
      } else {
        stored = store(shard, image, purse, now, dropped);
      }
      if (stored == Shard::Stored::kStored) {
        ++shard.counters.inserted[static_cast<std::size_t>(source)];
        outcome = Outcome::kStored;
      }
      shard.tidy();
      shard.publish();
    }
    dispose(dropped);
    if (outcome != Outcome::kNoRoom || stored != Shard::Stored::kNoSlot) break;
    if (!acquire(kEntryOverheadBytes, image.key, hash, now, taken.evicted_own)) break;
    taken.bytes += kEntryOverheadBytes;
    purse.brought += kEntryOverheadBytes;
  }
  budget.unclaim(taken.bytes);
  budget.give(purse.brought + (outcome == Outcome::kStored ? 0 : cost));
  if (outcome == Outcome::kNoRoom) no_room.fetch_add(1, std::memory_order_relaxed);
  return outcome;
}

namespace {

// An image of a resident block, to make another from; `key` and `content` keep its bytes.
Image image_of(Block& block, std::string& key, std::string& content) {
  key = proto::as_text(block.key());
  Image image;
  image.key = proto::as_bytes(key);
  image.tag = block.tag;
  image.version = block.version;
  image.digest = block.digest;
  image.proven_ns = block.proven_at().time_since_epoch().count();
  image.chunk_bytes = static_cast<std::uint32_t>(block.chunk_pages * 4 * proto::kKiB);
  if (block.has(kLarge)) {
    image.large = block.large();
    return image;
  }
  content = proto::as_text(block.metadata());
  content += proto::as_text(block.bytes());
  image.metadata = proto::as_bytes(content).first(block.metadata_bytes);
  image.bytes = proto::as_bytes(content).subspan(block.metadata_bytes);
  return image;
}

// Under the shard's lock. kNoSlot: nothing was changed, a block with a deadline takes more room.
Shard::Stored set_lifetime(Shard& shard, Handle handle, std::uint64_t expires_at_ms,
                           std::int64_t expiry_ns, Purse& purse, TimePoint now) {
  Block& block = shard.at(handle);
  if (block.has(kHasLifetime)) {
    Lifetime& lifetime = block.lifetime();
    lifetime.expires_at_ms = expires_at_ms;
    lifetime.deadline_ns = std::min(expiry_ns, lifetime.stay_until_ns);
  } else if (expires_at_ms != 0) {
    std::string key;
    std::string content;
    Image image = image_of(block, key, content);
    image.lifetime = {expiry_ns, kForever, expires_at_ms};
    return shard.reshape(image, handle, purse, now);
  }
  return Shard::Stored::kStored;
}

}  // namespace

bool Cache::Impl::set_expiry(Bytes key, std::uint64_t hash, base::Version version,
                             std::uint64_t expires_at_ms, TimePoint now,
                             std::uint64_t wall_now_ms) {
  const std::int64_t expiry_ns = expiry_deadline(expires_at_ms, now, wall_now_ms);
  Shard& shard = shard_of(hash);
  Purse purse{budget};
  std::uint64_t claimed = 0;
  std::optional<base::Version> evicted_own;
  bool done = false;
  for (bool last_round = false;; last_round = true) {
    Dropped dropped;
    bool again = false;
    {
      const std::lock_guard lock(shard.mutex);
      const Handle handle = shard.find(key, tag_of(hash));
      if (handle != kNoHandle && !Shard::is_past(shard.at(handle), now) &&
          shard.at(handle).version == version) {
        // The value outlives its block's move.
        const base::ValuePtr large =
            shard.at(handle).has(kLarge) ? shard.at(handle).large() : nullptr;
        if (large != nullptr) large->set_expires_at_ms(expires_at_ms);
        done = set_lifetime(shard, handle, expires_at_ms, expiry_ns, purse, now) ==
               Shard::Stored::kStored;
        again = !done && !last_round;
        // Better gone than served past its expiry.
        if (!done && last_round) shard.remove(handle, Removal::kEvicted, now, dropped);
      }
      shard.tidy();
      shard.publish();
    }
    dispose(dropped);
    if (!again) break;
    if (acquire(kEntryOverheadBytes, key, hash, now, evicted_own)) {
      claimed = purse.brought = kEntryOverheadBytes;
    }
  }
  budget.unclaim(claimed);
  budget.give(purse.brought);
  return done;
}

std::size_t Cache::Impl::sweep(std::size_t entries, TimePoint now) {
  std::size_t removed = 0;
  std::size_t looked_at = 0;
  for (std::size_t ended = 0; looked_at < entries && ended < shards_.size();) {
    const std::size_t position = sweep_shard_.load(std::memory_order_relaxed) % shards_.size();
    Shard& shard = *shards_[position];
    Dropped dropped;
    {
      const std::lock_guard lock(shard.mutex);
      const std::size_t limit = std::min(entries - looked_at, kSweepPerHold);
      if (shard.sweep(limit, now, looked_at, removed, dropped)) {
        ++ended;
        sweep_shard_.store((position + 1) % shards_.size(), std::memory_order_relaxed);
      }
      shard.tidy();
      shard.publish();
    }
    dispose(dropped);
  }
  return removed;
}

bool Cache::Impl::shrink(std::uint64_t step_bytes, TimePoint now) {
  const std::uint64_t above = budget.above_ceiling();
  if (above == 0) return false;
  std::uint64_t exhausted = 0;
  return evict_somewhere(std::min(above, step_bytes), {}, 0, now, exhausted) &&
         budget.above_ceiling() != 0;
}

Stats Cache::Impl::stats() const {
  Stats sum;
  sum.budget_bytes = budget.total();
  sum.ceiling_bytes = budget.ceiling();
  for (const auto& shard : shards_) {
    const std::lock_guard lock(shard->mutex);
    const Shard::Counters& counters = shard->counters;
    sum.items += counters.items;
    sum.value_bytes += counters.value_bytes;
    sum.hits += counters.hits;
    sum.misses += counters.misses;
    sum.inserted_by_put += counters.inserted[static_cast<std::size_t>(Source::kPut)];
    sum.inserted_by_fill += counters.inserted[static_cast<std::size_t>(Source::kFill)];
    for (std::size_t i = 0; i < kRemovalCount; ++i) sum.removed[i] += counters.removed[i];
  }
  sum.used_bytes = budget.used();
  sum.reserved_bytes = budget.claimed();
  sum.no_room = no_room.load(std::memory_order_relaxed);
  sum.revoked = revoked.load(std::memory_order_relaxed);
  return sum;
}

}  // namespace cistern::l1
