// What the memcached store is told: the settings under `l2` and `l2.memcached`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "server/base/types.h"
#include "server/l2/envelope.h"

namespace cistern::l2 {

struct MemcachedAddress {
  std::string host;  // without brackets
  std::uint16_t port = 11211;
  std::uint32_t weight = 1;
};
// "host:port", "[ipv6]:port": for messages, metrics and logs.
std::string display(const MemcachedAddress& address);

// memcached's longest key, and what our names take of it beside the prefix (server/l2/keys.h).
inline constexpr std::size_t kMemcachedKeyBytes = 250;
// What an item takes beside its key and its value: memcached's header (48 bytes), its place for
// the cas id, the flags, ends of text and line. 56 + 1 + 4 + 2 in 1.6; some more for other
// versions.
inline constexpr std::size_t kMemcachedItemBytes = 80;
// The most that storing one chunk of `chunk_bytes` takes of an item.
constexpr std::uint64_t memcached_item_bytes(std::uint64_t chunk_bytes) {
  return chunk_bytes + kChunkHeaderBytes + kMemcachedKeyBytes + kMemcachedItemBytes;
}

// What a connection's socket buffers are set to, for each direction; the kernel doubles it.
inline constexpr std::size_t kMemcachedSocketBufferBytes = 128 * proto::kKiB;
// What a connection may hold: full socket buffers, and the client library's own two.
inline constexpr std::size_t kMemcachedConnectionBytes =
    2 * 2 * kMemcachedSocketBufferBytes + 32 * proto::kKiB;
// What a thread of the pool may hold for a chunk on its way: the client library's copy of it or
// ours, and the chunk of a read that was given up meanwhile.
constexpr std::uint64_t memcached_thread_bytes(std::uint64_t chunk_bytes) {
  return 2 * memcached_item_bytes(chunk_bytes) + 64 * proto::kKiB;
}

struct MemcachedOptions {
  std::vector<MemcachedAddress> servers;
  bool is_weighted = false;  // the servers' weights count
  std::string key_prefix = "cistern:";
  // The largest item of every server, its own -I; and the chunks that are stored, which must fit.
  std::uint64_t item_max_bytes = proto::kMiB;
  std::uint64_t chunk_bytes = proto::kDefaultChunkBytes;
  // No fewer than servers.
  unsigned pool_threads = 4;
  base::Duration connect_timeout = std::chrono::seconds(1);
  // A small operation's whole time; of a chunk's transfer, the time without a byte.
  base::Duration op_timeout = std::chrono::seconds(2);
  base::Duration max_idle = std::chrono::hours(7 * 24);
  base::Duration provisional_ttl = std::chrono::minutes(10);
  base::Duration replace_grace = std::chrono::minutes(1);
  // Operations that wait for one server; more are kL2Busy.
  std::size_t max_queued = 1024;
};

}  // namespace cistern::l2
