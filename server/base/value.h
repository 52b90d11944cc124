// A value too large for one block: its metadata and its chunks, shared by L1 and its readers.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "server/base/chunk.h"
#include "server/base/ledger.h"
#include "server/base/types.h"

namespace cistern::base {

// Complete and verified when it is made. L1 holds one reference while the value is resident; a
// reader holds another for as long as it reads, which keeps the bytes alive after an eviction,
// charged to Account::kHeld. Where that account has no room the value is revoked: its chunks are
// let go of but for those that a reader has in its hands, and the reader goes on from L2 or fails.
// Any thread.
class ChunkedValue {
 public:
  // chunks.size() == meta.chunk_count(), each of its proper size and sealed.
  ChunkedValue(ValueMeta meta, std::vector<ChunkPtr> chunks);

  // As at the start; of the expiry only expires_at_ms() below is current.
  const ValueMeta& meta() const { return meta_; }
  std::uint64_t expires_at_ms() const { return expires_at_ms_.load(std::memory_order_relaxed); }
  // TOUCH.
  void set_expires_at_ms(std::uint64_t unix_ms) {
    expires_at_ms_.store(unix_ms, std::memory_order_relaxed);
  }
  // Chunk `index`; null once the value was revoked.
  ChunkPtr chunk(std::uint64_t index) const;
  bool revoked() const;

  // What it takes: chunks as allocated, metadata and bookkeeping. Constant.
  std::uint64_t cost_bytes() const { return cost_bytes_; }
  // The same for a value of which only the metadata is known yet.
  static std::uint64_t cost_for(std::uint64_t size, std::uint32_t chunk_bytes,
                                std::size_t metadata_bytes);

  // Of the one who takes it out of L1 while readers remain: the charge moves with the value, or
  // the value is revoked. Call at most one of them, once.
  void hold(Reservation held);
  void revoke();

 private:
  const ValueMeta meta_;
  std::atomic<std::uint64_t> expires_at_ms_;
  std::uint64_t cost_bytes_ = 0;
  mutable std::mutex mutex_;
  Reservation held_;  // before the chunks, so that it is given back after they are
  std::vector<ChunkPtr> chunks_;
  bool revoked_ = false;
};

using ValuePtr = std::shared_ptr<ChunkedValue>;

}  // namespace cistern::base
