// Settings that are each within their bounds and still contradict each other.
#include <algorithm>
#include <array>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "config/draft.h"
#include "config/values.h"

namespace cistern::config {
namespace {

// What storing a chunk takes of a memcached item beside the chunk: the envelope's header, the key,
// and what memcached keeps of its own (server/l2/memcached_options.h has the sum).
constexpr std::uint64_t kMemcachedItemOverheadBytes = 386;

enum class When : std::uint8_t { kAlways, kWithL2, kWithRedis, kWithMemcached };

bool is_so(When when, L2Kind kind) {
  switch (when) {
    case When::kAlways:
      return true;
    case When::kWithL2:
      return kind != L2Kind::kNone;
    case When::kWithRedis:
      return kind == L2Kind::kRedis;
    case When::kWithMemcached:
      return kind == L2Kind::kMemcached;
  }
  return false;
}

// `smaller` must not be above `larger`, nor equal to it if `strictly`.
struct Relation {
  std::string_view smaller;
  std::string_view larger;
  bool strictly;
  When when;
  std::string_view reason;
};

constexpr std::array kRelations = {
    Relation{"limits.max_frame_bytes", "limits.stream_window_bytes", false, When::kAlways,
             "a frame larger than the window could never be sent"},
    Relation{"storage.chunk_bytes", "limits.stream_window_bytes", false, When::kAlways,
             "a chunk is verified as a whole before it is passed on, so the window must hold one"},
    Relation{"l1.max_bytes", "memory.limit", true, When::kAlways,
             "transfers and connections need memory beside L1"},
    Relation{"limits.stream_window_bytes", "memory.limit", true, When::kAlways,
             "every running upload reserves its window"},
    Relation{"l2.redis.op_timeout", "l2.provisional_ttl", true, When::kWithRedis,
             "chunks would expire before the command that renews them has failed"},
    Relation{"l2.redis.op_timeout", "l2.replace_grace", false, When::kWithRedis,
             "the chunks of a replaced value must outlive a read that is under way"},
    Relation{"l2.provisional_ttl", "l2.max_idle", false, When::kWithL2,
             "a commit raises the expiry of chunks, it never shortens it"},
    Relation{"l2.redis.op_timeout", "limits.request_timeout", true, When::kWithRedis,
             "every request that Redis is slow to answer would time out before Redis does"},
    Relation{"l2.memcached.op_timeout", "l2.provisional_ttl", true, When::kWithMemcached,
             "chunks would expire before the command that renews them has failed"},
    Relation{"l2.memcached.op_timeout", "l2.replace_grace", false, When::kWithMemcached,
             "the chunks of a replaced value must outlive a read that is under way"},
    Relation{"l2.memcached.op_timeout", "limits.request_timeout", true, When::kWithMemcached,
             "every request that memcached is slow to answer would time out before it does"},
};

// What the two have in common: a number of bytes or of milliseconds. Empty for auto.
std::optional<std::uint64_t> amount(const Setting& setting, Config& config) {
  return std::visit(
      [&](const auto member) -> std::optional<std::uint64_t> {
        const auto& value = member(config);
        using T = std::remove_cvref_t<decltype(value)>;
        if constexpr (std::is_same_v<T, milliseconds>) {
          return static_cast<std::uint64_t>(value.count());
        } else if constexpr (std::is_convertible_v<T, std::optional<std::uint64_t>>) {
          return value;
        } else {
          return std::nullopt;
        }
      },
      setting.field);
}

class Checker {
 public:
  explicit Checker(Draft& draft) : draft_(draft) {}

  void check(const Relation& relation) {
    if (!is_so(relation.when, draft_.config.l2.kind)) return;
    if (is_refused(relation.smaller) || is_refused(relation.larger)) return;
    const Setting& smaller = *find_setting(relation.smaller);
    const Setting& larger = *find_setting(relation.larger);
    const auto low = amount(smaller, draft_.config);
    const auto high = amount(larger, draft_.config);
    if (!low || !high || (relation.strictly ? *low < *high : *low <= *high)) return;

    // The blame goes to the one that was set; if both were, to the larger's.
    const bool blame_larger = draft_.given.contains(relation.larger);
    const Setting& blamed = blame_larger ? larger : smaller;
    const Setting& other = blame_larger ? smaller : larger;
    const std::string_view demand = blame_larger ? (relation.strictly ? "more than" : "at least")
                                                 : (relation.strictly ? "less than" : "at most");
    report(blamed.name, value_of(blamed),
           fmt::format("{} {}, which is {}{}: {}", demand, other.name, value_of(other),
                       where(other.name), relation.reason));
  }

  // Without an L2, what leaves L1 is gone.
  void check_jitter() {
    if (is_refused("l1.ttl_jitter") || is_refused("l2.kind")) return;
    if (draft_.config.l2.kind != L2Kind::kNone || draft_.config.l1.ttl_jitter == Share{}) return;
    const Setting& jitter = *find_setting("l1.ttl_jitter");
    report(jitter.name, value_of(jitter),
           fmt::format("0, since l2.kind is none{}: a value that leaves L1 early would be lost "
                       "before its time",
                       where("l2.kind")));
  }

  void check_memcached() {
    if (draft_.config.l2.kind != L2Kind::kMemcached) return;
    const Config::Memcached& memcached = draft_.config.l2.memcached;
    const std::uint64_t chunk_bytes = draft_.config.storage.chunk_bytes;
    if (!is_refused("l2.memcached.item_max_bytes") && !is_refused("storage.chunk_bytes") &&
        chunk_bytes + kMemcachedItemOverheadBytes > memcached.item_max_bytes) {
      const Setting& chunk = *find_setting("storage.chunk_bytes");
      const Setting& item = *find_setting("l2.memcached.item_max_bytes");
      const bool blame_item = draft_.given.contains(item.name);
      const Setting& blamed = blame_item ? item : chunk;
      const Setting& other = blame_item ? chunk : item;
      report(
          blamed.name, value_of(blamed),
          fmt::format("{} {} {} {} bytes for key and headers ({} is {}{}): a chunk has to fit "
                      "an item of memcached",
                      blame_item ? "at least" : "at most", other.name, blame_item ? "plus" : "less",
                      kMemcachedItemOverheadBytes, other.name, value_of(other), where(other.name)));
    }
    check_memcached_lists(memcached);
    const bool is_plain =
        std::ranges::all_of(memcached.key_prefix, [](char c) { return c > 0x20 && c < 0x7f; });
    if (!is_plain) {
      report("l2.memcached.key_prefix", in_quotes(memcached.key_prefix),
             "printable ASCII without spaces: memcached allows nothing else in a key");
    }
  }

  void check_memcached_lists(const Config::Memcached& memcached) {
    const std::size_t servers = memcached.servers.size();
    if (is_refused("l2.memcached.servers")) return;
    for (std::size_t i = 1; i < servers; ++i) {
      const auto end = memcached.servers.begin() + static_cast<std::ptrdiff_t>(i);
      if (std::find(memcached.servers.begin(), end, memcached.servers[i]) == end) continue;
      const std::vector<std::string> all =
          written(*find_setting("l2.memcached.servers"), draft_.config);
      report("l2.memcached.servers", in_quotes(all[i]), "each server once");
    }
    const bool is_single = memcached.weights == std::vector<unsigned>{1};
    if (!is_refused("l2.memcached.weights") && !is_single && memcached.weights.size() != servers) {
      report("l2.memcached.weights", fmt::format("{} weights", memcached.weights.size()),
             fmt::format("one for each of l2.memcached.servers, which are {}, or a single 1",
                         servers));
    }
    if (!is_refused("l2.memcached.pool_threads") &&
        memcached.pool_threads.value_or(256) < servers) {
      report("l2.memcached.pool_threads", fmt::to_string(*memcached.pool_threads),
             fmt::format("at least one for each of l2.memcached.servers, which are {}: one that "
                         "stalls must not hold up the others",
                         servers));
    }
  }

  void check_listeners() {
    if (is_refused("server.listen")) return;
    const std::vector<Endpoint>& listen = draft_.config.server.listen;
    for (std::size_t i = 0; i < listen.size(); ++i) {
      for (std::size_t j = i + 1; j < listen.size(); ++j) {
        if (!proto::collide(listen[i], listen[j])) continue;
        report("server.listen", in_quotes(proto::to_string(listen[j])),
               fmt::format("endpoints that do not collide; the list also has {}",
                           in_quotes(proto::to_string(listen[i]))));
      }
    }
    const std::optional<Endpoint>& admin = draft_.config.admin.listen;
    if (!admin || is_refused("admin.listen")) return;
    for (const Endpoint& endpoint : listen) {
      if (!proto::collide(endpoint, *admin)) continue;
      const bool blame_admin = draft_.given.contains("admin.listen");
      report(blame_admin ? "admin.listen" : "server.listen", in_quotes(proto::to_string(endpoint)),
             fmt::format(
                 "another port than {}{}",
                 blame_admin ? "server.listen has" : "admin.listen, which is ",
                 blame_admin ? where("server.listen") : in_quotes(proto::host_and_port(*admin))));
    }
  }

 private:
  bool is_refused(std::string_view name) const {
    const auto found = draft_.given.find(name);
    return found != draft_.given.end() && found->second.refused;
  }

  std::string value_of(const Setting& setting) const {
    return fmt::to_string(fmt::join(written(setting, draft_.config), ", "));
  }

  // " by default", " in line 3", " by CISTERN_…".
  std::string where(std::string_view name) const {
    const auto found = draft_.given.find(name);
    if (found == draft_.given.end()) return " by default";
    const Origin& origin = found->second.origin;
    return origin.line > 0 ? fmt::format(" in line {}", origin.line)
                           : fmt::format(" by {}", origin.variable);
  }

  void report(std::string_view name, std::string found, std::string expected) {
    const auto given = draft_.given.find(name);
    const Origin origin =
        given == draft_.given.end() ? Origin{"defaults", 0, ""} : given->second.origin;
    draft_.add_problem(origin, std::string(name), std::move(found), std::move(expected));
  }

  Draft& draft_;
};

}  // namespace

void check_relations(Draft& draft) {
  Checker checker(draft);
  for (const Relation& relation : kRelations) checker.check(relation);
  checker.check_jitter();
  checker.check_memcached();
  checker.check_listeners();
}

}  // namespace cistern::config
