// L1: the byte-budgeted cache in memory, shared by all workers.
//
// Two representations under one index and one LRU. A value whose block (header, key, metadata and
// bytes) fits kMaxBlockBytes and whose size is at most kMaxSmallBytes is one block in a shard's
// arena, and its bytes are copied in and out under the shard's lock. A larger one is a block that
// holds a ValuePtr.
//
// Cost is the memory that an entry really takes: whole arena pages, index tables and chunk buffers
// as allocated. Their sum never passes the budget, at any instant. (The shards themselves, about
// 4 KiB each, and what they remember of entries that left, a thousandth of the budget and at most 4
// MiB, are of the process' fixed base.) Room is made by evicting the least recently used,
// the same key's old entry last.
//
// The LRU has two segments, probation (20 % of the bytes) and protected (80 %): strict LRU lost to
// memcached in every row that was measured, the segmented one won (Zipf .99: .800 against .770).
// It is global: the shard whose oldest entry is the oldest evicts. For a small entry its own shard
// does where its oldest is no more than a second, or an eighth of the age, younger; that saves
// moving pages between shards.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "server/base/ledger.h"
#include "server/base/reason_table.h"
#include "server/base/types.h"
#include "server/base/value.h"

namespace cistern::l1 {

using base::Bytes;
using base::TimePoint;

inline constexpr std::size_t kMaxSmallBytes = 4 * proto::kKiB;

// Why an entry left, or never came in. Names are the metrics' labels.
enum class Removal : std::uint8_t { kEvicted, kExpired, kDeleted, kReplaced, kInvalidated };
inline constexpr std::size_t kRemovalCount = 5;
std::string_view name(Removal reason);

enum class Source : std::uint8_t { kPut, kFill };

struct Options {
  std::uint64_t budget_bytes = 0;
  base::Duration max_age{0};  // an entry stays no longer than this; 0: no bound
  unsigned shards = 0;        // a power of two; 0: chosen from the budget
};

struct Stats {
  std::uint64_t budget_bytes = 0;
  std::uint64_t ceiling_bytes = 0;   // what it may take at present
  std::uint64_t used_bytes = 0;      // never above budget_bytes; rooms are in it
  std::uint64_t reserved_bytes = 0;  // of rooms, taken or being made
  std::uint64_t items = 0;
  std::uint64_t value_bytes = 0;  // payload of resident values
  std::uint64_t hits = 0, misses = 0;
  std::uint64_t inserted_by_put = 0, inserted_by_fill = 0;
  std::array<std::uint64_t, kRemovalCount> removed{};  // by Removal
  std::uint64_t no_room = 0;                           // reservations and inserts that were refused
  std::uint64_t revoked = 0;                           // evicted values whose readers had to let go
  // inserted_by_put + inserted_by_fill == items + the sum of removed, whenever nothing is running.
};

// A small value as it lies in its block. Valid inside the visitor only.
struct SmallView {
  std::uint64_t size;
  base::Version version;
  std::uint64_t expires_at_ms;
  std::uint32_t chunk_bytes;
  proto::ChunkDigest digest;  // of the bytes, which are one chunk (or none)
  Bytes metadata;
  Bytes bytes;
  TimePoint proven_at{};  // as NewEntry's; the epoch when it has none
};

// An entry to be stored: exactly one of `small` and `large` is what it is made of.
struct NewEntry {
  const base::ValueMeta* meta = nullptr;  // expiry, version, metadata; of a large one large->meta()
  Bytes small;                            // at most kMaxSmallBytes, when `large` is null
  proto::ChunkDigest small_digest = 0;
  base::ValuePtr large;  // stored once in its life
  // As of when it is known to be what a second tier has: when that was asked or told, not when it
  // answered. The epoch: there is none, and the entry keeps no such time.
  TimePoint proven_at{};
};

class Cache;

// Room for a large value, taken before its bytes are accepted. Given back when it goes out of
// scope. Movable; any thread.
class Room {
 public:
  Room() = default;
  Room(Room&& other) noexcept;
  Room& operator=(Room&& other) noexcept;
  ~Room();
  explicit operator bool() const { return cache_ != nullptr; }
  std::uint64_t bytes() const { return bytes_; }
  // Gives back all but `bytes`, if it has more; it is then of use for nothing but to keep them.
  void shrink_to(std::uint64_t bytes);
  // Of a claim: what is to be made yet.
  std::uint64_t missing_bytes() const { return claimed_ - bytes_; }

 private:
  friend class Cache;
  explicit Room(Cache* cache) : cache_(cache) {}
  Cache* cache_ = nullptr;
  std::uint64_t bytes_ = 0;
  std::uint64_t claimed_ = 0;  // bytes_ and what may still be taken
  std::optional<base::Version> evicted_own_;
};

class Cache {
 public:
  enum class Outcome : std::uint8_t { kStored, kConditionFailed, kNoRoom };
  struct Found {
    bool hit = false;
    base::ValuePtr large;       // null when the entry was small and the visitor has run
    base::Version version = 0;  // of a large one, and the next
    TimePoint proven_at{};
  };
  struct Peek {
    base::Version version;
    std::uint64_t expires_at_ms;
    std::uint64_t size;
    TimePoint proven_at;
  };

  // `ledger` takes the charge of what readers hold after an eviction, and must outlive the cache.
  Cache(const Options& options, base::Ledger& ledger);
  ~Cache();
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;

  // `hash` is base::hash_key(key), in every call. All calls: any thread; no lock is held on return.
  // An entry past its expiry is not there, in any call.

  // A hit counts as a use. `on_small` runs under the shard's lock: it copies and returns.
  enum class Look : std::uint8_t {
    kFirst,
    kAgain,  // for the same request: a hit was counted by the first one
  };
  template <typename OnSmall>
  Found find(Bytes key, std::uint64_t hash, TimePoint now, OnSmall&& on_small,
             Look look = Look::kFirst) {
    return find_impl(
        key, hash, now,
        [](void* visitor, const SmallView& view) {
          (*static_cast<std::remove_reference_t<OnSmall>*>(visitor))(view);
        },
        const_cast<void*>(static_cast<const void*>(&on_small)), look);
  }

  // Brings near to the processor what find() will look at for keys of these hashes, all at once:
  // one after the other they wait for memory three times each. Changes nothing.
  void prefetch(std::span<const std::uint64_t> hashes) const;

  // Without counting as a use or a hit; for STAT and conditions.
  std::optional<Peek> peek(Bytes key, std::uint64_t hash, TimePoint now) const;

  // Where a key stands, in the same way.
  struct Resident {
    std::uint64_t size;
    base::Version version;
    base::Duration age;  // since it was stored here, in steps of about a second
    // When set, the age may be longer by any multiple of this: L1 is older than ages are counted.
    base::Duration age_wraps{0};
    base::Duration idle;          // since it last moved up in the order of use, which few hits do
    std::uint32_t hits;           // since it was stored here
    bool hits_at_least;           // that many or more
    std::uint64_t expires_at_ms;  // 0: never
    std::optional<base::Duration> leaves_in;  // by its expiry or a bound on its stay
    TimePoint proven_at;                      // as NewEntry's
  };
  struct Standing {
    std::optional<Resident> resident;
    // What happened to it last, beside being stored or replaced by what is resident.
    base::ReasonTable::Memory memory;
  };
  Standing explain(Bytes key, std::uint64_t hash, TimePoint now) const;

  // All but the bytes, in the same way.
  struct Described {
    base::ValueMeta meta;
    TimePoint proven_at{};
  };
  std::optional<Described> describe(Bytes key, std::uint64_t hash, TimePoint now) const;

  base::Duration max_age() const;

  // Whether a value of this cost, entry_overhead() included, could ever be stored.
  bool could_hold(std::uint64_t cost_bytes) const;
  // Cost of a large entry beside ValuePtr's own cost_bytes(), at most: a page for its block and a
  // part of the index. What it doesn't take is given back when it is stored.
  std::uint64_t entry_overhead(std::size_t key_bytes) const;
  // Whether a value is stored in its block; else it takes a ValuePtr. Keys are at most
  // proto::kMaxKeyBytes long.
  static bool is_small(std::size_t key_bytes, std::size_t metadata_bytes, std::uint64_t size);

  // Room for a large value of `key`, by eviction; the key's own old entry goes last. Empty, and
  // nothing was evicted, when the cost is more than the ceiling or than what others have left of it
  // with their rooms. `cost_bytes` includes entry_overhead(). Where the old entry had to
  // go for it, the room remembers its version, and the condition of insert() is evaluated with
  // that.
  Room reserve(Bytes key, std::uint64_t hash, std::uint64_t cost_bytes, TimePoint now);
  // The same in steps, for who must not evict a million entries at once: claim() decides whether
  // there will be room, and evicts nothing; make() takes what is free, then evicts for at most
  // `step_bytes` more, and is called until the room has no missing_bytes(). False as grow(); such a
  // room is of no use.
  Room claim(std::uint64_t cost_bytes);
  bool make(Room& room, Bytes key, std::uint64_t hash, std::uint64_t step_bytes, TimePoint now);
  // Makes `room` larger in the same way; false, and the room unchanged, when it can't.
  bool grow(Room& room, Bytes key, std::uint64_t hash, std::uint64_t more_bytes, TimePoint now);

  // Stores `entry` in the place of what the key has, in one step: `condition` is evaluated against
  // the resident entry under the same lock (or the one that went for the sake of this value). A
  // large entry brings its `room`, which should cover large->cost_bytes() + entry_overhead(); what
  // is missing is made here, what is left of it is given back. On kNoRoom the old entry may have
  // been evicted, but never on kConditionFailed. The writes of one key must not run at the same
  // time. `wall_now_ms` turns meta's expires_at_ms into a monotonic deadline; `stay`, when not 0,
  // bounds the time in L1 beside Options::max_age.
  Outcome insert(Bytes key, std::uint64_t hash, const NewEntry& entry, Room room,
                 const base::Condition& condition, Source source, base::Duration stay,
                 TimePoint now, std::uint64_t wall_now_ms);

  // TOUCH of a resident entry whose version matches. False when it isn't resident, or had to go
  // because its block grew and there was no room. The bounds on its stay in L1 remain as they were.
  bool set_expiry(Bytes key, std::uint64_t hash, base::Version version, std::uint64_t expires_at_ms,
                  TimePoint now, std::uint64_t wall_now_ms);

  // The second tier had this version, with this expiry, at `at` or later. False when the entry
  // isn't resident, is another one, or keeps no such time. An earlier proof changes nothing.
  bool set_proven(Bytes key, std::uint64_t hash, base::Version version, std::uint64_t expires_at_ms,
                  TimePoint at, TimePoint now);

  enum class Erased : std::uint8_t { kErased, kAbsent, kConditionFailed };
  Erased erase(Bytes key, std::uint64_t hash, const base::Condition& condition, Removal reason,
               TimePoint now);

  // Removes what has expired, looking at about `entries` entries and buckets of the index, and goes
  // on there at the next call. Returns how many were removed. To be called from a timer.
  std::size_t sweep(std::size_t entries, TimePoint now);

  // Less than the budget while the process is near memory.limit. What is resident stays until
  // shrink() or others evict it, rooms that were given stay, and what could_hold() says, too.
  void set_ceiling(std::uint64_t bytes);
  // Evicts at most about `step_bytes` of what is above the ceiling. False when there is nothing
  // left that could go.
  bool shrink(std::uint64_t step_bytes, TimePoint now);

  Stats stats() const;
  std::uint64_t used_bytes() const;

 private:
  friend class Room;
  class Impl;
  using Visitor = void (*)(void*, const SmallView&);
  Found find_impl(Bytes key, std::uint64_t hash, TimePoint now, Visitor visitor, void* state,
                  Look look);
  void give_back(const Room& room);
  std::unique_ptr<Impl> impl_;
};

}  // namespace cistern::l1
