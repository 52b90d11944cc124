// Where the admin endpoint's figures come from. It knows the tiers and the ledger; what only the
// network layer knows comes through functions, because admin doesn't include net.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/base/ledger.h"
#include "server/base/metrics.h"
#include "server/l1/cache.h"
#include "server/l1/memory_keeper.h"
#include "server/l2/breaker.h"
#include "server/l2/codec_pool.h"
#include "server/l2/server_state.h"

namespace cistern::admin {

enum class State : std::uint8_t { kStarting, kServing, kDraining };

// All of it may be called from any thread, and outlives the endpoint and every call of stats_json.
struct Sources {
  std::string version;
  std::string l2_kind;  // as configured
  bool has_l2 = false;
  // Whether requests are answered without it, too (l2.on_failure: {get: miss, put: l1_only}).
  bool serves_without_l2 = false;
  std::vector<const base::WorkerMetrics*> workers;
  const l1::Cache* cache = nullptr;
  const base::Ledger* ledger = nullptr;
  const l1::MemoryKeeper* memory = nullptr;
  const l2::CodecPool* codec_pool = nullptr;  // null without an L2
  base::TimePoint started;
  // Connections that are open; how those that aren't have ended, by reason.
  std::function<std::uint64_t()> connections;
  std::function<std::vector<std::pair<std::string_view, std::uint64_t>>()> connection_ends;
  // How long the most silent worker has not turned its loop.
  std::function<base::Duration()> loop_silence;
  // Whether every worker reaches L2; why not.
  std::function<base::Result<void>()> l2_ready;
  // The servers of an L2 that has several; empty otherwise.
  std::function<std::vector<l2::ServerState>()> l2_servers;
  // One for each server of the second tier.
  std::vector<std::shared_ptr<const l2::Breaker>> breakers;
  std::atomic<State> state{State::kStarting};
};

}  // namespace cistern::admin
