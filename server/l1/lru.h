// A shard's order of use, in two segments by bytes. A new entry begins in probation; a hit there
// moves it to protected, whose oldest entries fall back to the head of probation when it has more
// than its share. The oldest of probation is evicted first. Under the shard's lock.
#pragma once

#include <array>
#include <cstdint>

#include "server/l1/arena.h"

namespace cistern::l1 {

// Time of use, in units of about 17 ms that wrap after two years.
using Stamp = std::uint32_t;
inline constexpr unsigned kStampShift = 24;
inline Stamp stamp_of(base::TimePoint now) {
  return static_cast<Stamp>(static_cast<std::uint64_t>(now.time_since_epoch().count()) >>
                            kStampShift);
}
inline constexpr Stamp kStampsPerSecond = 1'000'000'000u >> kStampShift;
// How much later `a` is than `b`; negative when it is earlier.
inline std::int32_t later_by(Stamp a, Stamp b) { return static_cast<std::int32_t>(a - b); }

class Lru {
 public:
  // `share_bytes`: what the shard has when all have as much; the protected segment's share is of
  // that or of what is there, whichever is more, since nothing need fall back before there is no
  // room.
  Lru(Arena& arena, std::uint64_t share_bytes) : arena_(arena), share_bytes_(share_bytes) {}

  // What an entry weighs in its segment: its slot and, if it is large, its value's cost.
  std::uint64_t weight(Block& block) const {
    return kClassBytes[block.size_class] + (block.has(kLarge) ? block.large()->cost_bytes() : 0);
  }

  // To the head of probation, or of protected.
  void insert(Handle handle, bool to_protected, Stamp now);
  void remove(Handle handle);
  // A use. In protected an entry moves to the head only when its last move is a while ago.
  // Whether it moved.
  bool touch(Handle handle, Stamp now);
  // It was written anew, in its slot: to the head of its segment, unless that was just now.
  void renew(Handle handle, Stamp now);
  // The entry has moved to `to`, with a copy of its links.
  void relink(Handle to);

  // The next to be evicted, but for `spared`; kNoHandle when there is none.
  Handle victim(Handle spared) const;

  std::uint64_t bytes() const { return lists_[0].bytes + lists_[1].bytes; }
  std::uint64_t protected_bytes() const { return lists_[1].bytes; }

 private:
  struct List {
    Handle newest = kNoHandle, oldest = kNoHandle;
    std::uint64_t bytes = 0;
  };
  List& list_of(Block& block) { return lists_[block.has(kProtected) ? 1 : 0]; }
  void push(Handle handle);
  void unlink(Handle handle);
  void balance();

  Arena& arena_;
  const std::uint64_t share_bytes_;
  std::array<List, 2> lists_;  // probation, protected
};

}  // namespace cistern::l1
