// How an entry lies in memory: one block of a size class, found by a 32-bit handle.
//
//   Block (48 bytes) | Lifetime, if kHasLifetime | proven_ns, if kHasProof | ValuePtr, if kLarge |
//   key | metadata | bytes
//
// The metadata and bytes of a large value are its ChunkedValue's. Everything here is read and
// written under the lock of the shard that the block belongs to.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "proto/limits.h"
#include "server/base/value.h"

namespace cistern::l1 {

// Byte offset in the shard's arena / 16: the number of a page << 11 | offset in the page / 16.
// Never 0, since a page begins with its own header.
using Handle = std::uint32_t;
inline constexpr Handle kNoHandle = 0;

inline constexpr std::size_t kGrainBytes = 16;
inline constexpr std::size_t kPageBytes = 32 * proto::kKiB;
inline constexpr std::size_t kPageHeaderBytes = 32;
inline constexpr std::size_t kSlotSpaceBytes = kPageBytes - kPageHeaderBytes;
inline constexpr unsigned kPageShift = 11;
static_assert(kPageBytes / kGrainBytes == std::size_t{1} << kPageShift);
inline constexpr std::uint64_t kMaxPages = std::uint64_t{1} << (32 - kPageShift);

enum BlockFlags : std::uint8_t {
  kLive = 1,         // not a free slot
  kLarge = 2,        // a ValuePtr stands for metadata and bytes
  kHasLifetime = 4,  // a deadline is set
  kProtected = 8,    // in the protected segment, else in probation
  kHasProof = 16,    // it comes from a second tier, which may change without us
};

struct Lifetime {
  std::int64_t deadline_ns;     // monotonic; the entry is gone from here on
  std::int64_t stay_until_ns;   // bound by max_age or `stay`, which a TOUCH does not move
  std::uint64_t expires_at_ms;  // the value's own, 0: never
};
inline constexpr std::int64_t kForever = std::numeric_limits<std::int64_t>::max();

inline constexpr std::uint32_t kMostHits = 1023;
inline constexpr unsigned kBornShift = 30;  // about a second
inline constexpr std::uint32_t kBornMask = (1u << 22) - 1;
// 52 days.
inline constexpr base::Duration kBornWraps{std::int64_t{kBornMask + 1} << kBornShift};

struct Block {
  base::Version version;
  proto::ChunkDigest digest;
  Handle chain;         // next in the hash bucket; of a free slot: the next free one
  Handle newer, older;  // neighbours in the LRU list
  std::uint32_t tag;    // 32 bits of the key's hash
  std::uint32_t stamp;  // last use, in stamps (lru.h)
  std::uint32_t key_bytes : 13;
  std::uint32_t value_bytes : 13;
  std::uint32_t size_class : 6;
  std::uint32_t metadata_bytes : 13;
  std::uint32_t chunk_pages : 13;  // chunk_bytes / 4 KiB
  std::uint32_t flags : 6;
  // For who asks about the entry; nothing is decided by them.
  std::uint32_t hits : 10;  // stops at kMostHits, from where a hit writes nothing here
  std::uint32_t born : 22;  // when it came into L1, in units of 2^kBornShift ns that wrap

  bool has(BlockFlags flag) const { return (flags & flag) != 0; }
  void set(BlockFlags flag) { flags = (flags | flag) & 0x3F; }
  void clear(BlockFlags flag) { flags = flags & ~std::uint32_t{flag} & 0x3F; }
  void count_hit() {
    if (hits < kMostHits) hits = (hits + 1) & kMostHits;
  }
  std::byte* after_header() { return reinterpret_cast<std::byte*>(this + 1); }
  Lifetime& lifetime() { return *reinterpret_cast<Lifetime*>(after_header()); }
  std::byte* after_lifetime() {
    return after_header() + (has(kHasLifetime) ? sizeof(Lifetime) : 0);
  }
  // Of one with kHasProof: the monotonic time as of which it is known to be current.
  std::int64_t& proven_ns() { return *reinterpret_cast<std::int64_t*>(after_lifetime()); }
  std::byte* after_proof() {
    return after_lifetime() + (has(kHasProof) ? sizeof(std::int64_t) : 0);
  }
  base::ValuePtr& large() { return *reinterpret_cast<base::ValuePtr*>(after_proof()); }
  std::byte* key_at() { return after_proof() + (has(kLarge) ? sizeof(base::ValuePtr) : 0); }

  base::Bytes key() { return {key_at(), key_bytes}; }
  base::Bytes metadata() { return {key_at() + key_bytes, metadata_bytes}; }
  base::Bytes bytes() { return {key_at() + key_bytes + metadata_bytes, value_bytes}; }
  std::uint64_t expires_at_ms() { return has(kHasLifetime) ? lifetime().expires_at_ms : 0; }
  base::TimePoint proven_at() {
    return base::TimePoint(base::Duration(has(kHasProof) ? proven_ns() : 0));
  }
  std::uint64_t value_size() { return has(kLarge) ? large()->meta().size : value_bytes; }
};
static_assert(sizeof(Block) <= 48, "a small entry's overhead is a promise");
static_assert(sizeof(Block) % alignof(Lifetime) == 0 && sizeof(Lifetime) % alignof(void*) == 0);
static_assert(proto::kMaxChunkBytes / (4 * proto::kKiB) < 1u << 13);
static_assert(proto::kMaxKeyBytes < 1u << 13);

inline constexpr std::size_t block_bytes(bool large, bool has_lifetime, bool has_proof,
                                         std::size_t key_bytes, std::size_t metadata_bytes,
                                         std::size_t value_bytes) {
  return sizeof(Block) + (has_lifetime ? sizeof(Lifetime) : 0) +
         (has_proof ? sizeof(std::int64_t) : 0) + key_bytes +
         (large ? sizeof(base::ValuePtr) : metadata_bytes + value_bytes);
}

// Classes: multiples of 16 to 512, then about a thirteenth larger each, as large as so many of them
// still fit a page. The largest fits a page six times. Over all sizes from 600 to 5,400 bytes
// blocks fill 94 % of their pages; with eighths it was 92 %, and 89 % for values of 1 KiB.
inline constexpr std::size_t kMinBlockBytes = 64;
inline constexpr std::size_t kFineClassBytes = 512;
inline constexpr std::size_t kMinSlots = 6;
inline constexpr std::size_t kMaxBlockBytes =
    kSlotSpaceBytes / kMinSlots / kGrainBytes * kGrainBytes;
static_assert(kMaxBlockBytes < 1u << 13, "a block's parts have fields of 13 bits");
static_assert(block_bytes(true, true, true, proto::kMaxKeyBytes, 0, 0) <= kMaxBlockBytes,
              "a large value's block must hold the longest key");

namespace detail {
// The class after that of `bytes`.
constexpr std::size_t next_class(std::size_t bytes) {
  if (bytes < kFineClassBytes) return bytes + kGrainBytes;
  const std::size_t slots = kSlotSpaceBytes / (bytes + bytes / 13);
  return kSlotSpaceBytes / (slots < kMinSlots ? kMinSlots : slots) / kGrainBytes * kGrainBytes;
}
constexpr std::size_t count_classes() {
  std::size_t count = 1;
  for (std::size_t bytes = kMinBlockBytes; bytes < kMaxBlockBytes; bytes = next_class(bytes)) {
    ++count;
  }
  return count;
}
}  // namespace detail

inline constexpr std::size_t kClassCount = detail::count_classes();
static_assert(kClassCount <= 64, "sets of classes are 64-bit masks");

inline constexpr std::array<std::uint16_t, kClassCount> kClassBytes = [] {
  std::array<std::uint16_t, kClassCount> classes{};
  std::size_t bytes = kMinBlockBytes;
  for (auto& one : classes) {
    one = static_cast<std::uint16_t>(bytes);
    bytes = detail::next_class(bytes);
  }
  return classes;
}();
static_assert(kClassBytes.back() == kMaxBlockBytes);

// By size in grains, rounded up.
inline constexpr std::array<std::uint8_t, kMaxBlockBytes / kGrainBytes + 1> kClassOfGrains = [] {
  std::array<std::uint8_t, kMaxBlockBytes / kGrainBytes + 1> classes{};
  std::size_t one = 0;
  for (std::size_t grains = 0; grains < classes.size(); ++grains) {
    if (grains * kGrainBytes > kClassBytes[one]) ++one;
    classes[grains] = static_cast<std::uint8_t>(one);
  }
  return classes;
}();

// `bytes` is at most kMaxBlockBytes.
inline std::uint8_t class_of(std::size_t bytes) {
  return kClassOfGrains[(bytes + kGrainBytes - 1) / kGrainBytes];
}
inline constexpr std::uint16_t slots_per_page(std::uint8_t size_class) {
  return static_cast<std::uint16_t>(kSlotSpaceBytes / kClassBytes[size_class]);
}

}  // namespace cistern::l1
