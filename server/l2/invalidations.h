// What a second tier has told of keys that were written or removed there, by whomever, and as of
// when all of that has arrived. It answers one question: since when is it known of a key that
// nothing has happened to it?
//
// A message names a manifest, and most name keys that this process doesn't have. So what it leaves
// is a mark: one time for each slot of a table, that of the last message for any name which falls
// there. Two names in one slot cost a question to the second tier, never an older value. Marks are
// kept whether or not messages come, so that no order in which they, and answers to reads and
// writes, arrive can lose one: what was asked before the mark is doubtful, whenever it is stored.
//
// Messages and heartbeats are written by one thread, the channel's; the rest is for any.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>

#include "server/base/types.h"

namespace cistern::l2 {

using base::TimePoint;

class Invalidations {
 public:
  // Places for so many marks, 8 bytes each, for a daemon that may use so much memory: a 256th of
  // it, from 32 KiB to 4 MiB, of the process' fixed base.
  static std::size_t slots_for(std::uint64_t limit_bytes);
  static constexpr std::uint64_t bytes_for(std::size_t slots) {
    return slots * sizeof(std::atomic<std::int64_t>);
  }

  // `slots` is a power of two.
  explicit Invalidations(std::size_t slots);

  // ---- The channel's thread.

  // A message that arrived at `now`. `name` is a manifest's without the prefix and the "m:".
  void arrived(std::string_view name, TimePoint now);
  // Everything was removed.
  void all_arrived(TimePoint now);
  // All that happened before `at` has arrived. `first`: nothing is known of what happened before
  // that on this channel, which was not there or not complete.
  void complete_until(TimePoint at, bool first);

  // ---- Any thread.

  // What is known of an entry that was proven at `proven_at`; `hash` is base::hash_key(key).
  struct Knowledge {
    bool marked;         // something has happened to it since, or to a key in its slot
    TimePoint known_at;  // it was current then
  };
  Knowledge of(base::Bytes key, std::uint64_t hash, TimePoint proven_at) const;
  // When the channel was last complete; the epoch: never.
  TimePoint complete_at() const;
  void prefetch(std::uint64_t hash) const { __builtin_prefetch(&slot_of(hash)); }

 private:
  using Slot = std::atomic<std::int64_t>;
  Slot& slot_of(std::uint64_t name_hash) const {
    // Other bits than those that choose a shard of L1.
    return slots_[(name_hash >> 20) & mask_];
  }

  const std::size_t mask_;
  // Fresh zeroes: what was never marked takes no memory.
  struct Free {
    void operator()(Slot* slots) const;
  };
  const std::unique_ptr<Slot[], Free> slots_;
  // Read by every hit, written a few times a second.
  alignas(64) std::atomic<std::int64_t> complete_ns_{0};
  std::atomic<std::int64_t> since_ns_{0};  // the channel has lost nothing since
  std::atomic<std::int64_t> all_ns_{0};    // the mark of everything
};

}  // namespace cistern::l2
