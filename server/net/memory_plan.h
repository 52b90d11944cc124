// How memory.limit is shared out, once, at the start:
//
//   fixed base    24 MiB: program, stacks, allocator, logs, the workers' scratch, spare chunks
//   connections   176 KiB for each of max_connections, at most an eighth of the limit
//   transfers     an eighth of the limit, at least 16 MiB and four windows; half of it may hold
//                 values that were evicted while they were read
//   L1            the rest, or what l1.max_bytes says; then connections and transfers share the
//   rest
#pragma once

#include <cstdint>
#include <optional>

#include "server/base/ledger.h"

namespace cistern::net {

inline constexpr std::uint64_t kFixedBaseBytes = 24 * proto::kMiB;
// Chunks that were used and are kept for the next in any case; a part of the fixed base. More are
// kept within what storage leaves of L1's budget (server/base/spare_pool.h).
inline constexpr std::uint64_t kSpareChunkBytes = 4 * proto::kMiB;

struct MemoryDemand {
  std::uint64_t limit_bytes = 0;
  std::optional<std::uint64_t> l1_bytes;  // empty: auto
  unsigned max_connections = 0;
  std::uint64_t window_bytes = 0;  // the larger of limits.stream_window_bytes and a chunk
};

// kUsage when it doesn't fit; the message shows the sum and names the settings.
base::Result<base::Ledger::Budgets> plan_memory(const MemoryDemand& demand);

}  // namespace cistern::net
