#include "server/admin/stats.h"

#include <nlohmann/json.hpp>

#include "server/base/chunk.h"
#include "server/base/memory.h"

namespace cistern::admin {
namespace {

using base::WorkerMetrics;
using Json = nlohmann::ordered_json;

template <typename Select>
std::uint64_t sum(const Sources& sources, Select&& select) {
  std::uint64_t total = 0;
  for (const WorkerMetrics* worker : sources.workers) {
    total += static_cast<std::uint64_t>(select(*worker).get());
  }
  return total;
}

std::string_view name(State state) {
  switch (state) {
    case State::kStarting:
      return "starting";
    case State::kServing:
      return "serving";
    case State::kDraining:
      return "draining";
  }
  return "unknown";
}

// By operation, then by result; what never happened is left out.
Json requests(const Sources& sources) {
  Json all = Json::object();
  for (std::size_t op = 0; op < base::kOpCount; ++op) {
    Json results = Json::object();
    for (const proto::StatusInfo& status : proto::all_statuses()) {
      const std::size_t at = base::status_index(status.status);
      const auto count = sum(
          sources, [&](const WorkerMetrics& w) -> auto& { return w.requests[op][at]; });
      if (count > 0) results[std::string(status.name)] = count;
    }
    if (!results.empty()) all[std::string(name(static_cast<base::Op>(op)))] = results;
  }
  return all;
}

Json first_tier(const l1::Stats& stats) {
  Json removed = Json::object();
  for (std::size_t i = 0; i < l1::kRemovalCount; ++i) {
    removed[std::string(name(static_cast<l1::Removal>(i)))] = stats.removed[i];
  }
  return {{"budget_bytes", stats.budget_bytes},
          {"ceiling_bytes", stats.ceiling_bytes},
          {"used_bytes", stats.used_bytes},
          {"reserved_bytes", stats.reserved_bytes},
          {"value_bytes", stats.value_bytes},
          {"items", stats.items},
          {"hits", stats.hits},
          {"misses", stats.misses},
          {"inserted", {{"put", stats.inserted_by_put}, {"fill", stats.inserted_by_fill}}},
          {"removed", removed},
          {"no_room", stats.no_room},
          {"revoked", stats.revoked}};
}

Json second_tier(const Sources& sources) {
  Json tier = {{"kind", sources.l2_kind}};
  if (!sources.has_l2) return tier;
  const base::Result<void> ready = sources.l2_ready();
  tier["reachable"] = ready.has_value();
  if (!ready) tier["reason"] = ready.error().message;
  Json operations = Json::object();
  for (std::size_t op = 0; op < base::kL2OpCount; ++op) {
    Json results = Json::object();
    for (std::size_t result = 0; result < base::kL2ResultCount; ++result) {
      const auto count = sum(
          sources, [&](const WorkerMetrics& w) -> auto& { return w.l2[op][result]; });
      if (count > 0) results[std::string(name(static_cast<base::L2Result>(result)))] = count;
    }
    if (!results.empty()) operations[std::string(name(static_cast<base::L2Op>(op)))] = results;
  }
  tier["operations"] = operations;
  if (sources.l2_servers) {
    Json servers = Json::array();
    for (const l2::ServerState& server : sources.l2_servers()) {
      Json each = {{"server", server.name},
                   {"up", server.is_up},
                   {"waiting", server.waiting},
                   {"failures", server.failures},
                   {"refused", server.refused}};
      if (!server.is_up) each["reason"] = server.why;
      servers.push_back(std::move(each));
    }
    tier["servers"] = std::move(servers);
  }
  return tier;
}

Json memory(const Sources& sources, const l1::Stats& l1) {
  const base::Ledger& ledger = *sources.ledger;
  const base::MemoryUsage usage = base::memory_usage();
  Json accounts = Json::object();
  std::uint64_t sum_bytes = 0;
  for (std::size_t i = 0; i < base::kAccountCount; ++i) {
    const auto account = static_cast<base::Account>(i);
    const std::uint64_t bytes =
        account == base::Account::kL1 ? l1.used_bytes : ledger.used(account);
    accounts[std::string(name(account))] = bytes;
    sum_bytes += bytes;
  }
  return {{"limit_bytes", ledger.budgets().limit},
          {"used_bytes", sources.memory->used_bytes()},
          {"used_source", sources.memory->source()},
          {"shrinks", sources.memory->shrinks_total()},
          {"resident_bytes", usage.resident_bytes},
          {"resident_peak_bytes", usage.peak_resident_bytes},
          {"accounted_bytes", accounts},
          {"accounted_sum_bytes", sum_bytes},
          {"transfers_waiting", ledger.waiting()},
          {"transfer_waits", ledger.waits_total()},
          {"transfer_wait_seconds", std::chrono::duration<double>(ledger.waited_total()).count()},
          {"chunk_live_bytes", base::Chunk::live_bytes()},
          {"chunk_spare_bytes", base::Chunk::spare_bytes()}};
}

}  // namespace

std::string stats_json(const Sources& sources) {
  const l1::Stats l1 = sources.cache->stats();
  const auto uptime = std::chrono::steady_clock::now() - sources.started;
  Json counters = Json::object();
  for (const base::CounterInfo& info : base::all_counters()) {
    counters[std::string(info.metric)] = sum(
        sources, [&](const WorkerMetrics& w) -> auto& { return w.*info.member; });
  }
  Json stats = {
      {"version", sources.version},
      {"state", name(sources.state.load())},
      {"uptime_seconds", std::chrono::duration_cast<std::chrono::seconds>(uptime).count()},
      {"workers", sources.workers.size()},
      {"connections", sources.connections()},
      {"open_streams",
       sum(
           sources, [](const WorkerMetrics& w) -> auto& { return w.open_streams; })},
      {"requests", requests(sources)},
      {"l1", first_tier(l1)},
      {"l2", second_tier(sources)},
      {"memory", memory(sources, l1)},
      {"counters", counters}};
  return stats.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace cistern::admin
