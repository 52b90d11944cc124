#include "server/daemon.h"

#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include <fmt/format.h>

#include "server/net/memory_plan.h"

namespace cistern {
namespace {

// Beside connections: standard streams, loops, listeners, logs, the admin endpoint, sockets that
// linger after their end.
constexpr rlim_t kOtherFiles = 192;
constexpr rlim_t kFilesPerWorker = 8;
constexpr unsigned kMostCodecThreads = 8;  // that are made without being asked for
// What l2.memcached.pool_threads: auto stands for, unless there are more servers.
constexpr unsigned kUsualPoolThreads = 4;
constexpr std::size_t kMaxPasswordBytes = 1024;

unsigned worker_count(const config::Config& config, std::uint64_t limit_bytes) {
  return config.server.workers.value_or(
      std::min(base::usable_cores(), net::most_workers(limit_bytes)));
}

base::Result<std::string> password_of(const config::Config::Redis& redis) {
  const auto bad = [&](std::string_view what) {
    return base::fail(base::Status::kBadRequest,
                      fmt::format("l2.redis.password_file: {}: {}; expected a file that the daemon "
                                  "may read, whose first line is the password",
                                  redis.password_file, what));
  };
  if (!redis.url.password.empty()) return bad("l2.redis.url has a login already");
  if (redis.password_file.empty()) return bad("l2.redis.user is given without it");
  std::ifstream file(redis.password_file);
  if (!file) return bad(std::strerror(errno));
  std::string password;
  std::getline(file, password);
  if (password.ends_with('\r')) password.pop_back();
  if (password.empty()) return bad("its first line is empty");
  if (password.size() > kMaxPasswordBytes) return bad("its first line is longer than 1024 bytes");
  return password;
}

}  // namespace

log::Options log_options(const config::Config& config) {
  log::Options options;
  switch (config.log.level) {
    case config::LogLevel::kTrace:
      options.level = log::Level::kTrace;
      break;
    case config::LogLevel::kDebug:
      options.level = log::Level::kDebug;
      break;
    case config::LogLevel::kInfo:
      options.level = log::Level::kInfo;
      break;
    case config::LogLevel::kWarn:
      options.level = log::Level::kWarn;
      break;
    case config::LogLevel::kError:
      options.level = log::Level::kError;
      break;
  }
  options.format =
      config.log.format == config::LogFormat::kJson ? log::Format::kJson : log::Format::kText;
  return options;
}

base::Result<l2::RedisOptions> redis_options(const config::Config& config) {
  const config::Config::Redis& redis = config.l2.redis;
  l2::RedisOptions options;
  if (redis.url.endpoint.kind == proto::Endpoint::Kind::kUnix) {
    options.url.unix_path = redis.url.endpoint.path;
  } else {
    options.url.host = redis.url.endpoint.host;
    options.url.port = redis.url.endpoint.port;
  }
  options.url.db = redis.url.database;
  options.url.user = redis.url.username;
  options.url.password = redis.url.password;
  if (!redis.user.empty()) options.url.user = redis.user;
  if (!redis.password_file.empty() || !redis.user.empty()) {
    auto password = password_of(redis);
    if (!password) return tl::unexpected(password.error());
    options.url.password = std::move(*password);
  }
  options.key_prefix = redis.key_prefix;
  options.connect_timeout = redis.connect_timeout;
  options.op_timeout = redis.op_timeout;
  options.connections_per_worker = redis.connections_per_worker;
  options.max_idle = config.l2.max_idle;
  options.provisional_ttl = config.l2.provisional_ttl;
  return options;
}

l2::CodecOptions codec_options(const config::Config& config, unsigned workers) {
  const auto& compression = config.storage.compression;
  l2::CodecOptions options;
  switch (compression.algorithm) {
    case config::Compression::kAuto:
      options.packing = l2::Packing::kAuto;
      break;
    case config::Compression::kZstd:
      options.packing = l2::Packing::kZstd;
      break;
    case config::Compression::kNone:
      options.packing = l2::Packing::kNone;
      break;
  }
  options.level = static_cast<int>(compression.level);
  options.min_bytes = static_cast<std::uint32_t>(compression.min_bytes);
  options.threads = compression.threads.value_or(std::clamp(workers / 2, 1u, kMostCodecThreads));
  options.chunk_bytes = static_cast<std::uint32_t>(config.storage.chunk_bytes);
  return options;
}

l2::MemcachedOptions memcached_options(const config::Config& config) {
  const config::Config::Memcached& memcached = config.l2.memcached;
  l2::MemcachedOptions options;
  const std::size_t count = memcached.servers.size();
  options.is_weighted = memcached.weights.size() == count &&
                        std::ranges::any_of(memcached.weights, [](unsigned w) { return w != 1; });
  for (std::size_t i = 0; i < count; ++i) {
    options.servers.push_back({memcached.servers[i].host, memcached.servers[i].port,
                               options.is_weighted ? memcached.weights[i] : 1});
  }
  options.key_prefix = memcached.key_prefix;
  options.item_max_bytes = memcached.item_max_bytes;
  options.chunk_bytes = config.storage.chunk_bytes;
  options.pool_threads = memcached.pool_threads.value_or(
      std::max<unsigned>(kUsualPoolThreads, static_cast<unsigned>(count)));
  options.connect_timeout = memcached.connect_timeout;
  options.op_timeout = memcached.op_timeout;
  options.max_idle = config.l2.max_idle;
  options.provisional_ttl = config.l2.provisional_ttl;
  options.replace_grace = config.l2.replace_grace;
  return options;
}

service::Options service_options(const config::Config& config) {
  service::Options options;
  options.max_value_bytes = config.limits.max_value_bytes;
  options.chunk_bytes = static_cast<std::uint32_t>(config.storage.chunk_bytes);
  options.default_ttl = config.storage.default_ttl;
  options.max_idle = config.l2.max_idle;
  options.provisional_ttl = config.l2.provisional_ttl;
  options.replace_grace = config.l2.replace_grace;
  options.prefetch_chunks = config.l2.prefetch_chunks;
  options.stream_window_bytes = config.limits.stream_window_bytes;
  options.negative_ttl = config.l2.negative_ttl;
  options.ttl_jitter = config.l1.ttl_jitter.per_mille / 1000.0;
  options.fill_patience = config.l1.fill_patience;
  options.fill_finish_percent = config.l1.fill_finish_percent;
  options.miss_on_failure = config.l2.on_failure.get == config::OnGetFailure::kMiss;
  options.l1_only_on_failure = config.l2.on_failure.put == config::OnPutFailure::kL1Only;
  return options;
}

net::ServerOptions server_options(const config::Config& config, unsigned workers,
                                  const std::string& version) {
  const config::Config::Limits& limits = config.limits;
  net::ServerOptions options;
  options.listen = config.server.listen;
  options.workers = workers;
  options.max_connections = limits.max_connections;
  options.session.request_timeout = limits.request_timeout;
  options.session.stall_timeout = limits.stall_timeout;
  options.session.idle_timeout = limits.idle_timeout;
  proto::ServerLimits& wire = options.session.limits;
  wire.max_value_bytes = limits.max_value_bytes;
  wire.max_frame_bytes = static_cast<std::uint32_t>(limits.max_frame_bytes);
  wire.chunk_bytes = static_cast<std::uint32_t>(config.storage.chunk_bytes);
  wire.max_key_bytes = static_cast<std::uint32_t>(limits.max_key_bytes);
  wire.max_metadata_bytes = static_cast<std::uint32_t>(limits.max_metadata_bytes);
  wire.max_streams = limits.max_streams_per_connection;
  wire.stream_window_bytes = static_cast<std::uint32_t>(
      std::max<std::uint64_t>(limits.stream_window_bytes, 2 * config.storage.chunk_bytes));
  wire.name = "cisternd/" + version;
  return options;
}

base::Result<MemoryBudgets> memory_budgets(const config::Config& config) {
  MemoryBudgets result;
  net::MemoryDemand demand;
  if (config.memory.limit_bytes) {
    demand.limit_bytes = *config.memory.limit_bytes;
    result.limit_source = "memory.limit";
  } else {
    const base::MemoryLimit automatic = base::automatic_memory_limit();
    demand.limit_bytes = automatic.bytes;
    result.limit_source = automatic.source;
    result.limit_cgroup = automatic.cgroup;
  }
  result.workers = worker_count(config, demand.limit_bytes);
  demand.workers = result.workers;
  if (config.l2.kind == config::L2Kind::kRedis) {
    demand.l2_connections = config.l2.redis.connections_per_worker;
    demand.l2_connection_bytes = l2::kConnectionBytes;
  } else if (config.l2.kind == config::L2Kind::kMemcached) {
    const l2::MemcachedOptions options = memcached_options(config);
    demand.l2_threads = options.pool_threads;
    demand.l2_thread_bytes = l2::memcached_thread_bytes(options.chunk_bytes) +
                             options.servers.size() * l2::kMemcachedConnectionBytes;
  }
  if (config.l2.kind != config::L2Kind::kNone) {
    result.codec =
        l2::codec_memory(codec_options(config, result.workers), result.workers, demand.limit_bytes);
    demand.codec_bytes = result.codec.total();
  }
  demand.l1_bytes = config.l1.max_bytes;
  demand.max_connections = config.limits.max_connections;
  demand.window_bytes = std::max(config.limits.stream_window_bytes, 2 * config.storage.chunk_bytes);
  const auto budgets = net::plan_memory(demand);
  if (!budgets) {
    return base::fail(
        budgets.error().status,
        budgets.error().message + " (memory.limit comes from " + result.limit_source + ")");
  }
  result.budgets = *budgets;
  return result;
}

void raise_file_limit(const config::Config& config, unsigned workers) {
  rlim_t needed = config.limits.max_connections + workers * kFilesPerWorker + kOtherFiles;
  if (config.l2.kind == config::L2Kind::kRedis) {
    needed += workers * config.l2.redis.connections_per_worker;
  } else if (config.l2.kind == config::L2Kind::kMemcached) {
    const l2::MemcachedOptions options = memcached_options(config);
    needed += options.pool_threads * options.servers.size();
  }
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0) return;
  if (files.rlim_cur < needed && files.rlim_cur < files.rlim_max) {
    files.rlim_cur = std::min(files.rlim_max, needed);
    ::setrlimit(RLIMIT_NOFILE, &files);
    ::getrlimit(RLIMIT_NOFILE, &files);
  }
  if (files.rlim_cur >= needed) return;
  log::warn("few_open_files",
            {{"limit", files.rlim_cur},
             {"needed", needed},
             {"text", "connections will have to wait before limits.max_connections is reached"},
             {"hint",
              "raise the hard limit of open files (ulimit -Hn) or lower "
              "limits.max_connections"}});
}

}  // namespace cistern
