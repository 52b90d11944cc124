#include "server/l1/index.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "server/base/check.h"

namespace cistern::l1 {
namespace {

// The header, the key and a small value's bytes.
constexpr std::size_t kPrefetchBytes = 192;
// What of a larger one is fetched once its size is known; the rest comes by itself.
constexpr std::size_t kPrefetchValueBytes = 1280;
// The index shrinks once half of its buckets would do. Two for each entry that leaves, and one more
// to catch up, so that it is at its smallest when the last one has left.
constexpr unsigned kMergesPerRemoval = 3;
constexpr unsigned kSplitsPerInsert = 2;

}  // namespace

// The buckets below 2^k are addressed by k bits of the tag, those of the next power of two that
// exist by k + 1 bits.
std::uint64_t Index::bucket_of(std::uint32_t tag) const {
  const std::uint64_t floor = std::bit_floor(buckets_);
  const std::uint64_t wide = tag & (2 * floor - 1);
  return wide < buckets_ ? wide : tag & (floor - 1);
}

Handle Index::find(base::Bytes key, std::uint32_t tag) {
  for (Handle handle = head(bucket_of(tag)); handle != kNoHandle;) {
    Block& block = arena_.at(handle);
    if (block.tag == tag && block.key_bytes == key.size() &&
        std::memcmp(block.key_at(), key.data(), key.size()) == 0)
      return handle;
    handle = block.chain;
  }
  return kNoHandle;
}

void Index::prefetch_bucket(std::uint32_t tag) { __builtin_prefetch(&head(bucket_of(tag))); }

void Index::prefetch_first(std::uint32_t tag) { prefetch(head(bucket_of(tag))); }

void Index::prefetch_next(std::uint32_t tag) {
  const Handle first = head(bucket_of(tag));
  if (first == kNoHandle) return;
  const Block& block = arena_.at(first);
  if (block.tag != tag) return prefetch(block.chain);
  const char* const at = reinterpret_cast<const char*>(&block);
  const std::size_t size =
      std::min<std::size_t>(kClassBytes[block.size_class], kPrefetchValueBytes);
  for (std::size_t line = kPrefetchBytes; line < size; line += 64) __builtin_prefetch(at + line);
}

void Index::prefetch(Handle handle) {
  if (handle == kNoHandle) return;
  const char* const at = reinterpret_cast<const char*>(&arena_.at(handle));
  for (std::size_t line = 0; line < kPrefetchBytes; line += 64) __builtin_prefetch(at + line);
}

Handle* Index::link_to(Handle handle, std::uint32_t tag) {
  Handle* link = &head(bucket_of(tag));
  while (*link != handle) {
    CHECK(*link != kNoHandle);
    link = &arena_.at(*link).chain;
  }
  return link;
}

void Index::insert(Handle handle, Purse& purse) {
  Block& block = arena_.at(handle);
  Handle& first = head(bucket_of(block.tag));
  block.chain = first;
  first = handle;
  ++items_;
  for (unsigned i = 0; i < kSplitsPerInsert && items_ > buckets_; ++i) split(purse);
}

void Index::remove(Handle handle, Budget& budget) {
  Block& block = arena_.at(handle);
  *link_to(handle, block.tag) = block.chain;
  --items_;
  for (unsigned i = 0; i < kMergesPerRemoval && items_ < buckets_ / 2; ++i) merge(budget);
}

void Index::split(Purse& purse) {
  if (buckets_ % kSegmentBuckets == 0) {
    // Without room the chains grow longer until there is some.
    if (!purse.spend(kSegmentCost)) return;
    segments_.push_back(std::make_unique<Segment>());
  }
  const std::uint64_t added = buckets_++;
  const std::uint64_t floor = std::bit_floor(added);
  Handle* link = &head(added - floor);
  Handle& moved = head(added);
  moved = kNoHandle;
  while (*link != kNoHandle) {
    Block& block = arena_.at(*link);
    if ((block.tag & (2 * floor - 1)) != added) {
      link = &block.chain;
      continue;
    }
    const Handle handle = *link;
    *link = block.chain;
    block.chain = moved;
    moved = handle;
  }
}

void Index::merge(Budget& budget) {
  if (buckets_ == kSegmentBuckets) return;
  const std::uint64_t last = buckets_ - 1;
  Handle* end = &head(last - std::bit_floor(last));
  while (*end != kNoHandle) end = &arena_.at(*end).chain;
  *end = head(last);
  buckets_ = last;
  if (last % kSegmentBuckets == 0) {
    segments_.pop_back();
    budget.give(kSegmentCost);
  }
}

}  // namespace cistern::l1
