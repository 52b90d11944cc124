// One shard of L1: blocks, index and order of use under one mutex. What concerns all shards (where
// to evict, the ledger) is the cache's.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "server/base/reason_table.h"
#include "server/l1/arena.h"
#include "server/l1/budget.h"
#include "server/l1/cache.h"
#include "server/l1/index.h"
#include "server/l1/lru.h"

namespace cistern::l1 {

// Large values taken out under a lock: to be let go of after it, by whoever holds this list. Their
// cost is in Budget::used() until then.
using Dropped = std::vector<base::ValuePtr>;

// What a block is to be made of.
struct Image {
  base::Bytes key;
  std::uint32_t tag = 0;
  base::Version version = 0;
  proto::ChunkDigest digest = 0;
  std::uint32_t chunk_bytes = 0;
  Lifetime lifetime{kForever, kForever, 0};
  std::int64_t proven_ns = 0;   // 0: there is nothing that could prove it
  base::Bytes metadata, bytes;  // of a small one
  base::ValuePtr large;

  bool has_lifetime() const {
    return lifetime.deadline_ns != kForever || lifetime.expires_at_ms != 0;
  }
  std::size_t block_size() const {
    return block_bytes(large != nullptr, has_lifetime(), proven_ns != 0, key.size(),
                       metadata.size(), bytes.size());
  }
};

// All calls but published() under `mutex`. A handle is good until the next call of evict() or
// tidy(), which move blocks.
class Shard {
 public:
  Shard(Budget& budget, std::uint64_t max_pages, std::uint64_t share_bytes);
  ~Shard();
  Shard(const Shard&) = delete;
  Shard& operator=(const Shard&) = delete;

  mutable std::mutex mutex;

  // For prefetching.
  Index& index() { return index_; }

  Handle find(base::Bytes key, std::uint32_t tag) { return index_.find(key, tag); }
  Block& at(Handle handle) { return arena_.at(handle); }
  static bool is_past(Block& block, base::TimePoint now) {
    return block.has(kHasLifetime) &&
           now.time_since_epoch().count() >= block.lifetime().deadline_ns;
  }
  // A use.
  void touch(Handle handle, base::TimePoint now) {
    arena_.at(handle).count_hit();
    if (lru_.touch(handle, stamp_of(now))) publish();
  }

  enum class Stored : std::uint8_t { kStored, kNoSlot, kNoMemory };
  // Stores the image in place of `old`, which may be kNoHandle and goes only if it is stored.
  // kNoSlot: the purse cannot pay the page that it takes. A large one's cost is paid already.
  Stored store(const Image& image, Handle old, Purse& purse, base::TimePoint now, Dropped& dropped);
  // The same for an entry whose block gets another shape, but is neither new nor replaced.
  Stored reshape(const Image& image, Handle old, Purse& purse, base::TimePoint now);

  // And remembers why.
  void remove(Handle handle, Removal reason, base::TimePoint now, Dropped& dropped);
  const base::ReasonTable& reasons() const { return reasons_; }
  // How long ago the entry came into L1, to about a second.
  struct Age {
    base::Duration age;
    bool may_be_longer;  // by any number of kBornWraps
  };
  Age age_of(const Block& block, base::TimePoint now) const;

  struct Evicted {
    bool anything = false;
    std::uint64_t freed_bytes = 0;  // pages given, and the cost of what is in `dropped`
  };
  // Evicts the least recently used, but not the entry of `spared`, until about `wanted_bytes` are
  // freed, or a bounded amount of work is done.
  Evicted evict(std::uint64_t wanted_bytes, base::Bytes spared, std::uint32_t spared_tag,
                base::TimePoint now, Dropped& dropped);
  // Evicts the single next one but for `spared`; false when there is none.
  bool evict_one(Handle spared, base::TimePoint now, Dropped& dropped);
  bool has_slot(std::size_t block_size) const {
    return arena_.free_slots(class_of(block_size)) != 0;
  }

  // Gives back a page of a class that has two pages' worth of free slots. At the end of an
  // operation that removes.
  void tidy();

  // Removes what is past its deadline among the next entries; `looked_at` grows by how many buckets
  // and entries it saw. True when it has come to the end and begins anew.
  bool sweep(std::size_t limit, base::TimePoint now, std::size_t& looked_at, std::size_t& removed,
             Dropped& dropped);

  // How old the next victim is, for the choice of a shard; any thread.
  struct Published {
    bool has_victim;
    bool reclaimable;  // a page can be freed without evicting
    Stamp oldest;
  };
  Published published() const;
  // At the end of every operation that changes the order.
  void publish();

  struct Counters {
    std::uint64_t items = 0, value_bytes = 0, hits = 0, misses = 0;
    std::array<std::uint64_t, 2> inserted{};  // by Source
    std::array<std::uint64_t, kRemovalCount> removed{};
  } counters;
  // Evictions that may be made here before the other shards are looked at again.
  unsigned local_evictions = 0;

 private:
  Handle slot_for(std::uint8_t size_class, Purse& purse, Stored& outcome);
  static void fill(Block& block, const Image& image, base::TimePoint now);
  void put_in(Handle slot, const Image& image, bool to_protected, Purse& purse,
              base::TimePoint now);
  // A small one in the place of a small one of the same key, in its slot.
  void rewrite(Handle handle, const Image& image, base::TimePoint now);
  // Removes, and remembers nothing of it: another entry takes its place.
  void drop(Handle handle, Removal reason, Dropped& dropped);
  base::ValuePtr take_out(Handle handle);
  // Of the next ones; how many.
  unsigned prefetch_victims();
  void reclaim_page(std::uint8_t size_class);
  void move_block(Handle from, Handle to);

  Budget& budget_;
  Arena arena_;
  Index index_;
  Lru lru_;
  base::ReasonTable reasons_;
  base::TimePoint first_born_{};
  std::uint64_t mortal_items_ = 0;  // with a lifetime
  std::uint64_t sweep_bucket_ = 0;
  std::vector<Handle> moving_;
  alignas(64) std::atomic<std::uint64_t> published_{0};
};

}  // namespace cistern::l1
