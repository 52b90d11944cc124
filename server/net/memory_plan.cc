#include "server/net/memory_plan.h"

#include <algorithm>

#include <fmt/format.h>

#include "server/net/connection_budget.h"

namespace cistern::net {
namespace {

constexpr std::uint64_t kProgramBytes = 6 * proto::kMiB;
constexpr std::uint64_t kMostAllocatorBytes = 32 * proto::kMiB;
constexpr std::uint64_t kWorkerBytes = 512 * proto::kKiB;
constexpr std::uint64_t kL2ThreadBytes = 64 * proto::kKiB;  // of its stack what is touched
constexpr std::uint64_t kMostSpareChunkBytes = 4 * proto::kMiB;
constexpr std::uint64_t kL2WriteBytesPerWorker = 4 * proto::kMiB;
// So that a daemon with little memory can be talked to at all.
constexpr std::uint64_t kLeastConnections = 16;
// What `l1.max_bytes: auto` makes room for before it takes the rest.
constexpr std::uint64_t kUsualConnections = 256;
constexpr std::uint64_t kLeastWindows = 2;
constexpr std::uint64_t kLeastL1Bytes = proto::kMiB;
constexpr std::uint64_t kLimitPerWorker = 16 * proto::kMiB;

std::string mib(std::uint64_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / static_cast<double>(proto::kMiB));
}

std::uint64_t base_bytes(const MemoryDemand& demand) {
  return kProgramBytes + std::min(demand.limit_bytes / 32, kMostAllocatorBytes) +
         demand.workers * (kWorkerBytes + demand.l2_connections * demand.l2_connection_bytes) +
         demand.l2_threads * (kL2ThreadBytes + demand.l2_thread_bytes) +
         spare_chunk_bytes(demand.limit_bytes);
}

std::uint64_t l2_buffer_bytes(const MemoryDemand& demand) {
  if (demand.l2_connections == 0 && demand.l2_threads == 0) return 0;
  return std::min(demand.workers * kL2WriteBytesPerWorker, demand.limit_bytes / 16);
}

// What there must be of everything.
struct Least {
  std::uint64_t base, l2_buffers, codec, connections, transfers, l1;
  std::uint64_t sum() const { return base + l2_buffers + codec + connections + transfers + l1; }
};

std::string l2_part(const MemoryDemand& demand, const Least& least) {
  if (demand.l2_threads > 0) {
    return fmt::format(
        " and {} threads that talk to L2 (l2.memcached.pool_threads), {} for small "
        "values on their way there, {} to compress chunks (storage.compression.level and .threads)",
        demand.l2_threads, mib(least.l2_buffers), mib(least.codec));
  }
  if (demand.l2_connections == 0) return {};
  return fmt::format(
      " and their {} connections each to L2 (l2.redis.connections_per_worker), "
      "{} for small values on their way there, {} to compress chunks (storage.compression.level "
      "and .threads)",
      demand.l2_connections, mib(least.l2_buffers), mib(least.codec));
}

std::string does_not_fit(const MemoryDemand& demand, const Least& least) {
  return fmt::format(
      "memory.limit is {}, but {} are needed: {} for the program itself with {} workers "
      "(server.workers){}, {} for connections, {} for transfers ({} windows of "
      "limits.stream_window_bytes, or of two of storage.chunk_bytes), and {} for L1{}; raise "
      "memory.limit or lower {}",
      mib(demand.limit_bytes), mib(least.sum()), mib(least.base), demand.workers,
      l2_part(demand, least), mib(least.connections), mib(least.transfers), kLeastWindows,
      mib(least.l1), demand.l1_bytes ? " (l1.max_bytes)" : " at the least",
      demand.l1_bytes ? "l1.max_bytes" : "the others");
}

}  // namespace

std::uint64_t spare_chunk_bytes(std::uint64_t limit_bytes) {
  return std::min(limit_bytes / 16, kMostSpareChunkBytes);
}

unsigned most_workers(std::uint64_t limit_bytes) {
  return static_cast<unsigned>(std::clamp<std::uint64_t>(limit_bytes / kLimitPerWorker, 1, 256));
}

base::Result<base::Ledger::Budgets> plan_memory(const MemoryDemand& demand) {
  const std::uint64_t limit = demand.limit_bytes;
  const std::uint64_t all_connections = account_bytes(demand.max_connections);
  const Least least{base_bytes(demand),
                    l2_buffer_bytes(demand),
                    demand.codec_bytes,
                    std::min(all_connections, account_bytes(kLeastConnections)),
                    kLeastWindows * demand.window_bytes,
                    demand.l1_bytes.value_or(kLeastL1Bytes)};
  if (least.sum() > limit) {
    return base::fail(proto::Status::kUsage, does_not_fit(demand, least));
  }
  base::Ledger::Budgets budgets;
  budgets.limit = limit;
  budgets.base = least.base;
  budgets.l2_buffers = least.l2_buffers;
  budgets.codec = least.codec;
  // Of L1 at the least, connections and transfers.
  const std::uint64_t rest = limit - least.base - least.l2_buffers - least.codec - least.l1;
  // Connections also grow beyond what they begin with: transfers make their buffers larger.
  const std::uint64_t wanted_connections = 2 * all_connections;
  const std::uint64_t usual = std::min({account_bytes(kUsualConnections), limit / 4, rest * 3 / 8});
  const std::uint64_t share =
      demand.l1_bytes ? std::max(rest / 3, std::min(account_bytes(kUsualConnections), rest / 2))
                      : std::max(limit / 8, usual);
  budgets.connections = std::clamp(share, least.connections, wanted_connections);
  budgets.connections = std::min(budgets.connections, rest - least.transfers);
  budgets.transfers = rest - budgets.connections;
  if (!demand.l1_bytes) {
    budgets.transfers = std::min(std::max(limit / 8, least.transfers), budgets.transfers);
  }
  budgets.l1 = least.l1 + rest - budgets.connections - budgets.transfers;
  budgets.held = budgets.transfers / 2;
  return budgets;
}

}  // namespace cistern::net
