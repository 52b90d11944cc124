// What a connection is about to send, as a list of segments that are never assembled in one buffer:
// control frames first, then DATA of the streams that have credit and bytes, in turn.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "proto/messages.h"

namespace cistern::proto {

// Bytes in memory, or an extent of a file. `owner` keeps them alive and unchanged while it is held.
struct Segment {
  const std::byte* data = nullptr;  // null: an extent, or control bytes
  std::size_t size = 0;
  int fd = -1;               // of an extent
  std::uint64_t offset = 0;  // in the file, or in Batch::control
  std::shared_ptr<const void> owner{};

  bool is_extent() const { return fd >= 0; }
  bool is_control() const { return data == nullptr && fd < 0; }
};

// What one gathered write takes. The owner of the socket writes the segments in order, then clears.
struct Batch {
  Out control;
  std::vector<Segment> segments;
  std::size_t bytes = 0;  // of all segments

  Bytes memory_of(const Segment& segment) const {
    if (segment.is_control()) return {control.data() + segment.offset, segment.size};
    return {segment.data, segment.size};
  }
  bool empty() const { return segments.empty(); }
  void clear() {
    reuse(control);
    segments.clear();
    bytes = 0;
  }

  // Empties `out`. Keeps its storage for the next batch unless a burst has made it large: there
  // are many connections.
  static void reuse(Out& out) {
    out.clear();
    if (out.capacity() > kKeptBytes) Out().swap(out);
  }
  static constexpr std::size_t kKeptBytes = 16 * kKiB;
};

// A part of a value on its way out. Never crosses the end of a chunk.
struct Piece {
  enum class Kind : std::uint8_t {
    kWait,    // nothing now; the source says ready() when there is
    kBytes,   // `bytes`
    kEnd,     // all were taken: `end` closes the stream
    kFailed,  // `error`
  };
  Kind kind = Kind::kWait;
  Segment bytes;
  std::optional<ChunkDigest> chunk_end;  // these are the last bytes of a chunk with this digest
  // `bytes` are a compressed chunk's; with chunk_end, which is of the raw bytes, how that ends.
  bool compressed = false;
  CompressedEnd compressed_end{};
  End end;
  Error error;
};

class Outbox {
 public:
  // The connection's side: where the bytes of a stream come from and what becomes of it.
  struct Streams {
    virtual ~Streams() = default;
    // Takes the next bytes of stream `id`: at least 1, at most `max_bytes` (more is a defect that
    // ends the process), of one chunk. With a max_bytes of 0 (no credit) only an end or a failure
    // may be answered, else kWait. After bytes it's asked again in a later turn, after kWait once
    // ready() or more credit is there.
    virtual Piece next_piece(std::uint32_t id, std::size_t max_bytes) = 0;
    // The stream was closed and its END is in the batch, or its source failed. It's already
    // removed.
    virtual void sent_end(std::uint32_t id) = 0;
    virtual void source_failed(std::uint32_t id, const Error& error) = 0;
  };

  explicit Outbox(Streams& streams) : streams_(streams) {}

  // Where control frames are encoded to.
  Out& control() { return control_; }
  // Whether frames are small also when no other stream waits: for a peer that takes little.
  void set_small_frames(bool small) { small_frames_ = small; }
  // How many bytes of control frames wait to be collected.
  std::size_t control_bytes() const { return control_.size(); }
  // Memory that they take, or have taken and that is kept for the next.
  std::size_t control_capacity() const { return control_.capacity(); }
  // Makes room for `bytes` of control frames in all, and no more than that.
  void reserve_control(std::size_t bytes) { control_.reserve(bytes); }
  // Keeps no memory for the next when none wait.
  void trim() {
    if (control_.empty()) Out().swap(control_);
  }

  // `frame_bytes`: the most value bytes in a DATA frame of this stream. `id` isn't open.
  void open(std::uint32_t id, std::uint64_t credit_bytes, std::size_t frame_bytes);
  // False when the stream's unspent credit would pass kMaxCreditBytes. Unknown ids are ignored.
  bool add_credit(std::uint32_t id, std::uint64_t bytes);
  // The source has bytes (or an end, or an error) again.
  void ready(std::uint32_t id);
  void close(std::uint32_t id);
  bool has(std::uint32_t id) const { return sending_.contains(id); }
  // Whether it will be asked for bytes in its turn, without ready() or credit before.
  bool is_queued(std::uint32_t id) const {
    const auto found = sending_.find(id);
    return found != sending_.end() && found->second.queued;
  }

  // Whether collect() would yield anything, as far as is known without asking the sources.
  bool has_output() const { return !control_.empty() || !turn_.empty(); }
  // Appends to `batch` until it has `enough_bytes` or nothing is left to send. While other streams
  // wait, a DATA frame carries at most kFairFrameBytes.
  void collect(Batch& batch, std::size_t enough_bytes);

  std::uint64_t frames_out() const { return frames_out_; }

 private:
  using Place = std::list<std::uint32_t>::iterator;
  struct Sending {
    std::uint64_t credit = 0;
    std::uint64_t owed = 0;      // spent beyond the credit, by the end of a compressed chunk
    std::uint64_t in_chunk = 0;  // of a compressed one: bytes that were sent of it
    std::size_t frame_bytes = 0;
    bool queued = false;  // its place is in turn_, else in idle_
    Place place{};
  };
  void enqueue(Sending& stream);
  void flush_control(Batch& batch);
  static void spend(Sending& stream, const Piece& piece);
  void send_from(std::uint32_t id, Batch& batch);

  Streams& streams_;
  Out control_;
  std::unordered_map<std::uint32_t, Sending> sending_;
  // Every stream has one place, in one of the two: those that may have something to send, in turn,
  // and the others. An id that is closed and used again begins anew at the end.
  std::list<std::uint32_t> turn_;
  std::list<std::uint32_t> idle_;
  std::uint64_t frames_out_ = 0;
  bool small_frames_ = false;
};

}  // namespace cistern::proto
