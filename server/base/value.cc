#include "server/base/value.h"

#include <utility>

#include "server/base/check.h"

namespace cistern::base {
namespace {

constexpr std::size_t kInStringBytes = 15;    // what std::string holds without a heap block
constexpr std::size_t kBlockSlackBytes = 32;  // control block and rounding of the heap

std::uint64_t bookkeeping_bytes(std::uint64_t chunk_count, std::size_t metadata_bytes) {
  std::uint64_t bytes = sizeof(ChunkedValue) + kBlockSlackBytes;
  bytes += chunk_count * sizeof(ChunkPtr) + kBlockSlackBytes;
  if (metadata_bytes > kInStringBytes) bytes += metadata_bytes + kBlockSlackBytes;
  return bytes;
}

ValueMeta compact(ValueMeta meta) {
  meta.metadata.shrink_to_fit();
  return meta;
}

}  // namespace

ChunkedValue::ChunkedValue(ValueMeta meta, std::vector<ChunkPtr> chunks)
    : meta_(compact(std::move(meta))),
      expires_at_ms_(meta_.expires_at_ms),
      cost_bytes_(bookkeeping_bytes(chunks.size(), meta_.metadata.size())),
      chunks_(std::move(chunks)) {
  CHECK(chunks_.size() == (meta_.size == 0 ? 0 : meta_.chunk_count()));
  chunks_.shrink_to_fit();
  for (std::size_t i = 0; i < chunks_.size(); ++i) {
    CHECK(chunks_[i] != nullptr && chunks_[i]->size() == meta_.size_of_chunk(i));
    cost_bytes_ += chunks_[i]->allocated_bytes();
  }
}

ChunkPtr ChunkedValue::chunk(std::uint64_t index) const {
  const std::lock_guard lock(mutex_);
  if (revoked_) return nullptr;
  CHECK(index < chunks_.size());
  return chunks_[index];
}

bool ChunkedValue::revoked() const {
  const std::lock_guard lock(mutex_);
  return revoked_;
}

std::uint64_t ChunkedValue::cost_for(std::uint64_t size, std::uint32_t chunk_bytes,
                                     std::size_t metadata_bytes) {
  const std::uint64_t whole = size / chunk_bytes;
  const std::uint64_t rest = size % chunk_bytes;
  std::uint64_t cost = bookkeeping_bytes(whole + (rest != 0), metadata_bytes);
  cost += whole * Chunk::allocated_for(chunk_bytes);
  if (rest != 0) cost += Chunk::allocated_for(rest);
  return cost;
}

void ChunkedValue::hold(Reservation held) {
  const std::lock_guard lock(mutex_);
  CHECK(!revoked_ && !held_);
  held_ = std::move(held);
}

void ChunkedValue::revoke() {
  std::vector<ChunkPtr> dropped;  // freed after the lock is
  const std::lock_guard lock(mutex_);
  CHECK(!revoked_ && !held_);
  revoked_ = true;
  dropped.swap(chunks_);
}

}  // namespace cistern::base
