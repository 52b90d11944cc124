// What L1 knows of a key, for who asks.
#include <algorithm>
#include <mutex>

#include "server/l1/cache_impl.h"

namespace cistern::l1 {

Cache::Standing Cache::explain(Bytes key, std::uint64_t hash, TimePoint now) const {
  Shard& shard = impl_->shard_of(hash);
  const std::uint32_t tag = Impl::tag_of(hash);
  const std::lock_guard lock(shard.mutex);
  Standing standing;
  standing.memory = shard.reasons().recall(tag);
  const Handle handle = shard.find(key, tag);
  if (handle == kNoHandle) return standing;
  Block& block = shard.at(handle);
  const std::optional<TimePoint> deadline =
      block.has(kHasLifetime) && block.lifetime().deadline_ns != kForever
          ? std::optional(TimePoint(base::Duration(block.lifetime().deadline_ns)))
          : std::nullopt;
  if (deadline && *deadline <= now) {
    // Nobody has come by yet to take it out.
    standing.memory = {.last = base::Event{.reason = base::Reason::kExpired,
                                           .at = *deadline,
                                           .size = block.value_size(),
                                           .version = block.version},
                       .since = std::nullopt};
    return standing;
  }
  const Shard::Age age = shard.age_of(block, now);
  const std::int64_t idle = std::max(0, later_by(stamp_of(now), block.stamp));
  standing.resident =
      Resident{.size = block.value_size(),
               .version = block.version,
               .age = age.age,
               .age_wraps = age.may_be_longer ? kBornWraps : base::Duration{0},
               .idle = base::Duration(idle << kStampShift),
               .hits = block.hits,
               .hits_at_least = block.hits == kMostHits,
               .expires_at_ms = block.expires_at_ms(),
               .leaves_in = deadline ? std::optional(*deadline - now) : std::nullopt,
               .proven_at = block.proven_at()};
  return standing;
}

}  // namespace cistern::l1
