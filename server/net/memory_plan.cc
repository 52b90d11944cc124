#include "server/net/memory_plan.h"

#include <algorithm>

#include <fmt/format.h>

#include "server/net/connection_budget.h"

namespace cistern::net {
namespace {

// So that a daemon with little memory can be talked to at all.
constexpr std::uint64_t kLeastConnections = 16;
constexpr std::uint64_t kLeastTransferBytes = 16 * proto::kMiB;
constexpr std::uint64_t kLeastWindows = 4;
constexpr std::uint64_t kLeastL1Bytes = proto::kMiB;

std::string mib(std::uint64_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / static_cast<double>(proto::kMiB));
}

}  // namespace

base::Result<base::Ledger::Budgets> plan_memory(const MemoryDemand& demand) {
  const std::uint64_t limit = demand.limit_bytes;
  const std::uint64_t all_connections = demand.max_connections * kConnectionBytes;
  const std::uint64_t least_connections =
      std::min(all_connections, kLeastConnections * kConnectionBytes);
  const std::uint64_t least_transfers =
      std::max(kLeastTransferBytes, kLeastWindows * demand.window_bytes);
  const std::uint64_t l1 = demand.l1_bytes.value_or(kLeastL1Bytes);
  const std::uint64_t least = kFixedBaseBytes + least_connections + least_transfers + l1;
  if (least > limit) {
    return base::fail(
        proto::Status::kUsage,
        fmt::format("memory.limit is {}, but {} are needed: {} for the program itself, {} for "
                    "connections, {} for transfers ({} windows of limits.stream_window_bytes or "
                    "{}), and {} for L1{}; raise memory.limit or lower {}",
                    mib(limit), mib(least), mib(kFixedBaseBytes), mib(least_connections),
                    mib(least_transfers), kLeastWindows, mib(kLeastTransferBytes), mib(l1),
                    demand.l1_bytes ? " (l1.max_bytes)" : " at the least",
                    demand.l1_bytes ? "l1.max_bytes" : "limits.stream_window_bytes"));
  }
  base::Ledger::Budgets budgets;
  budgets.limit = limit;
  // Connections also grow beyond what they begin with: transfers make their buffers larger.
  const std::uint64_t wanted_connections = 2 * all_connections;
  if (demand.l1_bytes) {
    const std::uint64_t rest = limit - kFixedBaseBytes - l1;
    budgets.l1 = l1;
    budgets.connections = std::clamp(rest / 3, least_connections, wanted_connections);
    budgets.connections = std::min(budgets.connections, rest - least_transfers);
    budgets.transfers = rest - budgets.connections;
  } else {
    const std::uint64_t rest = limit - kFixedBaseBytes - l1;
    budgets.connections = std::clamp(limit / 8, least_connections, wanted_connections);
    budgets.connections = std::min(budgets.connections, rest - least_transfers);
    budgets.transfers = std::min(std::max(limit / 8, least_transfers), rest - budgets.connections);
    budgets.l1 = limit - kFixedBaseBytes - budgets.connections - budgets.transfers;
  }
  budgets.held = budgets.transfers / 2;
  return budgets;
}

}  // namespace cistern::net
