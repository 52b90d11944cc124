// L2 as the service sees it. One instance for each worker, used on that worker's loop alone.
//
// Every operation ends by calling its callback exactly once, on the loop, later (never inside the
// call), no later than its deadline plus one turn of the loop; also when the store is closed
// (kShuttingDown). A callback may start the next operation.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/base/chunk.h"
#include "server/base/loss.h"
#include "server/base/types.h"

namespace cistern::l2 {

using base::Bytes;
using base::Duration;
using base::Result;

// Whether a chunk is not there; with any other loss it is there, and damaged.
inline bool is_missing(const base::Error& error) {
  return error.status == base::Status::kValueLost && base::loss_of(error) == base::Loss::kMissing;
}

template <typename T>
using Callback = std::function<void(Result<T>)>;

// How a chunk's bytes are stored. The numbers are the envelope's.
enum class Codec : std::uint8_t { kRaw = 0, kZstd = 1 };
enum class Form : std::uint8_t {
  kRaw,     // as the writer's bytes
  kStored,  // as they lie in the second tier, whatever the codec
};

// What a compressed chunk is once it is decoded.
struct RawForm {
  std::uint32_t bytes = 0;
  proto::ChunkDigest digest = 0;
};

// A chunk as it lies in a second tier, or as it shall.
struct StoredChunk {
  Codec codec = Codec::kRaw;
  std::uint32_t raw_bytes = 0;        // of the writer's; what is stored is smaller, unless raw
  proto::ChunkDigest raw_digest = 0;  // of the writer's bytes
  base::ChunkPtr bytes;               // the stored ones, verified against their digest()

  static StoredChunk raw(base::ChunkPtr chunk) {
    const auto size = static_cast<std::uint32_t>(chunk->size());
    return {Codec::kRaw, size, chunk->digest(), std::move(chunk)};
  }
  // Empty when the bytes are the raw ones.
  std::optional<RawForm> raw_form() const {
    if (codec == Codec::kRaw) return std::nullopt;
    return RawForm{raw_bytes, raw_digest};
  }
};

// A chunk set: all chunks that one PUT wrote.
struct ChunkSet {
  std::string key;  // the value's
  base::Version version = 0;
  std::uint64_t chunk_count = 0;
};

// What L2 holds under a key. `inline_bytes` is the value when it is stored in the manifest, which
// is the case exactly when meta.size <= kInlineBytes. Verified against the manifest's own digest
// and meta.digest.
struct Manifest {
  base::ValueMeta meta;
  std::vector<std::byte> inline_bytes;
  proto::ChunkDigest inline_digest = 0;  // of inline_bytes
};

// What tells one state of a manifest from every other: a write makes a new version, a TOUCH another
// expiry.
struct Stamp {
  base::Version version = 0;
  std::uint64_t expires_at_ms = 0;  // Unix ms; 0: never
  bool operator==(const Stamp&) const = default;
};
inline Stamp stamp_of(const base::ValueMeta& meta) { return {meta.version, meta.expires_at_ms}; }

inline constexpr std::size_t kInlineBytes = proto::kMaxInlineBytes;

// What a committed write replaced or removed.
struct Replaced {
  std::optional<ChunkSet> chunks;  // empty: nothing was there, or it had no chunks
  bool existed = false;
};

enum class CommitKind : std::uint8_t {
  kCommitted,        // done; `replaced` says of what
  kConditionFailed,  // nothing was changed
  kUnknown,          // it may or may not have happened; from now on it cannot happen any more
};
struct CommitResult {
  CommitKind kind = CommitKind::kUnknown;
  Replaced replaced;
  std::string cause;  // of kUnknown, for the message
};

class Store {
 public:
  virtual ~Store() = default;

  // Whether an operation may be tried now; Error says why not (kL2Unavailable while it reconnects).
  virtual Result<void> available() const = 0;
  // Whether the operator may call this daemon ready. Not less than available(): a store of several
  // servers goes on without one of them, and says so elsewhere.
  virtual Result<void> ready() const { return available(); }

  // Empty: the store says that nothing is there. An envelope that fails its checks is removed and
  // reported as kValueLost.
  virtual void get_manifest(std::string key, Callback<std::optional<Manifest>> done) = 0;

  // What the manifest says of itself now: a cheap question for who has read it before. Empty:
  // nothing is there. What lies there is verified no further than that; kValueLost when it isn't a
  // manifest.
  virtual void get_stamp(std::string key, Callback<std::optional<Stamp>> done) = 0;

  // Reads and verifies one chunk into memory of its own (the caller has reserved it). kValueLost
  // when it is missing, short, of another version or corrupt. kRaw gives raw bytes only where
  // something above the store decodes; a store itself gives every chunk as it is stored.
  using ReadId = std::uint64_t;
  virtual ReadId read_chunk(const std::string& key, const base::ValueMeta& meta,
                            std::uint64_t index, Form form, Callback<StoredChunk> done) = 0;
  // The callback is not called any more. The chunk's bytes, if under way, are received and dropped.
  virtual void cancel_read(ReadId id) = 0;

  // Stores one chunk under the provisional expiry, in the form in which it is given. It is held
  // until the callback.
  virtual void write_chunk(const std::string& key, base::Version version, std::uint64_t index,
                           StoredChunk chunk, Callback<void> done) = 0;

  // Sets the expiry of chunks [first, last) of a set, from now. With `only_longer` no expiry is
  // made shorter. Answers how many of them were there.
  virtual void expire_chunks(const ChunkSet& set, std::uint64_t first, std::uint64_t last,
                             Duration ttl, bool only_longer, Callback<std::uint64_t> done) = 0;

  // The commit of a PUT: one atomic operation that writes the manifest if `condition` holds.
  // Errors are definite: nothing was changed, and it can't happen later.
  virtual void commit(std::string key, const base::Condition& condition, const Manifest& manifest,
                      Callback<CommitResult> done) = 0;
  // DELETE, by the same path. kConditionFailed also for kIfVersion of an absent key.
  virtual void remove(std::string key, const base::Condition& condition,
                      Callback<CommitResult> done) = 0;
  // Removes the manifest of a value that was found lost, if it still has that version. Best effort,
  // logged and counted.
  virtual void discard(std::string key, base::Version version) = 0;

  // Refuses new operations, fails those that wait, and calls `closed` when nothing is under way.
  virtual void close(std::function<void()> closed) = 0;
};

}  // namespace cistern::l2
