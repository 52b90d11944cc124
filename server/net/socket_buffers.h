// The kernel's buffers of a connection: what they are set to, and what they are charged as.
//
// Left to itself Linux lets a TCP socket grow to 4 MB for sending (tcp_wmem) and 6 MB for receiving
// (tcp_rmem), which a peer that doesn't read, or a session that doesn't, keeps full. So both are
// set. A connection begins with small ones, which pipelined requests and their answers fit; while
// it carries a stream, and as long as there is room in the account, it has larger ones, so that a
// transfer over loopback needs a wake-up every few hundred KiB and not every few dozen: with one
// write of 512 KiB at a time, 5.0 GiB/s from a buffer of 1 MiB, 3.5 from one of 256 KiB.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "proto/limits.h"

namespace cistern::net {

enum class Direction : std::uint8_t { kSend, kReceive };

// As passed to setsockopt. The kernel doubles it, for its own bookkeeping, and fills the double.
//
// Loopback's segments are as large as its MTU, 64 KiB, and a receiver acknowledges every second
// one at once and a single one 40 ms later: a buffer that doesn't let a second one in behind the
// first, bookkeeping included, moves 1.6 MB/s. (Smaller segments would help as well, and double the
// CPU time of a large transfer: 0.40 against 0.20 s/GiB with 16 KiB.)
inline constexpr std::size_t kSmallBufferBytes = 40 * proto::kKiB;
// For a stream, the first that there is room for.
inline constexpr std::array<std::size_t, 2> kSendBufferBytes{proto::kMiB, 256 * proto::kKiB};
inline constexpr std::array<std::size_t, 2> kReceiveBufferBytes{proto::kMiB, 256 * proto::kKiB};
inline constexpr std::size_t charged_bytes(std::size_t buffer_bytes) { return 2 * buffer_bytes; }

// The kernel caps what it grants at net.core.wmem_max and rmem_max, so that less may be set, and
// never more than was asked for. Failures are of no consequence and ignored.
void set_buffer(int socket, Direction direction, std::size_t bytes);

// What a listening socket's buffers are: a connection inherits them, and the largest window that
// TCP will ever offer on it is settled then, before the session makes them small.
void set_listener_buffers(int socket);

}  // namespace cistern::net
