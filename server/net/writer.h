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
    kBlocked,  // the socket is full; call again when it is writable
    kFailed,   // error() says why; the socket is of no use
  };

  // To be filled while idle() only.
  proto::Batch& batch() { return batch_; }
  bool idle() const { return next_ == batch_.segments.size(); }

  // The owners of segments are let go of as soon as their last byte was taken. An extent's file
  // must not be rewritten then; see Segment.
  Outcome write(int socket);

  // Bytes that the kernel has taken since the beginning.
  std::uint64_t written() const { return written_; }
  // Memory that the batch's control bytes take.
  std::size_t control_capacity() const { return batch_.control.capacity(); }
  int error() const { return error_; }

 private:
  // Bytes taken, or -1 with errno.
  std::ptrdiff_t write_memory(int socket);
  std::ptrdiff_t write_extent(int socket);
  void advance(std::size_t bytes);

  proto::Batch batch_;
  std::size_t next_ = 0;    // the first segment that is not written whole
  std::size_t offset_ = 0;  // what of it is
  std::uint64_t written_ = 0;
  int error_ = 0;
};

}  // namespace cistern::net
