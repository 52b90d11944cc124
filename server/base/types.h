// Names that every part of the daemon uses.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "proto/bytes.h"
#include "proto/digest.h"
#include "proto/limits.h"
#include "proto/status.h"

namespace cistern::base {

using proto::Bytes;
using proto::Error;
using proto::fail;
using proto::MutableBytes;
using proto::Result;
using proto::Status;

using Duration = std::chrono::nanoseconds;
// Monotonic. Comes from Loop::now() alone, so that tests can hold it in their hands.
using TimePoint = std::chrono::time_point<std::chrono::steady_clock, Duration>;

// 64 random bits drawn by the daemon that opens the PUT; compared for equality, never ordered.
using Version = std::uint64_t;

// What a value is, beside its bytes. Immutable once the value is committed, but for TOUCH, which
// replaces `expires_at_ms` alone.
struct ValueMeta {
  std::uint64_t size = 0;  // bytes
  Version version = 0;
  std::uint64_t expires_at_ms = 0;  // Unix time; 0: never
  std::uint32_t chunk_bytes = 0;    // a multiple of 4 KiB; every chunk but the last has this size
  proto::ValueDigest digest{};
  std::string metadata;  // a JSON object as the writer sent it, or empty

  std::uint64_t chunk_count() const { return (size + chunk_bytes - 1) / chunk_bytes; }
  // Size of chunk `index`, which must be below chunk_count().
  std::uint32_t size_of_chunk(std::uint64_t index) const {
    const std::uint64_t left = size - index * chunk_bytes;
    return left < chunk_bytes ? static_cast<std::uint32_t>(left) : chunk_bytes;
  }
};

// What a write demands of the value that it replaces or removes.
struct Condition {
  enum class Kind : std::uint8_t { kNone, kIfAbsent, kIfVersion };
  Kind kind = Kind::kNone;
  Version version = 0;  // of kIfVersion

  bool holds(std::optional<Version> current) const {
    switch (kind) {
      case Kind::kNone:
        return true;
      case Kind::kIfAbsent:
        return !current.has_value();
      case Kind::kIfVersion:
        return current == version;
    }
    return false;
  }
};

// The hash under which a key is indexed everywhere in this process: XXH3-64 with a seed drawn at
// start, so that no client can choose keys that collide.
std::uint64_t hash_key(Bytes key);

// Independent of hash_key(): the two together stand for a key where it isn't stored itself.
std::uint64_t second_hash(Bytes key);

}  // namespace cistern::base
