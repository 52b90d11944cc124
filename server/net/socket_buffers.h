// The kernel's buffers of a connection: what they are set to, and what they are charged as.
//
// Left to itself Linux lets a TCP socket grow to 4 MB for sending (tcp_wmem) and 6 MB for receiving
// (tcp_rmem), which a peer that doesn't read, or a session that doesn't, keeps full. So both are
// set. A connection begins with small ones, which pipelined requests and their answers fit; while
// it carries a stream, and as long as there is room in the account, it has large ones, so that a
// transfer over loopback needs a wake-up every few hundred KiB and not every few dozen.
#pragma once

#include <cstddef>
#include <cstdint>

#include "proto/limits.h"

namespace cistern::net {

enum class Direction : std::uint8_t { kSend, kReceive };

// As passed to setsockopt. The kernel doubles it, for its own bookkeeping, and fills the double.
inline constexpr std::size_t kSmallBufferBytes = 32 * proto::kKiB;
inline constexpr std::size_t kLargeBufferBytes = 256 * proto::kKiB;
inline constexpr std::size_t charged_bytes(std::size_t buffer_bytes) { return 2 * buffer_bytes; }

// The kernel caps what it grants at net.core.wmem_max and rmem_max, so that less may be set, and
// never more than was asked for. Failures are of no consequence and ignored.
void set_buffer(int socket, Direction direction, std::size_t bytes);

// Loopback's segments are as large as its MTU, 64 KiB, and a receiver acknowledges every second
// one at once and a single one 40 ms later: buffers that don't hold two would move 1.6 MB/s. So
// segments are smaller. The kernel still hands on 64 KiB at a time.
inline constexpr int kMaxSegmentBytes = 16 * 1024;
static_assert(2 * kMaxSegmentBytes <= kSmallBufferBytes);

// What a listening socket's buffers are: a connection inherits them, and the largest window that
// TCP will ever offer on it is settled then, before the session makes them small.
void set_listener_buffers(int socket);

}  // namespace cistern::net
