// Values that are at hand whole, as those that travel inline.
#pragma once

#include <vector>

#include "server/service/worker.h"

namespace cistern::service {

struct Digests {
  proto::ValueDigest value{};
  proto::ChunkDigest bytes = 0;  // of all bytes as one
};
Digests digests_of(Bytes bytes, std::uint32_t chunk_bytes);

// Whether GetSink::on_small may have it.
inline bool fits_one_answer(std::uint64_t size, std::uint32_t chunk_bytes) {
  return size <= proto::kMaxInlineBytes && size <= chunk_bytes;
}

std::vector<base::ChunkPtr> chunks_of(Bytes bytes, std::uint32_t chunk_bytes);
base::ValuePtr value_of(const base::ValueMeta& meta, Bytes bytes);

// Stores a value of at most proto::kMaxInlineBytes in L1. Under the gate's lock of its key. `since`
// as of Worker::stay(), `proven_at` as of l1::NewEntry.
l1::Cache::Outcome insert_bytes(Worker& worker, Bytes key, std::uint64_t hash,
                                const base::ValueMeta& meta, Bytes bytes, proto::ChunkDigest digest,
                                const base::Condition& condition, l1::Source source,
                                base::TimePoint proven_at = {},
                                std::optional<base::TimePoint> since = {});

}  // namespace cistern::service
