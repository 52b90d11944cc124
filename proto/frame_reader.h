// Cuts a byte stream into frames without owning a socket, and without a buffer of its own while no
// frame is incomplete.
//
// The owner lends a scratch area (one for each worker) for the time of one burst: prepare(), read
// into what it returned, commit(), next() until kNeedBytes, finish(). The value bytes of a DATA
// frame go to where the owner wants them: those that were read into the scratch are copied, all
// later ones are read straight into the target.
//
// Invariant: after a burst that ran until kNeedBytes, carry_ holds at most one incomplete control
// frame or DATA head, and no value bytes. An owner that stops earlier leaves at most what it has
// read in it, at most kScratchBytes, and may call next() after the following prepare() before it
// reads.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "proto/bytes.h"
#include "proto/messages.h"

namespace cistern::proto {

class FrameReader {
 public:
  enum class Event : std::uint8_t {
    kNeedBytes,  // read more, or call finish()
    kFrame,      // header() and payload() are one whole frame other than DATA
    kData,       // a DATA frame begins: call set_target() or discard() before next()
    kDataEnd,    // its value bytes are complete
    kSkipped,    // a frame of an unknown, ignorable type has gone by
    kError,      // error() says what; the stream can't be read any further
  };

  // `max_frame_bytes` bounds the payload of DATA and of unknown frames; control frames are bounded
  // by kMaxControlBytes.
  explicit FrameReader(std::uint32_t max_frame_bytes) : max_frame_bytes_(max_frame_bytes) {}

  // From now on DATA frames may be of compressed chunks; before, that is an error.
  void take_compressed() { data_flags_ |= kFlagCompressed; }

  // Begins or goes on with a burst: where the next bytes belong, in this order (either may be
  // empty). `scratch` has at least kScratchBytes and must be the same until finish(). Between this
  // and commit() nothing else may be called here: a stream that ends meanwhile takes the memory of
  // the first area with it. So the owner waits until the socket is readable and then reads.
  std::array<MutableBytes, 2> prepare(MutableBytes scratch);
  // `bytes` (1 or more) were read into the areas of the last prepare().
  void commit(std::size_t bytes);
  Event next();
  // Ends the burst: the scratch isn't used after it. Call after kNeedBytes or when giving up.
  void finish();
  // Ends the burst, if there is one, and drops what was read: nothing will be handled any more.
  void abandon();

  // What was read and not handled, from the head of a frame on; empty within a DATA frame.
  Bytes buffered() const {
    return state_ == State::kHead ? Bytes(scratch_).subspan(begin_, end_ - begin_) : Bytes();
  }
  // Of kFrame, kData, kDataEnd. payload() is valid until the next call of anything here.
  const FrameHeader& header() const { return header_; }
  Bytes payload() const { return payload_; }
  // Of kData and kDataEnd.
  std::size_t data_bytes() const { return data_bytes_; }
  std::optional<ChunkDigest> chunk_end() const { return chunk_end_; }
  // Whether they are a compressed chunk's; with chunk_end() then how that ends.
  bool compressed() const { return (header_.flags & kFlagCompressed) != 0; }
  const CompressedEnd& compressed_end() const { return compressed_end_; }
  // Memory that an incomplete frame takes between bursts.
  std::size_t kept_bytes() const { return carry_.capacity(); }
  // Of kError.
  const Error& error() const { return error_; }

  // After kData: exactly data_bytes() long, and valid until kDataEnd or discard().
  void set_target(MutableBytes target);
  // After kData, or any time before kDataEnd: what is left of this frame is dropped.
  void discard();
  // Whether a DATA frame of `id` is being received, so that its target is in use.
  bool receiving(std::uint32_t id) const { return state_ == State::kInData && header_.id == id; }

 private:
  enum class State : std::uint8_t { kHead, kAwaitTarget, kInData, kSkip, kFailed };
  Event parse_head();
  Event take_data();
  Event fail_with(Status status, std::string message);

  const std::uint32_t max_frame_bytes_;
  State state_ = State::kHead;
  bool discarding_ = false;
  FrameHeader header_;
  Bytes payload_;
  std::uint8_t data_flags_ = kFlagChunkEnd;  // that are known
  std::optional<ChunkDigest> chunk_end_;
  CompressedEnd compressed_end_;
  std::size_t data_bytes_ = 0;
  std::size_t left_ = 0;  // of the DATA or skipped frame
  MutableBytes target_;   // what is left to fill
  MutableBytes offered_;  // the first area of the last prepare()
  MutableBytes scratch_;
  std::size_t begin_ = 0;  // unread bytes of the scratch
  std::size_t end_ = 0;
  std::vector<std::byte> carry_;
  Error error_;
};

}  // namespace cistern::proto
