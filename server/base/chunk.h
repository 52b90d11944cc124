// A chunk's memory: where payload bytes land from a socket, live, and leave from.
//
// It is anonymous memory that is sent by copying. A memfd that is sent by `sendfile`, or pages
// spliced from here, spare the copy into the kernel, but cross loopback page by page: 2.3 to 2.5
// GiB/s and 0.4 s of CPU per GiB, against 3.6 to 5.2 GiB/s and 0.2 to 0.28 s for plain writes of
// 256 to 1,024 KiB (Linux 6.18, AMD EPYC, 64 MiB values, one core for each end).
#pragma once

#include <cstdint>
#include <memory>

#include "server/base/types.h"

namespace cistern::base {

// Written by one owner until it is full and its digest set; then immutable and shared as
// ChunkPtr by L1, fills, readers and L2 writers, on any thread.
class Chunk {
 public:
  // Memory for up to `capacity_bytes` (1 or more), not zeroed. From 64 KiB on it is mapped by
  // itself in whole pages, so that it goes back to the kernel; what was used before is recycled
  // (spare_pool.h). Whoever receives into it calls populate_fresh() first. Throws std::bad_alloc.
  static std::shared_ptr<Chunk> allocate(std::size_t capacity_bytes);
  ~Chunk();
  Chunk(const Chunk&) = delete;
  Chunk& operator=(const Chunk&) = delete;

  MutableBytes space() { return {data_, capacity_}; }
  Bytes bytes() const { return {data_, size_}; }
  std::size_t size() const { return size_; }
  proto::ChunkDigest digest() const { return digest_; }

  // Ends the writing: the chunk has `size` bytes (at most the capacity) with `digest`. What is past
  // the size goes back, so that afterwards allocated_bytes() is allocated_for(size); the bytes may
  // move, and space() must not be used any more. Throws std::bad_alloc.
  void seal(std::size_t size, proto::ChunkDigest digest);

  // What this chunk takes, bookkeeping included. For a capacity it can be known beforehand.
  std::size_t allocated_bytes() const;
  static std::size_t allocated_for(std::size_t capacity_bytes);

  // Bytes of all chunks alive, and of the pool of spare ones. Any thread.
  static std::uint64_t live_bytes();
  static std::uint64_t spare_bytes();
  // How much the pool may keep in any case; default 8 MiB. Beside that, what live chunks and other
  // storage (L1's small values) leave of `bytes`; default 0. With 0 and 0 nothing is kept.
  static void set_spare_limit(std::uint64_t bytes);
  static void set_storage_budget(std::uint64_t bytes);
  static void add_other_storage(std::int64_t bytes);
  // Returns the oldest spare memory, at least `bytes` of it where there is so much, which takes
  // about 0.1 ms for each MiB. How much it was.
  static std::uint64_t release_spares(std::uint64_t bytes);
  // To be called from a timer: returns some of what has been kept for long.
  static void release_old_spares(TimePoint now);

 private:
  Chunk() = default;
  std::byte* data_ = nullptr;
  std::size_t capacity_ = 0;
  std::size_t mapped_ = 0;  // bytes mapped, or 0 when the memory is the heap's
  std::size_t size_ = 0;
  proto::ChunkDigest digest_ = 0;
};

using ChunkPtr = std::shared_ptr<const Chunk>;

}  // namespace cistern::base
