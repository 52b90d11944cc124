// What the Redis store is told: the settings under `l2`.
#pragma once

#include <string>

#include "server/l2/redis_url.h"

namespace cistern::l2 {

// What a connection's socket buffers are set to, for each direction; the kernel doubles it. Left
// alone they grow to megabytes that no account knows.
inline constexpr std::size_t kSocketBufferBytes = 256 * proto::kKiB;
// What a connection may hold that belongs to no request: full socket buffers, and what the client
// library reads into.
inline constexpr std::size_t kConnectionBytes = 2 * 2 * kSocketBufferBytes + 64 * proto::kKiB;

struct RedisOptions {
  RedisUrl url;
  std::string key_prefix = "cistern:";
  // One attempt to connect: name, connection and login together.
  base::Duration connect_timeout = std::chrono::seconds(1);
  // A small operation's whole time; of a chunk's transfer, the time without a byte.
  base::Duration op_timeout = std::chrono::seconds(2);
  // One for commands and small values, the others for chunks. At least 2.
  std::uint32_t connections_per_worker = 2;
  // How long a value without a TTL stays when nobody reads it.
  base::Duration max_idle = std::chrono::hours(7 * 24);
  // Expiry of a chunk until its value is committed.
  base::Duration provisional_ttl = std::chrono::minutes(10);
  // What Redis' clock may be off from the one that was measured when a commit's outcome is given up
  // as unknown. Taken from op_timeout; a quarter of it at most.
  base::Duration commit_margin = std::chrono::milliseconds(100);
  // Operations that wait or are under way, on each side (commands, chunks); more are kL2Busy.
  std::size_t max_queued = 4096;
  // Of the invalidation channel; 0: there is none.
  base::Duration heartbeat{0};
};

}  // namespace cistern::l2
