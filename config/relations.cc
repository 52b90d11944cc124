// Settings that are each within their bounds and still contradict each other.
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

// `smaller` must not be above `larger`, nor equal to it if `strictly`.
struct Relation {
  std::string_view smaller;
  std::string_view larger;
  bool strictly;
  bool of_l2;  // only where there is an L2
  std::string_view reason;
};

constexpr std::array kRelations = {
    Relation{"limits.max_frame_bytes", "limits.stream_window_bytes", false, false,
             "a frame larger than the window could never be sent"},
    Relation{"storage.chunk_bytes", "limits.stream_window_bytes", false, false,
             "a chunk is verified as a whole before it is passed on, so the window must hold one"},
    Relation{"l1.max_bytes", "memory.limit", true, false,
             "transfers and connections need memory beside L1"},
    Relation{"limits.stream_window_bytes", "memory.limit", true, false,
             "every running upload reserves its window"},
    Relation{"l2.redis.op_timeout", "l2.provisional_ttl", true, true,
             "chunks would expire before the command that renews them has failed"},
    Relation{"l2.redis.op_timeout", "l2.replace_grace", false, true,
             "the chunks of a replaced value must outlive a read that is under way"},
    Relation{"l2.provisional_ttl", "l2.max_idle", false, true,
             "a commit raises the expiry of chunks, it never shortens it"},
    Relation{"l2.revalidate_timeout", "limits.request_timeout", true, true,
             "requests would time out before it is decided what they get"},
    Relation{"l2.redis.op_timeout", "limits.request_timeout", true, true,
             "every request that Redis is slow to answer would time out before Redis does"},
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
    if (relation.of_l2 && draft_.config.l2.kind == L2Kind::kNone) return;
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
  checker.check_listeners();
}

}  // namespace cistern::config
