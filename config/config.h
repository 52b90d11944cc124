// What the operator wants: one value, read once at the start, validated as a whole, and never
// changed afterwards.
//
// A default-constructed Config is what an empty file gives. Names of members are the settings'
// names; sizes are in bytes and say so. A setting that may be `auto` is an optional, empty for
// auto. config/settings.cc has the table of settings, with bounds and meanings.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <tl/expected.hpp>

#include "config/redis_url.h"
#include "proto/endpoint.h"
#include "proto/limits.h"

namespace cistern::config {

using proto::Endpoint;
using std::chrono::milliseconds;

enum class L2Kind : std::uint8_t { kNone, kRedis, kMemcached };
enum class Compression : std::uint8_t { kAuto, kZstd, kNone };
// What a GET is answered, and a PUT does, when L2 fails.
enum class OnGetFailure : std::uint8_t { kError, kMiss };
enum class OnPutFailure : std::uint8_t { kError, kL1Only };
enum class LogLevel : std::uint8_t { kTrace, kDebug, kInfo, kWarn, kError };
enum class LogFormat : std::uint8_t { kJson, kText };
// As written in the file.
std::string_view name(L2Kind kind);
std::string_view name(Compression algorithm);
std::string_view name(OnGetFailure choice);
std::string_view name(OnPutFailure choice);
std::string_view name(LogLevel level);
std::string_view name(LogFormat format);

// A TCP address to connect to. An IPv6 address stands without brackets.
struct HostPort {
  std::string host;
  std::uint16_t port = 0;
  bool operator==(const HostPort&) const = default;
};

// A part of a whole, in thousandths.
struct Share {
  unsigned per_mille = 0;
  bool operator==(const Share&) const = default;
};

struct Config {
  struct Server {
    // At least one; no two of them collide().
    std::vector<Endpoint> listen = {Endpoint::tcp("127.0.0.1", 7400),
                                    Endpoint::unix_socket("/run/cistern/cistern.sock")};
    std::optional<unsigned> workers;
    milliseconds drain_timeout{20'000};
    bool operator==(const Server&) const = default;
  } server;

  struct Admin {
    // Empty: no admin endpoint. Else of Kind::kTcp.
    std::optional<Endpoint> listen = Endpoint::tcp("127.0.0.1", 7401);
    bool operator==(const Admin&) const = default;
  } admin;

  struct Memory {
    std::optional<std::uint64_t> limit_bytes;
    bool operator==(const Memory&) const = default;
  } memory;

  struct L1 {
    std::optional<std::uint64_t> max_bytes;
    milliseconds max_age{0};  // 0: no bound
    Share ttl_jitter;         // 0 where there is no L2
    milliseconds fill_patience{100};
    unsigned fill_finish_percent = 20;
    bool operator==(const L1&) const = default;
  } l1;

  struct Limits {
    std::uint64_t max_value_bytes = 16 * proto::kGiB;
    std::uint64_t max_key_bytes = proto::kKiB;
    std::uint64_t max_metadata_bytes = 4 * proto::kKiB;
    std::uint64_t max_frame_bytes = proto::kMiB;
    std::uint64_t stream_window_bytes = proto::kMiB;
    unsigned max_connections = 1024;
    unsigned max_streams_per_connection = 128;
    milliseconds idle_timeout{300'000};
    milliseconds request_timeout{30'000};
    milliseconds stall_timeout{300'000};
    bool operator==(const Limits&) const = default;
  } limits;

  struct Storage {
    std::uint64_t chunk_bytes = proto::kDefaultChunkBytes;
    milliseconds default_ttl{0};  // 0: no expiry
    struct Packing {
      Compression algorithm = Compression::kAuto;
      unsigned level = 1;
      std::uint64_t min_bytes = 4 * proto::kKiB;
      std::optional<unsigned> threads;
      bool operator==(const Packing&) const = default;
    } compression;
    bool operator==(const Storage&) const = default;
  } storage;

  struct Redis {
    RedisUrl url;
    std::string password_file;  // empty: the URL's login, if any
    std::string user;           // of password_file
    std::string key_prefix = "cistern:";
    milliseconds connect_timeout{1'000};
    milliseconds op_timeout{2'000};
    unsigned connections_per_worker = 2;
    bool operator==(const Redis&) const = default;
  };

  struct Memcached {
    std::vector<HostPort> servers = {{"127.0.0.1", 11211}};  // at least one
    std::vector<unsigned> weights = {1};                     // one for each, or a single 1
    std::string key_prefix = "cistern:";
    std::uint64_t item_max_bytes = proto::kMiB;
    std::optional<unsigned> pool_threads;
    milliseconds connect_timeout{1'000};
    milliseconds op_timeout{2'000};
    bool operator==(const Memcached&) const = default;
  };

  struct L2 {
    L2Kind kind = L2Kind::kNone;
    milliseconds max_idle = std::chrono::hours(7 * 24);
    milliseconds provisional_ttl{600'000};
    milliseconds replace_grace{60'000};
    unsigned prefetch_chunks = 4;
    milliseconds negative_ttl{0};  // 0: what is absent isn't remembered
    struct OnFailure {
      OnGetFailure get = OnGetFailure::kError;
      OnPutFailure put = OnPutFailure::kError;
      bool operator==(const OnFailure&) const = default;
    } on_failure;
    Redis redis;
    Memcached memcached;
    bool operator==(const L2&) const = default;
  } l2;

  struct Log {
    LogLevel level = LogLevel::kInfo;
    LogFormat format = LogFormat::kJson;
    bool operator==(const Log&) const = default;
  } log;

  bool operator==(const Config&) const = default;
};

// One thing that is wrong. Holds no secret: what was found is masked where it may contain one.
struct Problem {
  std::string file;      // or "environment"
  int line = 0;          // from 1; 0 where there is no line
  std::string setting;   // "limits.max_key_bytes", or the name of a variable; may be empty
  std::string found;     // may be empty
  std::string expected;  // what would be right, and what to do
};
// `cistern.yaml:3: limits.max_key_bytes: found "8KiB"; expected a size from 1B to 4KiB`
std::string to_string(const Problem& problem);

using Result = tl::expected<Config, std::vector<Problem>>;
using Environment = std::map<std::string, std::string>;

// Reads YAML, puts variables of `environment` in the place of ${NAME}, lets CISTERN_… variables
// override settings, and checks everything. Reports all problems at once, those of the file by
// line, then those of the environment. Pure but for reading the file; never throws for what it
// reads.
Result load_file(const std::string& path, const Environment& environment);
// The same for text that is at hand; `file` is its name in problems.
Result load_text(std::string_view text, const std::string& file, const Environment& environment);
// Defaults and the environment alone: no file was given.
Result load_defaults(const Environment& environment);

// The variables of this process.
Environment process_environment();

// The whole configuration as YAML, each setting with its value, secrets masked. Reading it again
// gives the same Config, but for what was masked.
std::string print(const Config& config);

// The text of config/cistern.example.yaml: every setting with its meaning, bounds and default.
std::string example();

}  // namespace cistern::config
