// How memory.limit is shared out, once, at the start:
//
//   base          6 MiB and a 32nd of the limit (at most 32 MiB more): program, allocator and what
//                 it has free, logs; 512 KiB for each worker: stack, scratch, loop; for each
//                 connection to L2 what the kernel and the client library may hold of it;
//                 for each thread that talks to L2 the same and a stack;
//                 and the spare chunks, 4 MiB or a 16th of the limit
//   l2_buffers    with an L2, small values on their way there: 4 MiB for each worker, at most a
//                 16th of the limit
//   codec         with an L2, what its threads compress and decode with (server/l2/codec_options.h)
//   connections   208 KiB for each of max_connections and a third of that for what they need more
//                 (server/net/connection_budget.h), at most the larger of an eighth of the limit
//                 and what 256 of them need; for these at most a quarter of the limit, and three
//                 eighths of what the above leave
//   transfers     an eighth of the limit, at least two windows; half of it may hold values that
//                 were evicted while they were read
//   L1            the rest, or what l1.max_bytes says; then connections have a third of what is
//   left,
//                 or what 256 of them need up to half of it, and transfers the rest
//
// Measured at rest (anonymous memory, glibc 2.36, jemalloc 5.3, x86-64): 2.9 MiB with one worker
// and 0.26 MiB for each further one, 0.35 MiB with its connections to Redis; a limit of 64 GiB adds
// 0.2 MiB.
#pragma once

#include <cstdint>
#include <optional>

#include "server/base/ledger.h"

namespace cistern::net {

struct MemoryDemand {
  std::uint64_t limit_bytes = 0;
  std::optional<std::uint64_t> l1_bytes{};  // empty: auto
  unsigned max_connections = 0;
  std::uint64_t window_bytes = 0;  // the larger of limits.stream_window_bytes and two chunks
  unsigned workers = 1;
  unsigned l2_connections = 0;            // of each worker; 0 without an L2
  std::uint64_t l2_connection_bytes = 0;  // what one of them may hold
  std::uint64_t codec_bytes = 0;
  unsigned l2_threads = 0;  // that talk to L2 for all workers; 0 where the workers do so themselves
  std::uint64_t l2_thread_bytes = 0;  // what one of them may hold, connections and all
};

// kUsage when it doesn't fit; the message shows the sum and names the settings.
base::Result<base::Ledger::Budgets> plan_memory(const MemoryDemand& demand);

// Chunks that were used and are kept for the next in any case; a part of the base. More are kept
// within what storage leaves of L1's budget (server/base/spare_pool.h).
std::uint64_t spare_chunk_bytes(std::uint64_t limit_bytes);

// The most workers that `server.workers: auto` takes: what is fixed must leave room for values.
unsigned most_workers(std::uint64_t limit_bytes);

}  // namespace cistern::net
