// A chunk as one zstd frame (RFC 8878): how it lies in a second tier and travels to who asks for
// it.
//
// The frame names the size of its content and no dictionary, and nothing follows it. Integrity is
// the chunk's digests' business; the frame has no checksum of its own.
//
// Measured (libzstd 1.5.4, AMD EPYC, a log's text, level 1, one core): 1020 KiB are compressed in
// 2.4 to 3.6 ms, and decoded in 0.7 ms; 32 KiB in 58 and 20 us.
#pragma once

#include <memory>
#include <optional>

#include "codec/fault.h"
#include "proto/digest.h"

struct ZSTD_CCtx_s;
struct ZSTD_DCtx_s;

namespace cistern::codec {

using proto::Bytes;
using proto::MutableBytes;

inline constexpr int kMinLevel = 1;
inline constexpr int kMaxLevel = 9;

// A chunk that is smaller than this is tried as a whole; its samples would be most of it.
inline constexpr std::size_t kSampleFromBytes = 64 * 1024;

// One thread at a time. Its memory is taken by the first calls, and kept.
class Encoder {
 public:
  // `level` from kMinLevel to kMaxLevel. Throws std::bad_alloc.
  explicit Encoder(int level);
  ~Encoder();
  Encoder(Encoder&&) noexcept;
  Encoder& operator=(Encoder&&) = delete;

  // The frame's size, or 0 when it doesn't fit `to`: a chunk that doesn't shrink to that.
  std::size_t encode(Bytes raw, MutableBytes to);
  // Whether three samples of 8 KiB, together, shrink by a tenth or more at level 1. `raw` has at
  // least kSampleFromBytes.
  bool promises(Bytes raw);

  std::size_t memory_bytes() const;
  // What an encoder may take for chunks up to `chunk_bytes`, as one that was tried took it.
  static std::size_t memory_for(int level, std::size_t chunk_bytes);

 private:
  struct Free {
    void operator()(ZSTD_CCtx_s* context) const;
  };
  std::size_t encode_at(int level, Bytes raw, MutableBytes to);

  const int level_;
  std::unique_ptr<ZSTD_CCtx_s, Free> context_;
};

// What can be seen to be wrong without decoding: to be asked before memory for `raw_bytes`, the
// chunk's recorded size, is allocated. Allocates nothing.
std::optional<Fault> check_frame(Bytes frame, std::size_t raw_bytes);

// One thread at a time.
class Decoder {
 public:
  Decoder();  // throws std::bad_alloc
  ~Decoder();
  Decoder(Decoder&&) noexcept;
  Decoder& operator=(Decoder&&) noexcept;

  // Fills `raw`, which is exactly as large as the chunk's recorded size. With a fault it may hold
  // anything. Allocates nothing, whatever window the frame claims: what it refers to lies in `raw`.
  std::optional<Fault> decode(Bytes frame, MutableBytes raw, proto::ChunkDigest digest);

  std::size_t memory_bytes() const;

 private:
  struct Free {
    void operator()(ZSTD_DCtx_s* context) const;
  };
  std::unique_ptr<ZSTD_DCtx_s, Free> context_;
};

}  // namespace cistern::codec
