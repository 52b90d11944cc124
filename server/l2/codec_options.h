// How chunks are compressed on their way to L2, and what that may take: the settings under
// `storage.compression`.
#pragma once

#include <cstdint>

#include "server/base/types.h"

namespace cistern::l2 {

enum class Packing : std::uint8_t { kAuto, kZstd, kNone };

struct CodecOptions {
  Packing packing = Packing::kAuto;
  int level = 1;
  std::uint32_t min_bytes = 4096;
  unsigned threads = 1;
  std::uint32_t chunk_bytes = proto::kDefaultChunkBytes;  // of what is compressed here
};

// The codec's account, at the start: what lies in it for good, and what chunks in work may take.
struct CodecMemory {
  std::uint64_t contexts = 0;
  // Frames from the beginning of their making until L2 has them.
  std::uint64_t encoding = 0;
  // Chunks while they are decoded; afterwards they take the place of their frames in the account of
  // who reads them.
  std::uint64_t decoding = 0;
  std::uint64_t total() const { return contexts + encoding + decoding; }
};
// At least a chunk for each thread and purpose; with a larger limit more, so that L2 may be slow to
// take frames, and that chunks of any size can be decoded. It tries the encoder, which takes some
// milliseconds.
CodecMemory codec_memory(const CodecOptions& options, unsigned workers, std::uint64_t limit_bytes);

// Smaller chunks are decoded on the loop: that takes 20 us, and the way to another thread and back
// is not shorter.
inline constexpr std::uint32_t kDecodeInlineBytes = 32 * proto::kKiB;

}  // namespace cistern::l2
