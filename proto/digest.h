// Integrity from writer to reader, defined in PROTOCOL.md, "Digests".
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "proto/bytes.h"

struct XXH3_state_s;

namespace cistern::proto {

// XXH3-64 (seed 0) of a chunk's raw bytes.
using ChunkDigest = std::uint64_t;
ChunkDigest chunk_digest(Bytes raw);

// XXH3-128 (seed 0) in its canonical order: the high half first, big-endian, as xxhsum prints it.
using ValueDigest = std::array<std::byte, 16>;
std::string to_hex(const ValueDigest& digest);
std::string to_hex(Bytes bytes);

// The digest of a value: XXH3-128 over the digests of its chunks in order (each LE64), the chunk
// size (LE32) and the value's size (LE64). A value of 0 bytes has no chunks.
class ValueHasher {
 public:
  ValueHasher();
  ~ValueHasher();
  ValueHasher(ValueHasher&&) noexcept;
  ValueHasher& operator=(ValueHasher&&) noexcept;

  void add(ChunkDigest digest);
  // May be called once.
  ValueDigest finish(std::uint32_t chunk_bytes, std::uint64_t value_bytes);

  // The same for a value of at most one chunk, without a state.
  static ValueDigest of_single(ChunkDigest digest, std::uint32_t chunk_bytes,
                               std::uint64_t value_bytes);

 private:
  struct Free {
    void operator()(XXH3_state_s* state) const;
  };
  std::unique_ptr<XXH3_state_s, Free> state_;
};

// The digest of a chunk whose bytes arrive piece by piece.
class ChunkHasher {
 public:
  ChunkHasher();
  ~ChunkHasher();
  ChunkHasher(ChunkHasher&&) noexcept;
  ChunkHasher& operator=(ChunkHasher&&) noexcept;

  void add(Bytes raw);
  // The digest of all that was added since the last call; starts over.
  ChunkDigest finish();

 private:
  struct Free {
    void operator()(XXH3_state_s* state) const;
  };
  std::unique_ptr<XXH3_state_s, Free> state_;
};

}  // namespace cistern::proto
