// Writes a batch of segments to a non-blocking socket: as few system calls as there are runs of
// memory and of file extents, and on from where the last one stopped.
#pragma once

#include <cstddef>
#include <cstdint>

#include "proto/outbox.h"

namespace cistern::net {

class Writer {
 public:
  enum class Outcome : std::uint8_t {
    kDone,     // all of the batch was taken by the kernel, and the batch is empty again
    kMore,     // as many as were allowed were taken, and some of the batch are left
    kBlocked,  // the socket is full; call again when it is writable
    kFailed,   // error() says why; the socket is of no use
  };

  // To be filled while idle() only.
  proto::Batch& batch() { return batch_; }
  bool idle() const { return next_ == batch_.segments.size(); }

  // The owners of segments are let go of as soon as their last byte was taken. An extent's file
  // must not be rewritten then; see Segment. Takes `most_bytes`, which is positive, at most: a
  // frame, and so a batch, may be larger than what one turn should move.
  Outcome write(int socket, std::size_t most_bytes = ~std::size_t{0});

  // Bytes of memory that is somebody else's and that the kernel has not taken yet.
  std::size_t borrowed_bytes() const;
  // Copies them, and lets go of their owners. Throws std::bad_alloc.
  void copy_borrowed();
  // What the copies take until they were written.
  std::size_t copied_bytes() const { return idle() ? 0 : copied_bytes_; }

  // Bytes that the kernel has taken since the beginning.
  std::uint64_t written() const { return written_; }
  // Of the batch, what the kernel has not taken yet.
  std::size_t left_bytes() const { return batch_.bytes - taken_; }
  // Memory that the batch's control bytes take.
  std::size_t control_capacity() const { return batch_.control.capacity(); }
  // Keeps none of it when there is no batch.
  void trim() {
    if (idle()) proto::Out().swap(batch_.control);
  }
  int error() const { return error_; }

 private:
  // Bytes taken, or -1 with errno.
  std::ptrdiff_t write_memory(int socket, std::size_t most_bytes);
  std::ptrdiff_t write_extent(int socket, std::size_t most_bytes);
  void advance(std::size_t bytes);

  proto::Batch batch_;
  std::size_t next_ = 0;    // the first segment that is not written whole
  std::size_t offset_ = 0;  // what of it is
  std::size_t taken_ = 0;   // of the whole batch
  std::size_t copied_bytes_ = 0;
  std::uint64_t written_ = 0;
  int error_ = 0;
};

}  // namespace cistern::net
