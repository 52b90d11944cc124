// The form in which values lie in a second tier, the same for every store. Bytes in, Result out.
//
// Manifest: a fixed part, a JSON header, the raw bytes of a value that is stored inline. All
// integers are little-endian; version and chunk count stand at fixed offsets for Redis' script.
//
//   offset bytes
//        0     4 magic "CSTM"
//        4     1 envelope version, 1
//        5     1 flags: bit 0, the value is inline; all others 0
//        6     2 reserved, 0
//        8     8 version
//       16     8 chunk count; 0 when inline
//       24     4 length of the JSON header
//       28     4 length of the payload; the value's size when inline, else 0
//       32     8 XXH3-64 of the fixed part, with this field zero, and the JSON header
//       40       JSON header, then payload, and nothing more
//
//   JSON header: {"key": text, or "key_hex" where the key isn't UTF-8, "version": 16 hex digits,
//   "size": bytes, "chunk_bytes": bytes, "expires_at": Unix ms or 0, "digest": 32 hex digits,
//   "meta": the writer's metadata as it was sent, as a string ("meta_hex" where it isn't UTF-8),
//   absent when there is none}
//
// Chunk: a header of 56 bytes and the stored bytes.
//
//   offset bytes
//        0     4 magic "CSCH"
//        4     1 envelope version, 1
//        5     1 codec: 0, raw
//        6     2 reserved, 0
//        8     8 version
//       16     8 XXH3-64 (seed 0) of the key
//       24     4 index
//       28     4 raw length
//       32     4 stored length
//       36     4 id of the encryption key, 0
//       40     8 digest of the raw bytes, XXH3-64
//       48     8 digest of the stored bytes, XXH3-64
#pragma once

#include <array>
#include <string>

#include "server/l2/store.h"

namespace cistern::l2 {

inline constexpr std::size_t kManifestFixedBytes = 40;
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

ChunkHeader encode_chunk_header(const ChunkIdentity& identity, proto::ChunkDigest digest);
// The digest that the stored bytes must have; kValueLost when the header isn't exactly that of a
// raw chunk of this identity. `header` has kChunkHeaderBytes.
base::Result<proto::ChunkDigest> decode_chunk_header(const ChunkIdentity& identity,
                                                     base::Bytes header);

}  // namespace cistern::l2
