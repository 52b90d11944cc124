// Every fixed limit of the wire, each with one name. What an operator can set is checked against
// these when the configuration is read; what a peer sends, before anything is allocated.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cistern::proto {

inline constexpr std::size_t kKiB = 1024;
inline constexpr std::size_t kMiB = 1024 * kKiB;
inline constexpr std::uint64_t kGiB = 1024 * static_cast<std::uint64_t>(kMiB);

// Header of every frame: payload length, type, flags, reserved, request id.
inline constexpr std::size_t kHeaderBytes = 12;
// The digest of a chunk (XXH3-64) and of a value (XXH3-128).
inline constexpr std::size_t kChunkDigestBytes = 8;
inline constexpr std::size_t kValueDigestBytes = 16;

// Largest settings of `limits.max_key_bytes` and `limits.max_metadata_bytes`.
inline constexpr std::size_t kMaxKeyBytes = 4 * kKiB;
inline constexpr std::size_t kMaxMetadataBytes = 16 * kKiB;
// A TLV area: the metadata and whatever else a head carries.
inline constexpr std::size_t kMaxTlvBytes = kMaxMetadataBytes + kKiB;
inline constexpr std::size_t kMaxMessageBytes = 4 * kKiB;  // text of an ERROR
inline constexpr std::size_t kMaxPingBytes = 64;
inline constexpr std::size_t kMaxNameBytes = 64;  // of the peer's software
// A value of up to this size travels in one frame each way, beside its head.
inline constexpr std::size_t kMaxInlineBytes = 16 * kKiB;
// A frame other than DATA; read whole before it is decoded.
inline constexpr std::size_t kMaxControlBytes = 64 * kKiB;
inline constexpr std::size_t kMaxFixedHeadBytes = 64;
static_assert(kMaxFixedHeadBytes + kMaxKeyBytes + kMaxTlvBytes + kValueDigestBytes +
                  kMaxInlineBytes <=
              kMaxControlBytes);
// STATS answers with one frame.
inline constexpr std::size_t kMaxStatsBytes = kMaxControlBytes - 64;
// EXPLAIN, too.
inline constexpr std::size_t kMaxExplanationBytes = 8 * kKiB;

// Bounds of `limits.max_frame_bytes`: the payload of a DATA frame, digest included.
inline constexpr std::size_t kMinFrameBytes = kMaxControlBytes;
inline constexpr std::size_t kMaxFrameBytes = 16 * kMiB;
// What a DATA frame carries at most while other streams of the connection wait.
inline constexpr std::size_t kFairFrameBytes = 64 * kKiB;
// A reader may ask for frames no smaller than this.
inline constexpr std::size_t kMinReaderFrameBytes = kKiB;

// Bounds of `storage.chunk_bytes`.
inline constexpr std::size_t kMinChunkBytes = 4 * kKiB;
inline constexpr std::size_t kMaxChunkBytes = 16 * kMiB;
inline constexpr std::size_t kDefaultChunkBytes = 1020 * kKiB;  // 255 pages
static_assert(kMaxChunkBytes >= kDefaultChunkBytes);

// Bound of `limits.max_value_bytes`. With the smallest chunk a value then has 2^30 chunks.
inline constexpr std::uint64_t kMaxValueBytes = 4096 * kGiB;
inline constexpr std::uint64_t kUnknownSize = ~std::uint64_t{0};

// Unspent credit of a stream never passes this.
inline constexpr std::uint64_t kMaxCreditBytes = (std::uint64_t{1} << 31) - 1;

// Longest time to live: 100 years. Longer is a bad request, so that sums of times cannot overflow.
inline constexpr std::uint64_t kMaxTtlMs = 100ull * 365 * 24 * 3600 * 1000;
inline constexpr std::uint64_t kDefaultTtl = ~std::uint64_t{0};  // storage.default_ttl

// What a reader of frames needs beside the payload: two whole control frames.
inline constexpr std::size_t kScratchBytes = 2 * (kHeaderBytes + kMaxControlBytes);

}  // namespace cistern::proto
