#include "server/l1/shard.h"

#include <bit>
#include <cstring>
#include <new>
#include <utility>

#include "server/base/check.h"

namespace cistern::l1 {
namespace {

// Bounds of the work under one hold of the lock.
constexpr unsigned kEvictionsPerHold = 128;
constexpr unsigned kReclaimsPerHold = 4;
// Victims whose places in the index are fetched together: one by one they were two thirds of the
// time that evicting millions of small entries took, waiting for memory.
constexpr unsigned kVictimsAhead = 16;

constexpr std::uint64_t kHasVictimBit = std::uint64_t{1} << 32;
constexpr std::uint64_t kReclaimableBit = std::uint64_t{1} << 33;

constexpr std::uint32_t kPartMask = (1u << 13) - 1;

base::Reason reason_of(Removal removal) {
  switch (removal) {
    case Removal::kEvicted:
      return base::Reason::kEvicted;
    case Removal::kExpired:
      return base::Reason::kExpired;
    case Removal::kDeleted:
      return base::Reason::kDeleted;
    case Removal::kReplaced:
      return base::Reason::kReplaced;
    case Removal::kInvalidated:
      return base::Reason::kInvalidated;
  }
  return base::Reason::kEvicted;
}

std::uint32_t born_at(base::TimePoint now) {
  return static_cast<std::uint32_t>(now.time_since_epoch().count() >> kBornShift);
}

void copy(std::byte* to, base::Bytes from) {
  if (!from.empty()) std::memcpy(to, from.data(), from.size());
}

}  // namespace

Shard::Shard(Budget& budget, std::uint64_t max_pages, std::uint64_t share_bytes)
    : budget_(budget),
      arena_(max_pages),
      index_(arena_),
      lru_(arena_, share_bytes),
      reasons_(base::ReasonTable::slots_for(share_bytes)) {}

Shard::~Shard() {
  for (Handle handle = lru_.victim(kNoHandle); handle != kNoHandle;
       handle = lru_.victim(kNoHandle)) {
    take_out(handle);
  }
}

Handle Shard::slot_for(std::uint8_t size_class, Purse& purse, Stored& outcome) {
  if (arena_.free_slots(size_class) == 0) {
    if (!purse.spend(kPageBytes)) {
      outcome = Stored::kNoSlot;
      return kNoHandle;
    }
    if (!arena_.add_page(size_class)) {
      budget_.give(kPageBytes);
      outcome = Stored::kNoMemory;
      return kNoHandle;
    }
  }
  return arena_.allocate(size_class);
}

void Shard::fill(Block& block, const Image& image, base::TimePoint now) {
  block.version = image.version;
  block.digest = image.digest;
  block.tag = image.tag;
  block.key_bytes = image.key.size() & kPartMask;
  block.metadata_bytes = image.metadata.size() & kPartMask;
  block.value_bytes = image.bytes.size() & kPartMask;
  block.chunk_pages = image.chunk_bytes / (4 * proto::kKiB) & kPartMask;
  block.hits = 0;
  block.born = born_at(now) & kBornMask;
  if (image.has_lifetime()) {
    block.set(kHasLifetime);
    new (block.after_header()) Lifetime(image.lifetime);
  }
  if (image.proven_ns != 0) {
    block.set(kHasProof);
    new (block.after_lifetime()) std::int64_t(image.proven_ns);
  }
  if (image.large != nullptr) {
    block.set(kLarge);
    new (block.after_proof()) base::ValuePtr(image.large);
  }
  copy(block.key_at(), image.key);
  copy(block.key_at() + image.key.size(), image.metadata);
  copy(block.key_at() + image.key.size() + image.metadata.size(), image.bytes);
}

void Shard::put_in(Handle slot, const Image& image, bool to_protected, Purse& purse,
                   base::TimePoint now) {
  Block& block = arena_.at(slot);
  if (counters.items == 0 && first_born_ == base::TimePoint{}) first_born_ = now;
  fill(block, image, now);
  if (block.has(kHasLifetime)) ++mortal_items_;
  index_.insert(slot, purse);
  lru_.insert(slot, to_protected, stamp_of(now));
  ++counters.items;
  counters.value_bytes += block.value_size();
}

void Shard::rewrite(Handle handle, const Image& image, base::TimePoint now) {
  Block& block = arena_.at(handle);
  ++counters.removed[static_cast<std::size_t>(Removal::kReplaced)];
  counters.value_bytes -= block.value_size();
  if (block.has(kHasLifetime)) --mortal_items_;
  block.clear(kHasLifetime);
  block.clear(kHasProof);
  fill(block, image, now);
  if (block.has(kHasLifetime)) ++mortal_items_;
  counters.value_bytes += block.value_size();
  lru_.renew(handle, stamp_of(now));
}

base::ValuePtr Shard::take_out(Handle handle) {
  Block& block = arena_.at(handle);
  --counters.items;
  counters.value_bytes -= block.value_size();
  if (block.has(kHasLifetime)) --mortal_items_;
  lru_.remove(handle);
  index_.remove(handle, budget_);
  base::ValuePtr large;
  if (block.has(kLarge)) {
    large = std::move(block.large());
    std::destroy_at(&block.large());
  }
  arena_.release(handle);
  return large;
}

Shard::Stored Shard::store(const Image& image, Handle old, Purse& purse, base::TimePoint now,
                           Dropped& dropped) {
  const std::uint8_t size_class = class_of(image.block_size());
  bool to_protected = false;
  if (old != kNoHandle) {
    // What is written over and over is in use.
    to_protected = arena_.at(old).has(kProtected);
    if (arena_.at(old).size_class == size_class) {
      if (image.large == nullptr && !arena_.at(old).has(kLarge)) {
        rewrite(old, image, now);
        return Stored::kStored;
      }
      // Its own slot is free for the new one.
      drop(std::exchange(old, kNoHandle), Removal::kReplaced, dropped);
    }
  }
  Stored outcome = Stored::kStored;
  const Handle slot = slot_for(size_class, purse, outcome);
  if (slot == kNoHandle) return outcome;
  if (old != kNoHandle) drop(old, Removal::kReplaced, dropped);
  put_in(slot, image, to_protected, purse, now);
  return outcome;
}

Shard::Stored Shard::reshape(const Image& image, Handle old, Purse& purse, base::TimePoint now) {
  const std::uint8_t size_class = class_of(image.block_size());
  const bool to_protected = arena_.at(old).has(kProtected);
  const std::uint32_t hits = arena_.at(old).hits;
  const std::uint32_t born = arena_.at(old).born;
  Stored outcome = Stored::kStored;
  Handle slot = kNoHandle;
  if (arena_.at(old).size_class != size_class) {
    slot = slot_for(size_class, purse, outcome);
    if (slot == kNoHandle) return outcome;
  }
  take_out(old);
  if (slot == kNoHandle) slot = arena_.allocate(size_class);
  put_in(slot, image, to_protected, purse, now);
  arena_.at(slot).hits = hits & kMostHits;
  arena_.at(slot).born = born & kBornMask;
  return outcome;
}

void Shard::remove(Handle handle, Removal reason, base::TimePoint now, Dropped& dropped) {
  Block& block = arena_.at(handle);
  reasons_.note(block.tag, {.reason = reason_of(reason),
                            .at = now,
                            .size = block.value_size(),
                            .version = block.version});
  drop(handle, reason, dropped);
}

void Shard::drop(Handle handle, Removal reason, Dropped& dropped) {
  ++counters.removed[static_cast<std::size_t>(reason)];
  if (base::ValuePtr large = take_out(handle)) {
    budget_.begin_leaving();
    dropped.push_back(std::move(large));
  }
}

Shard::Age Shard::age_of(const Block& block, base::TimePoint now) const {
  const std::uint32_t units = (born_at(now) - block.born) & kBornMask;
  return {base::Duration(std::int64_t{units} << kBornShift), now - first_born_ >= kBornWraps};
}

bool Shard::evict_one(Handle spared, base::TimePoint now, Dropped& dropped) {
  const Handle victim = lru_.victim(spared);
  if (victim == kNoHandle) return false;
  const bool past = is_past(arena_.at(victim), now);
  remove(victim, past ? Removal::kExpired : Removal::kEvicted, now, dropped);
  const Handle next = lru_.victim(kNoHandle);
  if (next != kNoHandle) index_.prefetch_bucket(arena_.at(next).tag);
  return true;
}

unsigned Shard::prefetch_victims() {
  std::array<std::uint32_t, kVictimsAhead> tags;
  unsigned count = 0;
  for (Handle handle = lru_.victim(kNoHandle); handle != kNoHandle && count < kVictimsAhead;
       handle = arena_.at(handle).newer) {
    tags[count] = arena_.at(handle).tag;
    index_.prefetch_bucket(tags[count++]);
  }
  // The oldest of a bucket comes last in its chain.
  for (const auto step : {&Index::prefetch_first, &Index::prefetch_next}) {
    for (unsigned i = 0; i < count; ++i) (index_.*step)(tags[i]);
  }
  return count;
}

Shard::Evicted Shard::evict(std::uint64_t wanted_bytes, base::Bytes spared,
                            std::uint32_t spared_tag, base::TimePoint now, Dropped& dropped) {
  Evicted result;
  Handle spared_handle = spared.data() == nullptr ? kNoHandle : find(spared, spared_tag);
  unsigned evictions = 0;
  unsigned reclaims = 0;
  unsigned fetched = 0;
  while (result.freed_bytes < wanted_bytes && evictions < kEvictionsPerHold &&
         reclaims < kReclaimsPerHold) {
    if (arena_.reclaimable() != 0) {
      reclaim_page(static_cast<std::uint8_t>(std::countr_zero(arena_.reclaimable())));
      if (spared_handle != kNoHandle) spared_handle = find(spared, spared_tag);
      result.freed_bytes += kPageBytes;
      ++reclaims;
    } else {
      const std::size_t before = dropped.size();
      if (fetched == 0) fetched = prefetch_victims();
      fetched -= fetched > 0 ? 1 : 0;
      if (!evict_one(spared_handle, now, dropped)) break;
      if (dropped.size() != before) result.freed_bytes += dropped.back()->cost_bytes();
      ++evictions;
    }
    result.anything = true;
  }
  return result;
}

void Shard::tidy() {
  for (std::uint64_t classes = arena_.reclaimable(); classes != 0; classes &= classes - 1) {
    const auto one = static_cast<std::uint8_t>(std::countr_zero(classes));
    if (arena_.free_slots(one) < 2 * std::uint64_t{slots_per_page(one)}) continue;
    reclaim_page(one);
    return;
  }
}

void Shard::reclaim_page(std::uint8_t size_class) {
  const std::uint32_t page = arena_.detach_page(size_class, moving_);
  for (const Handle from : moving_) {
    const Handle to = arena_.allocate(size_class);
    CHECK(to != kNoHandle);
    move_block(from, to);
  }
  arena_.free_page(page);
  budget_.give(kPageBytes);
}

void Shard::move_block(Handle from, Handle to) {
  Block& source = arena_.at(from);
  Block& target = arena_.at(to);
  target = source;
  if (source.has(kHasLifetime)) new (target.after_header()) Lifetime(source.lifetime());
  if (source.has(kHasProof)) new (target.after_lifetime()) std::int64_t(source.proven_ns());
  if (source.has(kLarge)) {
    new (target.after_proof()) base::ValuePtr(std::move(source.large()));
    std::destroy_at(&source.large());
  }
  const std::size_t payload = source.has(kLarge) ? source.key_bytes
                                                 : std::size_t{source.key_bytes} +
                                                       source.metadata_bytes + source.value_bytes;
  copy(target.key_at(), {source.key_at(), payload});
  index_.relink(from, to);
  lru_.relink(to);
}

bool Shard::sweep(std::size_t limit, base::TimePoint now, std::size_t& looked_at,
                  std::size_t& removed, Dropped& dropped) {
  if (mortal_items_ == 0) {
    sweep_bucket_ = 0;
    return true;
  }
  for (std::size_t seen = 0; seen < limit; ++seen, ++looked_at) {
    if (sweep_bucket_ >= index_.buckets()) {
      sweep_bucket_ = 0;
      return true;
    }
    // A removal may join the end of another chain to this one: it is then looked at as well.
    for (Handle handle = index_.first_of(sweep_bucket_); handle != kNoHandle; ++seen, ++looked_at) {
      Block& block = arena_.at(handle);
      const Handle next = block.chain;
      if (is_past(block, now)) {
        remove(handle, Removal::kExpired, now, dropped);
        ++removed;
      }
      handle = next;
    }
    ++sweep_bucket_;
  }
  return false;
}

Shard::Published Shard::published() const {
  const std::uint64_t word = published_.load(std::memory_order_relaxed);
  return {(word & kHasVictimBit) != 0, (word & kReclaimableBit) != 0, static_cast<Stamp>(word)};
}

void Shard::publish() {
  std::uint64_t word = arena_.reclaimable() != 0 ? kReclaimableBit : 0;
  if (const Handle victim = lru_.victim(kNoHandle); victim != kNoHandle) {
    word |= kHasVictimBit | arena_.at(victim).stamp;
  }
  if (word != published_.load(std::memory_order_relaxed)) {
    published_.store(word, std::memory_order_relaxed);
  }
}

}  // namespace cistern::l1
