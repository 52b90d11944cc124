#include "server/service/values.h"

#include <algorithm>
#include <utility>

namespace cistern::service {

Digests digests_of(Bytes bytes, std::uint32_t chunk_bytes) {
  Digests digests;
  digests.bytes = proto::chunk_digest(bytes);
  if (bytes.size() <= chunk_bytes) {
    digests.value = proto::ValueHasher::of_single(digests.bytes, chunk_bytes, bytes.size());
    return digests;
  }
  proto::ValueHasher hasher;
  for (std::size_t at = 0; at < bytes.size(); at += chunk_bytes) {
    const std::size_t size = std::min<std::size_t>(chunk_bytes, bytes.size() - at);
    hasher.add(proto::chunk_digest(bytes.subspan(at, size)));
  }
  digests.value = hasher.finish(chunk_bytes, bytes.size());
  return digests;
}

std::vector<base::ChunkPtr> chunks_of(Bytes bytes, std::uint32_t chunk_bytes) {
  std::vector<base::ChunkPtr> chunks;
  for (std::size_t at = 0; at < bytes.size(); at += chunk_bytes) {
    const Bytes part = bytes.subspan(at, std::min<std::size_t>(chunk_bytes, bytes.size() - at));
    const std::shared_ptr<base::Chunk> chunk = base::Chunk::allocate(part.size());
    std::copy(part.begin(), part.end(), chunk->space().begin());
    chunk->seal(part.size(), proto::chunk_digest(part));
    chunks.push_back(chunk);
  }
  return chunks;
}

base::ValuePtr value_of(const base::ValueMeta& meta, Bytes bytes) {
  return std::make_shared<base::ChunkedValue>(meta, chunks_of(bytes, meta.chunk_bytes));
}

l1::Cache::Outcome insert_bytes(Worker& worker, Bytes key, std::uint64_t hash,
                                const base::ValueMeta& meta, Bytes bytes, proto::ChunkDigest digest,
                                const base::Condition& condition, l1::Source source,
                                base::TimePoint proven_at, std::optional<base::TimePoint> since) {
  const base::TimePoint now = worker.loop.now();
  l1::NewEntry entry;
  entry.meta = &meta;
  entry.proven_at = proven_at;
  l1::Room room;
  if (l1::Cache::is_small(key.size(), meta.metadata.size(), meta.size)) {
    entry.small = bytes;
    entry.small_digest = digest;
  } else {
    const std::uint64_t cost =
        base::ChunkedValue::cost_for(meta.size, meta.chunk_bytes, meta.metadata.size()) +
        worker.cache.entry_overhead(key.size());
    room = worker.cache.reserve(key, hash, cost, now);
    if (!room) return l1::Cache::Outcome::kNoRoom;
    entry.large = value_of(meta, bytes);
    entry.meta = &entry.large->meta();
  }
  return worker.cache.insert(key, hash, entry, std::move(room), condition, source,
                             worker.stay(meta.expires_at_ms, since), now, worker.loop.unix_ms());
}

}  // namespace cistern::service
