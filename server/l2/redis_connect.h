// What both kinds of connection to Redis need on their way up: addresses and patience.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <asio/generic/stream_protocol.hpp>
#include <asio/io_context.hpp>

#include "server/base/types.h"
#include "server/l2/redis_url.h"

namespace cistern::l2 {

struct RedisAddress {
  asio::generic::stream_protocol::endpoint endpoint;
  std::string ip;  // numeric; empty with a unix socket
};

// The addresses behind a URL, in the order in which to try them; at least one, or an error. Names
// are looked up on a thread of Asio's own. `done` is called later, on `io`.
void resolve(asio::io_context& io, const RedisUrl& url,
             std::function<void(base::Result<std::vector<RedisAddress>>)> done);

// A socket without an option works, only less well: failures are ignored.
void set_int_option(int fd, int level, int name, int value);
// Both to kSocketBufferBytes.
void set_socket_buffers(int fd);

// A connection that was up for less than this before it broke counts as a failed attempt.
inline constexpr base::Duration kStableAfter = std::chrono::seconds(1);

}  // namespace cistern::l2
