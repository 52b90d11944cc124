// A shard's hash index: linear hashing over chains of handles. It grows by one bucket at an insert
// and shrinks by a few at a removal, so that no operation pays for all of them, and an empty shard
// has given all of it back. Under the shard's lock.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "server/l1/arena.h"
#include "server/l1/budget.h"

namespace cistern::l1 {

class Index {
 public:
  // Buckets come in segments; the first one is part of the shard itself.
  static constexpr std::uint64_t kSegmentBuckets = 512;
  // With its share of the directory.
  static constexpr std::uint64_t kSegmentCost = kSegmentBuckets * sizeof(Handle) + 32;

  explicit Index(Arena& arena) : arena_(arena) {}

  std::uint64_t items() const { return items_; }
  std::uint64_t buckets() const { return buckets_; }
  std::uint64_t cost() const { return segments_.size() * kSegmentCost; }

  Handle find(base::Bytes key, std::uint32_t tag);
  // In this order, each after the memory that the one before asked for has had time to come.
  void prefetch_bucket(std::uint32_t tag);
  void prefetch_first(std::uint32_t tag);
  void prefetch_next(std::uint32_t tag);
  // `handle`'s key must not be there, its tag set. Grows if `purse` can pay.
  void insert(Handle handle, Purse& purse);
  // Gives what it shrinks by to `budget`.
  void remove(Handle handle, Budget& budget);
  // The entry has moved from `from`, whose chain it has copied.
  void relink(Handle from, Handle to) { *link_to(from, arena_.at(to).tag) = to; }

  // The first handle of a bucket below buckets(); the chain goes on in the blocks.
  Handle first_of(std::uint64_t bucket) { return head(bucket); }

 private:
  using Segment = std::array<Handle, kSegmentBuckets>;

  std::uint64_t bucket_of(std::uint32_t tag) const;
  void prefetch(Handle handle);
  Handle& head(std::uint64_t bucket) {
    if (bucket < kSegmentBuckets) return first_[bucket];
    return (*segments_[bucket / kSegmentBuckets - 1])[bucket % kSegmentBuckets];
  }
  // Where the handle is stored that leads to `handle`.
  Handle* link_to(Handle handle, std::uint32_t tag);
  void split(Purse& purse);
  void merge(Budget& budget);

  Arena& arena_;
  std::uint64_t items_ = 0;
  std::uint64_t buckets_ = kSegmentBuckets;
  Segment first_{};
  std::vector<std::unique_ptr<Segment>> segments_;
};

}  // namespace cistern::l1
