#include "proto/outbox.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace cistern::proto {

void Outbox::open(std::uint32_t id, std::uint64_t credit_bytes, std::size_t frame_bytes) {
  const auto [at, is_new] = sending_.try_emplace(id);
  Sending& stream = at->second;
  if (is_new) stream.place = idle_.insert(idle_.end(), id);
  stream.credit = credit_bytes;
  stream.frame_bytes = frame_bytes;
  enqueue(stream);
}

bool Outbox::add_credit(std::uint32_t id, std::uint64_t bytes) {
  const auto found = sending_.find(id);
  if (found == sending_.end()) return true;
  Sending& stream = found->second;
  const std::uint64_t paid = std::min(bytes, stream.owed);
  stream.owed -= paid;
  bytes -= paid;
  if (bytes > kMaxCreditBytes - stream.credit) return false;
  stream.credit += bytes;
  enqueue(stream);
  return true;
}

void Outbox::ready(std::uint32_t id) {
  const auto found = sending_.find(id);
  if (found == sending_.end()) return;
  enqueue(found->second);
}

void Outbox::close(std::uint32_t id) {
  if (sending_.empty()) return;
  const auto found = sending_.find(id);
  if (found == sending_.end()) return;
  const Sending& stream = found->second;
  (stream.queued ? turn_ : idle_).erase(stream.place);
  sending_.erase(found);
}

void Outbox::enqueue(Sending& stream) {
  if (stream.queued) return;
  stream.queued = true;
  turn_.splice(turn_.end(), idle_, stream.place);
}

void Outbox::flush_control(Batch& batch) {
  if (control_.empty()) return;
  const std::size_t offset = batch.control.size();
  const std::size_t size = control_.size();
  if (offset == 0) {
    batch.control.swap(control_);
  } else {
    batch.control.insert(batch.control.end(), control_.begin(), control_.end());
  }
  Batch::reuse(control_);
  if (!batch.segments.empty() && batch.segments.back().is_control() &&
      batch.segments.back().offset + batch.segments.back().size == offset) {
    batch.segments.back().size += size;
  } else {
    batch.segments.push_back(Segment{.size = size, .offset = offset});
  }
  batch.bytes += size;
}

void Outbox::collect(Batch& batch, std::size_t enough_bytes) {
  flush_control(batch);
  while (!turn_.empty() && batch.bytes < enough_bytes) {
    const std::uint32_t id = turn_.front();
    Sending& stream = sending_.at(id);
    stream.queued = false;
    idle_.splice(idle_.end(), turn_, stream.place);
    send_from(id, batch);
    flush_control(batch);
  }
}

// A compressed chunk costs as many bytes as the receiver has of it in the end.
void Outbox::spend(Sending& stream, const Piece& piece) {
  stream.credit -= piece.bytes.size;
  if (!piece.compressed) return;
  stream.in_chunk += piece.bytes.size;
  if (!piece.chunk_end) return;
  const std::uint64_t rest = piece.compressed_end.raw_bytes - std::exchange(stream.in_chunk, 0);
  const std::uint64_t covered = std::min(rest, stream.credit);
  stream.credit -= covered;
  stream.owed += rest - covered;
}

void Outbox::send_from(std::uint32_t id, Batch& batch) {
  const Sending& stream = sending_.at(id);
  std::size_t bound = stream.frame_bytes;
  if (small_frames_ || !turn_.empty()) bound = std::min(bound, kFairFrameBytes);
  bound = static_cast<std::size_t>(std::min<std::uint64_t>(bound, stream.credit));

  Piece piece = streams_.next_piece(id, bound);
  // The source may have closed its own stream, or others, meanwhile.
  const auto found = sending_.find(id);
  if (found == sending_.end()) return;
  switch (piece.kind) {
    case Piece::Kind::kWait:
      return;  // ready() or credit puts it in the queue again
    case Piece::Kind::kBytes: {
      const std::size_t size = piece.bytes.size;
      if (size == 0 || size > bound) std::abort();  // the source broke its contract
      if (piece.compressed) {
        encode_compressed_head(
            control_, id, size, piece.chunk_end,
            piece.chunk_end ? std::optional(piece.compressed_end) : std::optional<CompressedEnd>());
      } else {
        encode_data_head(control_, id, size, piece.chunk_end);
      }
      ++frames_out_;
      flush_control(batch);
      batch.bytes += size;
      spend(found->second, piece);
      batch.segments.push_back(std::move(piece.bytes));
      enqueue(found->second);
      return;
    }
    case Piece::Kind::kEnd:
      encode(control_, id, piece.end);
      ++frames_out_;
      close(id);
      streams_.sent_end(id);
      return;
    case Piece::Kind::kFailed:
      close(id);
      streams_.source_failed(id, piece.error);
      return;
  }
}

}  // namespace cistern::proto
