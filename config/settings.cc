#include "config/settings.h"

#include <algorithm>
#include <iterator>

namespace cistern::config {
namespace {

using namespace std::chrono_literals;
using namespace proto;

constexpr std::uint64_t ms(milliseconds duration) {
  return static_cast<std::uint64_t>(duration.count());
}

constexpr std::uint64_t kDay = ms(24h);
constexpr std::uint64_t kTiB = 1024 * kGiB;

// Shorter keeps no peer alive through an ordinary hiccup of the network or the scheduler.
constexpr std::uint64_t kShortestTimeout = ms(10ms);

#define CISTERN_FIELD(type, path)                       \
  Member<type> {                                        \
    [](Config& config) -> type& { return config.path; } \
  }

const Setting kSettings[] = {
    // server
    {"server.listen",
     CISTERN_FIELD(std::vector<Endpoint>, server.listen),
     {},
     "Where clients connect. Port 0 lets the "
     "kernel choose; the log then says which. There is no authentication: listen on addresses "
     "that only the application reaches."},
    {"server.workers",
     CISTERN_FIELD(std::optional<unsigned>, server.workers),
     {1, 256},
     "Threads that serve clients, each with its own event loop and its own connections to L2. "
     "auto: the cores that the container may use, but no more than one for each 16 MiB of "
     "memory.limit."},
    {"server.drain_timeout",
     CISTERN_FIELD(milliseconds, server.drain_timeout),
     {0, ms(1h)},
     "After SIGTERM or SIGINT, running transfers may finish for this long before they are cut."},

    // admin
    {"admin.listen",
     CISTERN_FIELD(std::optional<Endpoint>, admin.listen),
     {},
     "Where /metrics, /healthz, /readyz and /stats are served over HTTP. none: nowhere."},

    // memory
    {"memory.limit",
     CISTERN_FIELD(std::optional<std::uint64_t>, memory.limit_bytes),
     {32 * kMiB, 16 * kTiB},
     "What the whole process may use: L1, transfers under way, connections and the program "
     "itself. auto: what the container allows less the larger of 32 MiB and 10 %, or, outside of "
     "a container, a share of the machine's memory."},

    // l1
    {"l1.max_bytes",
     CISTERN_FIELD(std::optional<std::uint64_t>, l1.max_bytes),
     {kMiB, 16 * kTiB},
     "The budget of the cache in memory, counted as the memory that entries really take. auto: "
     "what memory.limit leaves beside transfers and connections."},
    {"l1.max_age",
     CISTERN_FIELD(milliseconds, l1.max_age),
     {0, kMaxTtlMs},
     "An entry stays in L1 no longer than this, whatever its expiry. 0s: no bound."},
    {"l1.max_staleness",
     CISTERN_FIELD(milliseconds, l1.max_staleness),
     {ms(50ms), kDay},
     "How far what this daemon serves from memory may be behind what other daemons have written to "
     "L2. An entry that has not been known to be current for this long is compared with L2 before "
     "it is served; what happens when L2 can't be asked says l2.on_stale. Of no effect where "
     "l2.kind is none."},
    {"l1.ttl_jitter",
     CISTERN_FIELD(Share, l1.ttl_jitter),
     {0, 500},
     "An entry with a time to live leaves L1 earlier than it expires, by a random share of its "
     "time to live up to this, so that entries written together don't all expire together. 0 "
     "where l2.kind is none."},
    {"l1.fill_patience",
     CISTERN_FIELD(milliseconds, l1.fill_patience),
     {1, ms(10s)},
     "How long a value that L1 can't hold, and that several read from L2 together, waits for those "
     "who lag before it goes on without them; they then read the rest on their own."},
    {"l1.fill_finish_percent",
     CISTERN_FIELD(unsigned, l1.fill_finish_percent),
     {0, 100},
     "A value on its way into L1 that nobody reads any more is read to its end if at most this "
     "share of it is missing, in percent. 0: it never is."},

    // limits
    {"limits.max_value_bytes",
     CISTERN_FIELD(std::uint64_t, limits.max_value_bytes),
     {1, kMaxValueBytes},
     "The largest value. Without an L2, the room in L1 bounds it as well."},
    {"limits.max_key_bytes",
     CISTERN_FIELD(std::uint64_t, limits.max_key_bytes),
     {1, kMaxKeyBytes},
     "The longest key."},
    {"limits.max_metadata_bytes",
     CISTERN_FIELD(std::uint64_t, limits.max_metadata_bytes),
     {0, kMaxMetadataBytes},
     "The longest user metadata of a value, as JSON text."},
    {"limits.max_frame_bytes",
     CISTERN_FIELD(std::uint64_t, limits.max_frame_bytes),
     {kMinFrameBytes, kMaxFrameBytes},
     "The most bytes of a value that travel in one frame, with a chunk's digest. While several "
     "transfers share a connection, frames are at most 64KiB."},
    {"limits.stream_window_bytes",
     CISTERN_FIELD(std::uint64_t, limits.stream_window_bytes),
     {kMinFrameBytes, 256 * kMiB},
     "How many bytes of one upload the daemon may have asked for that have not arrived; two chunks "
     "where that is more. At least limits.max_frame_bytes and storage.chunk_bytes."},
    {"limits.max_connections",
     CISTERN_FIELD(unsigned, limits.max_connections),
     {1, 65536},
     "Client connections of all workers together. More are refused with an answer that says so."},
    {"limits.max_streams_per_connection",
     CISTERN_FIELD(unsigned, limits.max_streams_per_connection),
     {1, 65536},
     "Requests that run at the same time on one connection."},
    {"limits.idle_timeout",
     CISTERN_FIELD(milliseconds, limits.idle_timeout),
     {ms(100ms), 365 * kDay},
     "A connection without any request is closed after this."},
    {"limits.request_timeout",
     CISTERN_FIELD(milliseconds, limits.request_timeout),
     {kShortestTimeout, kDay},
     "How long a request may wait for the first part of its answer. A transfer that moves may "
     "take any time."},
    {"limits.stall_timeout",
     CISTERN_FIELD(milliseconds, limits.stall_timeout),
     {kShortestTimeout, kDay},
     "A transfer fails when no byte moves and no credit is granted for this long."},

    // storage
    {"storage.chunk_bytes",
     CISTERN_FIELD(std::uint64_t, storage.chunk_bytes),
     {kMinChunkBytes, kMaxChunkBytes, 4 * kKiB},
     "Values are cut into chunks of this size, the unit of integrity and of storage in L2. The "
     "default wastes least of Redis' and memcached's memory."},
    {"storage.default_ttl",
     CISTERN_FIELD(milliseconds, storage.default_ttl),
     {0, kMaxTtlMs},
     "How long a value lives whose writer named no time to live. 0s: until it is evicted or "
     "deleted."},
    {"storage.compression.algorithm",
     CISTERN_FIELD(Compression, storage.compression.algorithm),
     {},
     "How chunks lie in L2; in L1 they are always as they came. zstd: compressed, unless they "
     "would "
     "not be smaller. auto: the same where three samples of a chunk shrink by a tenth; what "
     "doesn't "
     "shrink is hardly tried. none: as they came, and what others have compressed is still read. "
     "It saves L2's memory and the network to it, at about 4 ms of a core for each MiB of text."},
    {"storage.compression.level",
     CISTERN_FIELD(unsigned, storage.compression.level),
     {1, 9},
     "zstd's level. Higher ones take much more time and memory for little: of a log's text level 1 "
     "leaves 25 %, level 9 24 % at seven times the time."},
    {"storage.compression.min_bytes",
     CISTERN_FIELD(std::uint64_t, storage.compression.min_bytes),
     {4 * kKiB, kMaxChunkBytes},
     "Smaller chunks are stored as they came. Values of up to 4KiB, which are stored whole in one "
     "key, always are."},
    {"storage.compression.threads",
     CISTERN_FIELD(std::optional<unsigned>, storage.compression.threads),
     {1, 64},
     "Threads that compress and decode for all workers. They give way to the workers where both "
     "want a core. auto: half as many as workers, from 1 to 8. None without an L2."},

    // l2
    {"l2.kind",
     CISTERN_FIELD(L2Kind, l2.kind),
     {},
     "The second tier behind the memory of this daemon. none: there is none, and what L1 evicts "
     "is gone."},
    {"l2.max_idle",
     CISTERN_FIELD(milliseconds, l2.max_idle),
     {ms(1s), kMaxTtlMs},
     "A value without a time to live stays in L2 for this long after its last use."},
    {"l2.provisional_ttl",
     CISTERN_FIELD(milliseconds, l2.provisional_ttl),
     {ms(100ms), 30 * kDay},
     "What an upload has stored in L2 expires after this if the upload is never committed. It is "
     "renewed while the upload runs."},
    {"l2.replace_grace",
     CISTERN_FIELD(milliseconds, l2.replace_grace),
     {ms(100ms), kDay},
     "How long the chunks of a replaced or deleted value stay in L2 for those who still read "
     "them."},
    {"l2.prefetch_chunks",
     CISTERN_FIELD(unsigned, l2.prefetch_chunks),
     {1, 64},
     "How many chunks a read from L2 keeps under way at most. It begins with one."},
    {"l2.negative_ttl",
     CISTERN_FIELD(milliseconds, l2.negative_ttl),
     {0, ms(1h)},
     "How long this daemon remembers that L2 does not have a key, and answers without asking "
     "again. A write through this daemon ends it at once; one through another daemon as an "
     "invalidation does, or l1.max_staleness. 0s: L2 is always asked."},
    {"l2.on_failure.get",
     CISTERN_FIELD(OnGetFailure, l2.on_failure.get),
     {},
     "What a GET of something that is not in L1 gets when L2 cannot be asked. error: an error that "
     "says so. miss: NOT_FOUND, flagged degraded."},
    {"l2.on_failure.put",
     CISTERN_FIELD(OnPutFailure, l2.on_failure.put),
     {},
     "What a PUT does when L2 does not take the value. error: it fails. l1_only: the value is "
     "stored in L1 alone, flagged degraded, and lost when L1 evicts it or the daemon ends, and some "
     "time after L2 is back: then its older copy there is removed, which other daemons see until "
     "then, and it leaves L1 when it is next compared with L2."},
    {"l2.on_stale",
     CISTERN_FIELD(OnStale, l2.on_stale),
     {},
     "What is answered from memory for an entry older than l1.max_staleness when L2 can't be "
     "asked. "
     "serve: the value, flagged degraded and with its age. error: an error that trying again can "
     "help."},
    {"l2.revalidate_timeout",
     CISTERN_FIELD(milliseconds, l2.revalidate_timeout),
     {1, ms(10s)},
     "How long a request for a value in memory may wait for L2 to say whether that is current. "
     "Then l2.on_stale decides."},
    {"l2.redis.url",
     CISTERN_FIELD(RedisUrl, l2.redis.url),
     {},
     "The Redis that is the second tier. Keep its password out of this file: "
     "redis://:${REDIS_PASSWORD}@HOST.",
     true},
    {"l2.redis.password_file",
     CISTERN_FIELD(std::string, l2.redis.password_file),
     {0, 4096},
     "A file whose first line is the password for Redis, instead of a login in l2.redis.url. Read "
     "at "
     "the start."},
    {"l2.redis.user",
     CISTERN_FIELD(std::string, l2.redis.user),
     {0, 128},
     "Whose password that is. Empty: Redis' default user."},
    {"l2.redis.key_prefix",
     CISTERN_FIELD(std::string, l2.redis.key_prefix),
     {0, 128},
     "Begins every key that Cistern stores in Redis. Daemons with the same prefix share values."},
    {"l2.redis.connect_timeout",
     CISTERN_FIELD(milliseconds, l2.redis.connect_timeout),
     {kShortestTimeout, ms(5min)},
     "How long connecting to Redis may take."},
    {"l2.redis.op_timeout",
     CISTERN_FIELD(milliseconds, l2.redis.op_timeout),
     {kShortestTimeout, ms(5min)},
     "How long Redis may take to answer one command."},
    {"l2.redis.connections_per_worker",
     CISTERN_FIELD(unsigned, l2.redis.connections_per_worker),
     {2, 16},
     "Connections of each worker to Redis: one for commands, the others for chunks."},
    {"l2.redis.invalidation",
     CISTERN_FIELD(Invalidation, l2.redis.invalidation),
     {},
     "How this daemon learns of what others write. tracking: Redis tells, over two connections "
     "more, and entries stay in use without being asked for. none: every entry in use is compared "
     "with Redis once in l1.max_staleness."},
    {"l2.memcached.servers",
     CISTERN_FIELD(std::vector<HostPort>, l2.memcached.servers),
     {},
     "The memcached servers that are the second tier together. Each value lies on one of them, by "
     "ketama, as with other clients of libmemcached; a server that is down takes its values out of "
     "reach and no others. Daemons with the same list and prefix share values."},
    {"l2.memcached.weights",
     CISTERN_FIELD(std::vector<unsigned>, l2.memcached.weights),
     {1, 1000},
     "How much each server takes relative to the others, in the order of l2.memcached.servers "
     "(libmemcached's weighted ketama). A single 1: all the same."},
    {"l2.memcached.key_prefix",
     CISTERN_FIELD(std::string, l2.memcached.key_prefix),
     {0, 48},
     "Begins every key that Cistern stores in memcached: printable ASCII without spaces. Longer "
     "ones would leave too little of memcached's 250 bytes."},
    {"l2.memcached.item_max_bytes",
     CISTERN_FIELD(std::uint64_t, l2.memcached.item_max_bytes),
     {256 * kKiB, kGiB},
     "The largest item of every server, its own -I. A server with less is not used, and the daemon "
     "is not ready. storage.chunk_bytes with its key and headers must fit."},
    {"l2.memcached.pool_threads",
     CISTERN_FIELD(std::optional<unsigned>, l2.memcached.pool_threads),
     {1, 256},
     "Threads that talk to memcached, for all workers; each has a connection to each server. auto: "
     "four, or one for each server where that is more."},
    {"l2.memcached.connect_timeout",
     CISTERN_FIELD(milliseconds, l2.memcached.connect_timeout),
     {kShortestTimeout, ms(5min)},
     "How long connecting to a server may take."},
    {"l2.memcached.op_timeout",
     CISTERN_FIELD(milliseconds, l2.memcached.op_timeout),
     {kShortestTimeout, ms(5min)},
     "How long a server may take to answer. What a write came to is known, or known to stay "
     "unknown, up to 5s later."},

    // log
    {"log.level",
     CISTERN_FIELD(LogLevel, log.level),
     {},
     "The least important events that are logged."},
    {"log.format",
     CISTERN_FIELD(LogFormat, log.format),
     {},
     "One event a line on standard error: json for machines, text for people."},
};

#undef CISTERN_FIELD

}  // namespace

std::span<const Setting> settings() { return kSettings; }

const Setting* find_setting(std::string_view name) {
  const auto found = std::ranges::find(kSettings, name, &Setting::name);
  return found == std::end(kSettings) ? nullptr : &*found;
}

std::string variable_name(const Setting& setting) {
  std::string variable = "CISTERN_";
  for (const char c : setting.name) {
    variable += c == '.' ? '_' : static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  }
  return variable;
}

}  // namespace cistern::config
