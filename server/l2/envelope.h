// The form in which values lie in a second tier, the same for every store. Bytes in, Result out.
//
// Manifest: a fixed part, a JSON header, the raw bytes of a value that is stored inline. All
// integers are little-endian; version and chunk count stand at fixed offsets for Redis' script.
//
//   offset bytes
//        0     4 magic "CSTM"
//        4     1 envelope version, 2
//        5     1 flags: bit 0, the value is inline; all others 0
//        6     2 reserved, 0
//        8     8 version
//       16     8 chunk count; 0 when inline
//       24     8 when the value expires: Unix ms, 0: never
//       32     4 length of the JSON header
//       36     4 length of the payload; the value's size when inline, else 0
//       40     8 XXH3-64 of the fixed part, with this field zero, and the JSON header
//       48       JSON header, then payload, and nothing more
//
//   JSON header: {"key": text, or "key_hex" where the key isn't UTF-8, "version": 16 hex digits,
//   "size": bytes, "chunk_bytes": bytes, "digest": 32 hex digits, "meta": the writer's metadata as
//   it was sent, as a string ("meta_hex" where it isn't UTF-8), absent when there is none}
//
// The version and the expiry stand in the fixed part so that a manifest that was read can be
// compared with what lies there now by reading that much of it (decode_stamp).
//
// Chunk: a header of 56 bytes and the stored bytes.
//
//   offset bytes
//        0     4 magic "CSCH"
//        4     1 envelope version, 2
//        5     1 codec: 0, raw; 1, one zstd frame (RFC 8878)
//        6     2 reserved, 0
//        8     8 version
//       16     8 XXH3-64 (seed 0) of the key
//       24     4 index
//       28     4 raw length
//       32     4 stored length: the raw length when raw, less than that otherwise
//       36     4 id of the encryption key, 0
//       40     8 digest of the raw bytes, XXH3-64
//       48     8 digest of the stored bytes, XXH3-64; that of the raw bytes when raw
#pragma once

#include <array>
#include <string>

#include "server/l2/store.h"

namespace cistern::l2 {

inline constexpr std::size_t kManifestFixedBytes = 48;
// JSON makes at most six bytes of one; the other fields take less than 512.
inline constexpr std::size_t kMaxManifestHeaderBytes =
    6 * (proto::kMaxKeyBytes + proto::kMaxMetadataBytes) + 512;
inline constexpr std::size_t kMaxManifestBytes =
    kManifestFixedBytes + kMaxManifestHeaderBytes + kInlineBytes;

// `manifest` must be one that decode_manifest would accept: a value that the service has verified.
std::string encode_manifest(base::Bytes key, const Manifest& manifest);
// What is stored under the name of `key`. kValueLost, with what is wrong in the message, for all
// that isn't exactly a manifest of that key; no length in it is trusted before it is checked.
base::Result<Manifest> decode_manifest(base::Bytes key, base::Bytes stored);
// Of the first kManifestFixedBytes of it, or more. Not verified: their digest needs the rest. So a
// stamp that differs is a reason to read the manifest, and one that is equal is proof enough, since
// no accident makes it so.
base::Result<Stamp> decode_stamp(base::Bytes stored);

inline constexpr std::size_t kChunkHeaderBytes = 56;
using ChunkHeader = std::array<std::byte, kChunkHeaderBytes>;
// An index fits 32 bits for the largest value in the smallest chunks.
static_assert(proto::kMaxValueBytes / proto::kMinChunkBytes <= 0xffffffffu);

// What a chunk must say of itself, known from the manifest before it is read.
struct ChunkIdentity {
  base::Version version = 0;
  std::uint64_t key_hash = 0;  // chunk_key_hash
  std::uint32_t index = 0;
  std::uint32_t raw_bytes = 0;
};
std::uint64_t chunk_key_hash(base::Bytes key);

// What it says beside that: how its bytes are stored, and what they must be.
struct ChunkForm {
  Codec codec = Codec::kRaw;
  std::uint32_t stored_bytes = 0;
  proto::ChunkDigest raw_digest = 0;
  proto::ChunkDigest stored_digest = 0;
};

ChunkHeader encode_chunk_header(const ChunkIdentity& identity, const ChunkForm& form);
// kValueLost when the header isn't exactly that of a chunk of this identity, with an envelope of
// `envelope_bytes`, header and stored bytes together. `header` has kChunkHeaderBytes.
base::Result<ChunkForm> decode_chunk_header(const ChunkIdentity& identity, base::Bytes header,
                                            std::uint64_t envelope_bytes);
// The header of a chunk that is to be stored, and what it is about.
ChunkForm form_of(const StoredChunk& chunk);

}  // namespace cistern::l2
