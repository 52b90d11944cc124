#include "server/l1/cache.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "server/base/check.h"
#include "server/l1/cache_impl.h"

namespace cistern::l1 {
namespace {

std::int64_t stay_deadline(base::Duration stay, TimePoint now) {
  const std::int64_t now_ns = now.time_since_epoch().count();
  if (stay.count() <= 0 || stay.count() >= kForever - now_ns) return kForever;
  return now_ns + stay.count();
}

}  // namespace

std::string_view name(Removal reason) {
  switch (reason) {
    case Removal::kEvicted:
      return "evicted";
    case Removal::kExpired:
      return "expired";
    case Removal::kDeleted:
      return "deleted";
    case Removal::kReplaced:
      return "replaced";
    case Removal::kInvalidated:
      return "invalidated";
  }
  return "unknown";
}

Room::Room(Room&& other) noexcept
    : cache_(std::exchange(other.cache_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      claimed_(std::exchange(other.claimed_, 0)),
      evicted_own_(other.evicted_own_) {}

Room& Room::operator=(Room&& other) noexcept {
  if (this != &other) {
    if (cache_ != nullptr) cache_->give_back(*this);
    cache_ = std::exchange(other.cache_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
    claimed_ = std::exchange(other.claimed_, 0);
    evicted_own_ = other.evicted_own_;
  }
  return *this;
}

Room::~Room() {
  if (cache_ != nullptr) cache_->give_back(*this);
}

void Room::shrink_to(std::uint64_t bytes) {
  if (cache_ == nullptr || bytes >= bytes_) return;
  Room rest(cache_);
  rest.bytes_ = std::exchange(bytes_, bytes) - bytes;
  rest.claimed_ = std::exchange(claimed_, bytes) - bytes;
}

Cache::Cache(const Options& options, base::Ledger& ledger)
    : impl_(std::make_unique<Impl>(options, ledger)) {}
Cache::~Cache() = default;

void Cache::give_back(const Room& room) {
  impl_->budget.give(room.bytes_);
  impl_->budget.unclaim(room.claimed_);
}

Cache::Found Cache::find_impl(Bytes key, std::uint64_t hash, TimePoint now, Visitor visitor,
                              void* state, Look look) {
  Shard& shard = impl_->shard_of(hash);
  Found found;
  Dropped dropped;
  {
    const std::lock_guard lock(shard.mutex);
    const Handle handle = shard.find(key, Impl::tag_of(hash));
    if (handle == kNoHandle) {
      ++shard.counters.misses;
      return found;
    }
    Block& block = shard.at(handle);
    if (Shard::is_past(block, now)) {
      ++shard.counters.misses;
      shard.remove(handle, Removal::kExpired, now, dropped);
      shard.tidy();
      shard.publish();
    } else {
      found.hit = true;
      if (look == Look::kFirst) {
        ++shard.counters.hits;
        shard.touch(handle, now);
      }
      if (block.has(kLarge)) {
        found.large = block.large();
        found.version = block.version;
        found.proven_at = block.proven_at();
      } else {
        visitor(state, {block.value_bytes, block.version, block.expires_at_ms(),
                        static_cast<std::uint32_t>(block.chunk_pages * 4 * proto::kKiB),
                        block.digest, block.metadata(), block.bytes(), block.proven_at()});
      }
    }
  }
  impl_->dispose(dropped);
  return found;
}

void Cache::prefetch(std::span<const std::uint64_t> hashes) const {
  // Each step needs what the one before has fetched. Whoever holds a lock isn't waited for.
  for (const auto step : {&Index::prefetch_bucket, &Index::prefetch_first, &Index::prefetch_next}) {
    for (const std::uint64_t hash : hashes) {
      Shard& shard = impl_->shard_of(hash);
      const std::unique_lock lock(shard.mutex, std::try_to_lock);
      if (lock) (shard.index().*step)(Impl::tag_of(hash));
    }
  }
}

std::optional<Cache::Peek> Cache::peek(Bytes key, std::uint64_t hash, TimePoint now) const {
  Shard& shard = impl_->shard_of(hash);
  const std::lock_guard lock(shard.mutex);
  const Handle handle = shard.find(key, Impl::tag_of(hash));
  if (handle == kNoHandle || Shard::is_past(shard.at(handle), now)) return std::nullopt;
  Block& block = shard.at(handle);
  return Peek{block.version, block.expires_at_ms(), block.value_size(), block.proven_at()};
}

std::optional<Cache::Described> Cache::describe(Bytes key, std::uint64_t hash,
                                                TimePoint now) const {
  Described described;
  base::ValueMeta& meta = described.meta;
  base::ValuePtr large;
  {
    Shard& shard = impl_->shard_of(hash);
    const std::lock_guard lock(shard.mutex);
    const Handle handle = shard.find(key, Impl::tag_of(hash));
    if (handle == kNoHandle || Shard::is_past(shard.at(handle), now)) return std::nullopt;
    Block& block = shard.at(handle);
    described.proven_at = block.proven_at();
    if (!block.has(kLarge)) {
      meta.size = block.value_size();
      meta.version = block.version;
      meta.expires_at_ms = block.expires_at_ms();
      meta.chunk_bytes = static_cast<std::uint32_t>(block.chunk_pages * 4 * proto::kKiB);
      meta.digest = proto::ValueHasher::of_single(block.digest, meta.chunk_bytes, meta.size);
      meta.metadata = proto::as_text(block.metadata());
      return described;
    }
    large = block.large();
  }
  meta = large->meta();
  meta.expires_at_ms = large->expires_at_ms();
  return described;
}

base::Duration Cache::max_age() const { return impl_->options.max_age; }

bool Cache::could_hold(std::uint64_t cost_bytes) const {
  return cost_bytes <= impl_->budget.total();
}

std::uint64_t Cache::entry_overhead(std::size_t /*key_bytes*/) const {
  return kPageBytes + Index::kSegmentCost;
}

bool Cache::is_small(std::size_t key_bytes, std::size_t metadata_bytes, std::uint64_t size) {
  // With room for a lifetime, so that a TOUCH can't make it too large, and for a proof, so that
  // what is small doesn't depend on there being a second tier.
  return size <= kMaxSmallBytes && metadata_bytes <= kMaxBlockBytes &&
         block_bytes(false, true, true, key_bytes, metadata_bytes, size) <= kMaxBlockBytes;
}

Room Cache::reserve(Bytes key, std::uint64_t hash, std::uint64_t cost_bytes, TimePoint now) {
  Room room(this);
  if (!grow(room, key, hash, cost_bytes, now)) return {};
  return room;
}

bool Cache::grow(Room& room, Bytes key, std::uint64_t hash, std::uint64_t more_bytes,
                 TimePoint now) {
  CHECK(room.cache_ == this && room.missing_bytes() == 0);
  if (!impl_->acquire(more_bytes, key, hash, now, room.evicted_own_)) {
    impl_->no_room.fetch_add(1, std::memory_order_relaxed);
    return false;
  }
  room.bytes_ += more_bytes;
  room.claimed_ += more_bytes;
  return true;
}

Room Cache::claim(std::uint64_t cost_bytes) {
  if (!impl_->budget.claim(cost_bytes)) {
    impl_->no_room.fetch_add(1, std::memory_order_relaxed);
    return {};
  }
  Room room(this);
  room.claimed_ = cost_bytes;
  return room;
}

bool Cache::make(Room& room, Bytes key, std::uint64_t hash, std::uint64_t step_bytes,
                 TimePoint now) {
  CHECK(room.cache_ == this);
  // One large value that went may leave room for all the steps to come.
  room.bytes_ += impl_->budget.take_up_to(room.missing_bytes());
  const std::uint64_t step = std::min(step_bytes, room.missing_bytes());
  if (!impl_->take_claimed(step, key, hash, now, room.evicted_own_)) {
    impl_->no_room.fetch_add(1, std::memory_order_relaxed);
    return false;
  }
  room.bytes_ += step;
  return true;
}

Cache::Outcome Cache::insert(Bytes key, std::uint64_t hash, const NewEntry& entry, Room room,
                             const base::Condition& condition, Source source, base::Duration stay,
                             TimePoint now, std::uint64_t wall_now_ms) {
  const base::ValueMeta& meta = entry.large != nullptr ? entry.large->meta() : *entry.meta;
  CHECK(key.size() <= proto::kMaxKeyBytes && meta.chunk_bytes % (4 * proto::kKiB) == 0 &&
        meta.chunk_bytes <= proto::kMaxChunkBytes);
  Image image;
  image.key = key;
  image.tag = Impl::tag_of(hash);
  image.version = meta.version;
  image.chunk_bytes = meta.chunk_bytes;
  if (entry.large != nullptr) {
    image.large = entry.large;
    image.lifetime.expires_at_ms = entry.large->expires_at_ms();
  } else {
    CHECK(is_small(key.size(), meta.metadata.size(), entry.small.size()));
    image.metadata = proto::as_bytes(meta.metadata);
    image.bytes = entry.small;
    image.digest = entry.small_digest;
    image.lifetime.expires_at_ms = meta.expires_at_ms;
  }
  image.proven_ns = entry.proven_at.time_since_epoch().count();
  image.lifetime.stay_until_ns =
      std::min(stay_deadline(stay, now), stay_deadline(impl_->options.max_age, now));
  image.lifetime.deadline_ns =
      std::min(image.lifetime.stay_until_ns,
               expiry_deadline(image.lifetime.expires_at_ms, now, wall_now_ms));
  CHECK(room.missing_bytes() == 0);
  const std::uint64_t room_bytes = std::exchange(room.bytes_, 0);
  room.cache_ = nullptr;
  return impl_->insert(image, hash, {room_bytes, room.evicted_own_}, condition, source, now);
}

bool Cache::set_expiry(Bytes key, std::uint64_t hash, base::Version version,
                       std::uint64_t expires_at_ms, TimePoint now, std::uint64_t wall_now_ms) {
  return impl_->set_expiry(key, hash, version, expires_at_ms, now, wall_now_ms);
}

bool Cache::set_proven(Bytes key, std::uint64_t hash, base::Version version,
                       std::uint64_t expires_at_ms, TimePoint at, TimePoint now) {
  Shard& shard = impl_->shard_of(hash);
  const std::lock_guard lock(shard.mutex);
  const Handle handle = shard.find(key, Impl::tag_of(hash));
  if (handle == kNoHandle || Shard::is_past(shard.at(handle), now)) return false;
  Block& block = shard.at(handle);
  if (block.version != version || block.expires_at_ms() != expires_at_ms) return false;
  if (!block.has(kHasProof)) return false;
  block.proven_ns() = std::max(block.proven_ns(), at.time_since_epoch().count());
  return true;
}

Cache::Erased Cache::erase(Bytes key, std::uint64_t hash, const base::Condition& condition,
                           Removal reason, TimePoint now) {
  Shard& shard = impl_->shard_of(hash);
  Dropped dropped;
  Erased outcome = Erased::kAbsent;
  {
    const std::lock_guard lock(shard.mutex);
    const Handle handle = shard.find(key, Impl::tag_of(hash));
    if (handle == kNoHandle) return outcome;
    if (Shard::is_past(shard.at(handle), now)) {
      shard.remove(handle, Removal::kExpired, now, dropped);
    } else if (!condition.holds(shard.at(handle).version)) {
      return Erased::kConditionFailed;
    } else {
      shard.remove(handle, reason, now, dropped);
      outcome = Erased::kErased;
    }
    shard.tidy();
    shard.publish();
  }
  impl_->dispose(dropped);
  return outcome;
}

std::size_t Cache::sweep(std::size_t entries, TimePoint now) { return impl_->sweep(entries, now); }

void Cache::set_ceiling(std::uint64_t bytes) { impl_->budget.set_ceiling(bytes); }

bool Cache::shrink(std::uint64_t step_bytes, TimePoint now) {
  return impl_->shrink(step_bytes, now);
}

Stats Cache::stats() const { return impl_->stats(); }

std::uint64_t Cache::used_bytes() const { return impl_->budget.used(); }

}  // namespace cistern::l1
