// The receiving side of a chunk connection: bytes in, replies out; no socket.
//
// A chunk's payload goes from the socket straight into the memory in which the chunk will live.
// What isn't payload (the reply's first line, the chunk's 56-byte header) passes through a small
// buffer. The memory of a chunk is allocated when its header has arrived and been checked.
#pragma once

#include <array>
#include <memory>
#include <string>

#include "server/base/chunk.h"
#include "server/l2/envelope.h"
#include "server/l2/redis_protocol.h"

namespace cistern::l2 {

class ReplyReceiver {
 public:
  // The reply that comes next.
  struct Expected {
    bool is_chunk = false;  // else a status line
    bool wanted = true;     // else a chunk is received and dropped
    ChunkIdentity identity;
  };
  struct Event {
    enum class Kind { kNone, kReply, kBroken };
    Kind kind = Kind::kNone;
    // kReply: the chunk, its stored bytes sealed and verified (null for a status line and for what
    // wasn't wanted); an error is this reply's alone. kBroken: why the connection is of no more
    // use.
    base::Result<StoredChunk> reply = StoredChunk();
  };

  // Where the next bytes belong, in this order; the second may be empty. Valid until the next call.
  std::array<base::MutableBytes, 2> space();
  // So many bytes were put there.
  void received(std::size_t bytes);
  // Call until kNone. `expected` is that of the oldest reply that is still due, or null when none
  // is; it stays the same until its kReply.
  Event next(const Expected* expected);
  // The chunk under way isn't wanted any more; its memory is let go of.
  void abandon();

 private:
  enum class Phase { kHead, kChunkHeader, kPayload, kTrailer, kDrop };

  static constexpr std::size_t kBufferBytes = 512;

  base::Bytes buffered() const { return base::Bytes(buffer_).subspan(begin_, end_ - begin_); }
  void consume(std::size_t bytes);
  void drop(std::uint64_t bytes, base::Result<StoredChunk> outcome);
  Event read_head(const Expected* expected);
  Event begin_chunk(const Expected& expected, const ReplyHead& head);
  bool read_chunk_header(const Expected& expected);
  bool read_payload();
  Event read_trailer();
  Event finish();

  std::array<std::byte, kBufferBytes> buffer_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  Phase phase_ = Phase::kHead;
  std::uint64_t drop_left_ = 0;
  std::shared_ptr<base::Chunk> chunk_;
  std::size_t envelope_bytes_ = 0;  // of the chunk under way
  ChunkForm form_;                  // the same, once its header is there
  std::uint32_t raw_bytes_ = 0;     // the same
  std::size_t filled_ = 0;          // of chunk_
  proto::ChunkHasher hasher_;
  base::Result<StoredChunk> outcome_ = StoredChunk();
};

}  // namespace cistern::l2
