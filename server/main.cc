// cisternd: how the parts are put together, and taken apart again in reverse.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>

#include <CLI/CLI.hpp>

#include "config/config.h"
#include "server/admin/endpoint.h"
#include "server/admin/stats.h"
#include "server/base/chunk.h"
#include "server/base/log.h"
#include "server/daemon.h"
#include "server/l1/memory_keeper.h"
#include "server/l2/codec_store.h"
#include "server/l2/memcached_store.h"
#include "server/l2/redis_store.h"
#include "server/net/memory_plan.h"
#include "server/net/server.h"
#include "server/signals.h"

#ifndef CISTERN_SANITIZED
// jemalloc reads it before main(). Few arenas, and what is free goes back to the kernel within a
// second: memory.limit may be small, and the daemon's threads hardly allocate at the same time.
extern "C" {
extern const char* malloc_conf;
const char* malloc_conf =
    "background_thread:true,narenas:4,tcache_max:4096,dirty_decay_ms:1000,muzzy_decay_ms:0";
}
#endif

namespace cistern {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitConfig = 2;
constexpr char kDefaultConfig[] = "/etc/cistern/cistern.yaml";
// Enough to pass a million entries within a minute, in turns too short to be felt.
constexpr std::chrono::milliseconds kSweepPeriod{100};
constexpr std::size_t kSweepEntries = 2000;

struct Arguments {
  std::string config;
  bool check = false;
  bool print = false;
};

config::Result load(const Arguments& arguments) {
  const config::Environment environment = config::process_environment();
  if (!arguments.config.empty()) return config::load_file(arguments.config, environment);
  if (std::filesystem::exists(kDefaultConfig)) {
    return config::load_file(kDefaultConfig, environment);
  }
  return config::load_defaults(environment);
}

std::vector<std::pair<std::string_view, std::uint64_t>> connection_ends(const net::Server& server) {
  std::vector<std::pair<std::string_view, std::uint64_t>> ends;
  for (std::size_t i = 0; i < net::kCloseReasonCount; ++i) {
    std::uint64_t count = 0;
    for (const auto& worker : server.workers()) count += worker->closes()[i].get();
    ends.emplace_back(net::info(static_cast<net::CloseReason>(i)).label, count);
  }
  return ends;
}

// What the admin endpoint and STATS read; `server` may not exist yet when STATS is set up.
void connect_sources(admin::Sources& sources, const net::Server& server) {
  for (const auto& worker : server.workers()) sources.workers.push_back(&worker->metrics());
  sources.connections = [&server] { return server.connections(); };
  sources.connection_ends = [&server] { return connection_ends(server); };
  sources.loop_silence = [&server] {
    base::Duration longest{0};
    for (const auto& worker : server.workers()) longest = std::max(longest, worker->silence());
    return longest;
  };
  sources.l2_ready = [&server]() -> base::Result<void> {
    for (const auto& worker : server.workers()) {
      if (auto ready = worker->l2_ready(); !ready) return ready;
    }
    return {};
  };
}

// The second tier: what makes each worker's store, and what the stores of all workers share.
struct SecondTier {
  net::StoreFactory make_store;  // empty where there is none
  std::vector<std::shared_ptr<const l2::Breaker>> breakers;
  std::shared_ptr<l2::MemcachedPool> memcached;
  // Of what other daemons write; null where the second tier doesn't tell of it.
  std::unique_ptr<l2::Invalidations> marks;
};

base::Result<SecondTier> second_tier(const config::Config& config, std::uint64_t limit_bytes) {
  if (config.l2.kind == config::L2Kind::kNone) return SecondTier{};
  if (config.l2.kind == config::L2Kind::kMemcached) {
    const auto pool = std::make_shared<l2::MemcachedPool>(memcached_options(config));
    const auto make_store = [pool](base::Loop& loop, asio::io_context&,
                                   base::WorkerMetrics& metrics) {
      return std::make_unique<l2::MemcachedStore>(pool, loop, metrics);
    };
    return SecondTier{make_store, {}, pool, nullptr};
  }
  const base::Result<l2::RedisOptions> redis = redis_options(config);
  if (!redis) return tl::unexpected(redis.error());
  const l2::RedisOptions& options = *redis;
  const auto breaker = l2::Breaker::make(display(options.url));
  auto marks = has_invalidations(config)
                   ? std::make_unique<l2::Invalidations>(l2::Invalidations::slots_for(limit_bytes))
                   : nullptr;
  // One of the stores keeps their channel.
  auto make_store = [options, breaker, invalidations = marks.get()](
                        base::Loop& loop, asio::io_context& io,
                        base::WorkerMetrics& metrics) mutable {
    return std::make_unique<l2::RedisStore>(options, io, loop, metrics, breaker,
                                            std::exchange(invalidations, nullptr));
  };
  return SecondTier{std::move(make_store), {breaker}, nullptr, std::move(marks)};
}

// The same stores, with what compresses above them. `pool` is null where there is no second tier.
net::StoreFactory with_codecs(net::StoreFactory make_store, l2::CodecPool* pool) {
  if (!make_store) return {};
  return [make_store = std::move(make_store), pool](base::Loop& loop, asio::io_context& io,
                                                    base::WorkerMetrics& metrics) {
    return std::make_unique<l2::CodecStore>(make_store(loop, io, metrics), *pool, loop, metrics);
  };
}

void log_ready(const base::Ledger::Budgets& budgets, const std::string& limit_source,
               std::string_view l2_kind, std::size_t workers) {
  log::info("ready", {{"version", CISTERN_VERSION},
                      {"workers", workers},
                      {"l2", l2_kind},
                      {"memory_limit_bytes", budgets.limit},
                      {"memory_limit_source", limit_source},
                      {"l1_bytes", budgets.l1},
                      {"transfers_bytes", budgets.transfers},
                      {"connections_bytes", budgets.connections},
                      {"l2_buffers_bytes", budgets.l2_buffers},
                      {"codec_bytes", budgets.codec},
                      {"base_bytes", budgets.base}});
}

int serve(const config::Config& config, const MemoryBudgets& memory) {
  Signals signals;
  log::init(log_options(config));
  raise_file_limit(config, memory.workers);
  base::Result<SecondTier> tier = second_tier(config, memory.budgets.limit);
  if (!tier) {
    log::error("start_failed", {{"text", tier.error().message}});
    return kExitFailure;
  }
  if (tier->memcached != nullptr) tier->memcached->start();

  base::Chunk::set_spare_limit(net::spare_chunk_bytes(memory.budgets.limit));
  base::Chunk::set_storage_budget(memory.budgets.l1);
  base::Ledger ledger(memory.budgets);
  l1::Cache cache({.budget_bytes = memory.budgets.l1, .max_age = config.l1.max_age}, ledger);
  l1::MemoryKeeper memory_keeper(cache, ledger, base::MemoryProbe(memory.limit_cgroup));
  l2::Invalidations* const invalidations = tier->marks.get();
  service::Shared shared(service_options(config), cache, ledger, invalidations);
  std::optional<l2::CodecPool> codec_pool;
  if (config.l2.kind != config::L2Kind::kNone) {
    codec_pool.emplace(codec_options(config, memory.workers), memory.codec, ledger);
  }

  admin::Sources sources;
  sources.version = CISTERN_VERSION;
  sources.l2_kind = config::name(config.l2.kind);
  sources.has_l2 = config.l2.kind != config::L2Kind::kNone;
  sources.serves_without_l2 = config.l2.on_failure.get == config::OnGetFailure::kMiss &&
                              config.l2.on_failure.put == config::OnPutFailure::kL1Only;
  sources.cache = &cache;
  sources.ledger = &ledger;
  sources.memory = &memory_keeper;
  sources.codec_pool = codec_pool ? &*codec_pool : nullptr;
  if (invalidations != nullptr) {
    sources.invalidations_complete_at = [invalidations] { return invalidations->complete_at(); };
  }
  sources.started = std::chrono::steady_clock::now();

  net::ServerOptions options = server_options(config, memory.workers, CISTERN_VERSION);
  options.session.stats_json = [&sources] { return admin::stats_json(sources); };
  sources.breakers = tier->breakers;
  if (tier->memcached != nullptr) {
    sources.l2_servers = [pool = tier->memcached] { return pool->states(); };
  }
  net::Server server(std::move(options), shared,
                     with_codecs(tier->make_store, codec_pool ? &*codec_pool : nullptr));
  connect_sources(sources, server);
  server.every(kSweepPeriod, [&cache](base::TimePoint now) {
    cache.sweep(kSweepEntries, now);
    base::Chunk::release_old_spares(now);
  });

  if (const base::Result<void> bound = server.bind(); !bound) {
    log::error("start_failed", {{"text", bound.error().message}});
    return kExitFailure;
  }
  std::optional<admin::Endpoint> endpoint;
  if (config.admin.listen) endpoint.emplace(*config.admin.listen, sources);
  memory_keeper.run(server.workers().front()->loop());
  server.start();
  memory_keeper.measure_base();
  sources.state = admin::State::kServing;
  log_ready(memory.budgets, memory.limit_source, sources.l2_kind, server.workers().size());

  const int signal = signals.wait();
  sources.state = admin::State::kDraining;
  log::info("draining", {{"signal", signal}, {"connections", server.connections()}});
  server.drain(config.server.drain_timeout);
  endpoint.reset();
  log::info("stopped");
  return EXIT_SUCCESS;
}

int run(const Arguments& arguments) {
  const config::Result loaded = load(arguments);
  if (!loaded) {
    for (const config::Problem& problem : loaded.error()) {
      std::fprintf(stderr, "%s\n", to_string(problem).c_str());
    }
    return kExitConfig;
  }
  const auto memory = memory_budgets(*loaded);
  if (!memory) {
    std::fprintf(stderr, "%s\n", memory.error().message.c_str());
    return kExitConfig;
  }
  if (loaded->l2.kind == config::L2Kind::kRedis) {
    if (const auto redis = redis_options(*loaded); !redis) {
      std::fprintf(stderr, "%s\n", redis.error().message.c_str());
      return kExitConfig;
    }
  }
  if (arguments.print) std::fputs(config::print(*loaded).c_str(), stdout);
  if (arguments.print || arguments.check) return EXIT_SUCCESS;
  const int status = serve(*loaded, *memory);
  log::shutdown();
  return status;
}

}  // namespace
}  // namespace cistern

int main(int argc, char** argv) {
  CLI::App app{
      "cisternd, a sidecar cache for values of any size. Stays in the foreground, logs to "
      "standard error, and drains on SIGTERM and SIGINT."};
  cistern::Arguments arguments;
  app.add_option("--config", arguments.config,
                 std::string("The configuration file. Default: ") + cistern::kDefaultConfig +
                     " if it exists, else the built-in defaults")
      ->envname("CISTERN_CONFIG")
      ->type_name("FILE");
  app.add_flag("--check-config", arguments.check,
               "Check the configuration and exit: 0 if it is valid, 2 if not");
  app.add_flag("--print-config", arguments.print,
               "Print the effective configuration, secrets masked, and exit");
  app.set_version_flag("--version", std::string("cisternd ") + CISTERN_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? EXIT_SUCCESS : cistern::kExitConfig;
  }
  try {
    return cistern::run(arguments);
  } catch (const std::exception& error) {
    cistern::log::error("start_failed", {{"text", error.what()}});
    cistern::log::shutdown();
    return cistern::kExitFailure;
  }
}
