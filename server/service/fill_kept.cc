// A fill that L1 keeps, once all of it is there.
#include <utility>

#include "server/service/fill.h"
#include "server/service/fill_shown.h"
#include "server/service/flight.h"

namespace cistern::service {

void Fill::complete() {
  std::vector<base::ChunkPtr> chunks;
  {
    const std::lock_guard lock(mutex_);
    for (const Slot& slot : slots_) chunks.push_back(slot.shown->chunk);
  }
  proto::ValueHasher hasher;
  for (const base::ChunkPtr& chunk : chunks) hasher.add(chunk->digest());
  if (hasher.finish(meta_->chunk_bytes, meta_->size) != meta_->digest) {
    return fail(base::lost(base::Loss::kValueDigest,
                           "the chunks in the second tier do not have the value's digest")
                    .value());
  }
  const auto self = shared_from_this();
  base::ValuePtr value = publish(std::move(chunks));
  Dropped dropped;
  Wakes wakes;
  {
    const std::lock_guard lock(mutex_);
    value_ = std::move(value);
    drop_all(dropped);
    // What segments on their way still show is a part of the value and of its account, unless that
    // has let go of it.
    if (value_->revoked()) {
      room_->shrink_to(shown_elsewhere(dropped));
    } else {
      *room_ = {};
    }
    collect(wakes);
  }
  dropped.clear();
  flight_.reset();  // who comes now finds it in L1
  tend();
  wake(std::move(wakes));
}

// In L1, or as if it had been evicted in the same moment.
base::ValuePtr Fill::publish(std::vector<base::ChunkPtr> chunks) {
  const auto value = std::make_shared<base::ChunkedValue>(*meta_, std::move(chunks));
  bool stored = false;
  worker_.gate.publish_if_allowed(flight_->token(), [&] {
    const l1::NewEntry entry{
        .meta = &value->meta(), .small = {}, .small_digest = 0, .large = value};
    stored = worker_.cache.insert(
                 key_->bytes(), key_->hash, entry, std::move(*room_), {}, l1::Source::kFill,
                 worker_.stay(value->expires_at_ms(), asked_at_), worker_.loop.now(),
                 worker_.loop.unix_ms()) == l1::Cache::Outcome::kStored;
  });
  if (stored) return value;
  worker_.metrics.fills_unpublished.add();
  bool followed = false;
  {
    const std::lock_guard lock(mutex_);
    followed = !followers_.empty();
  }
  base::Reservation held;
  if (followed) held = ledger_.try_reserve(base::Account::kHeld, value->cost_bytes());
  if (held) {
    value->hold(std::move(held));
  } else {
    value->revoke();
  }
  return value;
}

// With the lock. What is left is little, and somebody may find it in L1 then.
bool Fill::worth_finishing() const {
  const std::uint64_t count = meta_->chunk_count();
  const std::uint64_t left = count - arrived_;
  return left * 100 <= count * worker_.options.fill_finish_percent && !worker_.draining() &&
         worker_.gate.may_publish(flight_->token());
}

}  // namespace cistern::service
