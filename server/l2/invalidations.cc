#include "server/l2/invalidations.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <new>

#include "server/base/check.h"
#include "server/l2/keys.h"

namespace cistern::l2 {
namespace {

constexpr std::size_t kLeastSlots = std::size_t{1} << 12;
constexpr std::size_t kMostSlots = std::size_t{1} << 19;

std::int64_t ns(TimePoint at) { return at.time_since_epoch().count(); }

std::uint64_t name_hash(base::Bytes key, std::uint64_t hash) {
  return is_plain(key) ? hash : base::hash_key(proto::as_bytes(manifest_stem(key)));
}

}  // namespace

std::size_t Invalidations::slots_for(std::uint64_t limit_bytes) {
  return std::bit_floor(
      std::clamp<std::uint64_t>(limit_bytes / 256 / sizeof(Slot), kLeastSlots, kMostSlots));
}

void Invalidations::Free::operator()(Slot* slots) const { std::free(slots); }

Invalidations::Invalidations(std::size_t slots)
    : mask_(slots - 1), slots_(static_cast<Slot*>(std::calloc(slots, sizeof(Slot)))) {
  CHECK(std::has_single_bit(slots));
  static_assert(Slot::is_always_lock_free && sizeof(Slot) == sizeof(std::int64_t));
  if (slots_ == nullptr) throw std::bad_alloc();
}

void Invalidations::arrived(std::string_view name, TimePoint now) {
  slot_of(base::hash_key(proto::as_bytes(name))).store(ns(now), std::memory_order_relaxed);
}

void Invalidations::all_arrived(TimePoint now) {
  all_ns_.store(ns(now), std::memory_order_relaxed);
}

void Invalidations::complete_until(TimePoint at, bool first) {
  // Whoever sees the second sees the first, and all marks that came before.
  if (first) since_ns_.store(ns(at), std::memory_order_relaxed);
  complete_ns_.store(ns(at), std::memory_order_release);
}

Invalidations::Knowledge Invalidations::of(base::Bytes key, std::uint64_t hash,
                                           TimePoint proven_at) const {
  const std::int64_t complete_ns = complete_ns_.load(std::memory_order_acquire);
  const std::int64_t proven_ns = ns(proven_at);
  const Slot& slot = slot_of(name_hash(key, hash));
  const std::int64_t mark_ns =
      std::max(slot.load(std::memory_order_relaxed), all_ns_.load(std::memory_order_relaxed));
  if (mark_ns >= proven_ns) return {true, proven_at};
  // What was cached while the channel was not there is known by its own proof alone.
  if (proven_ns < since_ns_.load(std::memory_order_relaxed)) return {false, proven_at};
  return {false, TimePoint(base::Duration(std::max(proven_ns, complete_ns)))};
}

TimePoint Invalidations::complete_at() const {
  return TimePoint(base::Duration(complete_ns_.load(std::memory_order_acquire)));
}

}  // namespace cistern::l2
