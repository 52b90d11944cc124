// Bytes for tests of the wire: values, their digests, frames put together and taken apart by hand
// (not by the code under test), and connections fed in any split.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "proto/client_conn.h"
#include "proto/server_conn.h"

namespace cistern::testing {

using proto::Bytes;
using proto::MutableBytes;
using Buffer = std::vector<std::byte>;

inline Buffer buffer(std::string_view text) {
  const Bytes bytes = proto::as_bytes(text);
  return {bytes.begin(), bytes.end()};
}
inline void append(Buffer& to, Bytes bytes) { to.insert(to.end(), bytes.begin(), bytes.end()); }

// Bytes that differ at every place and for every seed.
inline Buffer make_value(std::size_t size, unsigned seed = 1) {
  Buffer value(size);
  std::uint32_t state = seed * 2654435761u + 1;
  for (std::byte& b : value) {
    state = state * 1664525u + 1013904223u;
    b = static_cast<std::byte>(state >> 24);
  }
  return value;
}

inline proto::ValueDigest digest_of(Bytes value, std::uint32_t chunk_bytes) {
  proto::ValueHasher hasher;
  for (std::size_t at = 0; at < value.size(); at += chunk_bytes) {
    hasher.add(proto::chunk_digest(
        value.subspan(at, std::min<std::size_t>(chunk_bytes, value.size() - at))));
  }
  return hasher.finish(chunk_bytes, value.size());
}

struct Frame {
  proto::FrameHeader header;
  Buffer payload;

  bool is(proto::Type type) const { return header.type == static_cast<std::uint8_t>(type); }
  Buffer bytes() const {
    Buffer out(proto::kHeaderBytes);
    proto::encode_header(out.data(), header);
    append(out, payload);
    return out;
  }
};

inline Frame frame(proto::Type type, std::uint32_t id, Bytes payload = {}, std::uint8_t flags = 0) {
  return Frame{{.length = static_cast<std::uint32_t>(payload.size()),
                .type = static_cast<std::uint8_t>(type),
                .flags = flags,
                .id = id},
               Buffer(payload.begin(), payload.end())};
}

// The whole frames at the start of `wire`, which they are removed from.
inline std::vector<Frame> take_frames(Buffer& wire) {
  std::vector<Frame> frames;
  std::size_t at = 0;
  while (wire.size() - at >= proto::kHeaderBytes) {
    Frame next{proto::decode_header(wire.data() + at), {}};
    if (wire.size() - at - proto::kHeaderBytes < next.header.length) break;
    at += proto::kHeaderBytes;
    next.payload.assign(wire.begin() + static_cast<std::ptrdiff_t>(at),
                        wire.begin() + static_cast<std::ptrdiff_t>(at + next.header.length));
    at += next.header.length;
    frames.push_back(std::move(next));
  }
  wire.erase(wire.begin(), wire.begin() + static_cast<std::ptrdiff_t>(at));
  return frames;
}

// Random numbers whose seed is printed when the test fails (CISTERN_SEED repeats one).
class Random {
 public:
  Random() : seed_(from_environment()), engine_(seed_) {}
  explicit Random(unsigned seed) : seed_(seed), engine_(seed) {}
  unsigned seed() const { return seed_; }
  // From 0 to below `bound`.
  std::size_t below(std::size_t bound) {
    return std::uniform_int_distribution<std::size_t>(0, bound - 1)(engine_);
  }
  bool one_in(std::size_t n) { return below(n) == 0; }

 private:
  static unsigned from_environment() {
    if (const char* const text = std::getenv("CISTERN_SEED")) {
      return static_cast<unsigned>(std::strtoul(text, nullptr, 10));
    }
    return std::random_device()();
  }
  const unsigned seed_;
  std::mt19937 engine_;
};

// How many of `left` bytes the next read yields.
using Split = std::function<std::size_t(std::size_t left)>;
inline Split all_at_once() {
  return [](std::size_t left) { return left; };
}
inline Split byte_by_byte() {
  return [](std::size_t) { return std::size_t{1}; };
}
inline Split random_split(Random& random, std::size_t most) {
  return [&random, most](std::size_t left) {
    return 1 +
           random.below(std::min(left, random.one_in(4) ? most : std::min<std::size_t>(most, 40)));
  };
}

// Reads `wire` into the areas as a socket would; the number of bytes.
inline std::size_t read_into(const std::array<MutableBytes, 2>& areas, Bytes wire) {
  std::size_t done = 0;
  for (const MutableBytes area : areas) {
    const std::size_t take = std::min(area.size(), wire.size() - done);
    std::copy_n(wire.begin() + static_cast<std::ptrdiff_t>(done), take, area.begin());
    done += take;
  }
  return done;
}

// Feeds a connection what lies in `wire` until it's empty or `handle` (process()) says stop.
// Every read is a burst of its own.
template <typename Conn>
void feed(Conn& conn, Buffer& wire, const Split& split, const std::function<bool()>& handle) {
  static Buffer scratch(proto::kScratchBytes);
  bool go_on = true;
  while (go_on && !conn.failed()) {
    const auto areas = conn.prepare(scratch);
    go_on = handle();  // what an earlier, stopped burst has left
    if (go_on && !wire.empty()) {
      const auto again = conn.prepare(scratch);
      const std::size_t take =
          read_into(again, Bytes(wire).first(std::min(wire.size(), split(wire.size()))));
      wire.erase(wire.begin(), wire.begin() + static_cast<std::ptrdiff_t>(take));
      conn.commit(take);
      go_on = handle();
    } else {
      go_on = false;
    }
    // Nobody may look at the scratch after the burst.
    conn.finish();
    std::fill(scratch.begin(), scratch.end(), std::byte{0xEE});
    (void)areas;
  }
}

inline void append_segments(Buffer& to, const proto::Batch& batch) {
  for (const proto::Segment& segment : batch.segments) append(to, batch.memory_of(segment));
}
// All that a connection has to send now.
template <typename Conn>
Buffer collect_all(Conn& conn, std::size_t enough_bytes = 256 * proto::kKiB) {
  Buffer out;
  proto::Batch batch;
  while (conn.has_output()) {
    conn.collect(batch, enough_bytes);
    append_segments(out, batch);
    batch.clear();
  }
  return out;
}

// A value on its way out, cut at the chunks' ends; for a GET's cover and for a PUT.
struct Source {
  Buffer value;
  std::uint32_t chunk_bytes = 0;
  std::size_t at = 0;
  std::size_t to = 0;                      // of the cover; the value's size
  std::size_t hold_at = ~std::size_t{0};   // no more than this for now
  std::size_t break_at = ~std::size_t{0};  // fails there
  std::size_t largest_ask = 0;

  Source() = default;
  Source(Buffer bytes, std::uint32_t chunk) : value(std::move(bytes)), chunk_bytes(chunk) {
    to = value.size();
  }

  proto::Piece next(std::size_t max_bytes) {
    largest_ask = std::max(largest_ask, max_bytes);
    proto::Piece piece;
    if (at >= break_at) {
      piece.kind = proto::Piece::Kind::kFailed;
      piece.error = proto::Error{proto::Status::kL2Timeout, "the source broke"};
      return piece;
    }
    if (at >= to) {
      piece.kind = proto::Piece::Kind::kEnd;
      piece.end = proto::End{digest_of(value, chunk_bytes), value.size()};
      return piece;
    }
    const std::size_t chunk_start = at - at % chunk_bytes;
    const std::size_t chunk_end = std::min<std::size_t>(chunk_start + chunk_bytes, value.size());
    const std::size_t take =
        std::min({max_bytes, chunk_end - at, std::min(hold_at, break_at) - std::min(at, hold_at)});
    if (take == 0) return piece;
    auto owner = std::make_shared<Buffer>(value.begin() + static_cast<std::ptrdiff_t>(at),
                                          value.begin() + static_cast<std::ptrdiff_t>(at + take));
    piece.kind = proto::Piece::Kind::kBytes;
    piece.bytes.data = owner->data();
    piece.bytes.size = take;
    piece.bytes.owner = owner;
    at += take;
    if (at == chunk_end) {
      piece.chunk_end = proto::chunk_digest(Bytes(value).subspan(chunk_start, at - chunk_start));
    }
    return piece;
  }
};

inline proto::ServerLimits small_limits() {
  proto::ServerLimits limits;
  limits.max_value_bytes = proto::kMiB;
  limits.max_frame_bytes = static_cast<std::uint32_t>(proto::kMinFrameBytes);
  limits.chunk_bytes = 4096;
  limits.max_key_bytes = 64;
  limits.max_metadata_bytes = 128;
  limits.max_streams = 8;
  limits.stream_window_bytes = 16384;
  limits.name = "test";
  return limits;
}

}  // namespace cistern::testing
