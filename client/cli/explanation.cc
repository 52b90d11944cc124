#include "client/cli/explanation.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "client/cli/progress.h"

namespace cistern::cli {
namespace {

using Json = nlohmann::ordered_json;
using Parts = std::vector<std::string>;

const Json& member(const Json& json, const char* name) {
  static const Json kNothing;
  const auto found = json.is_object() ? json.find(name) : json.end();
  return json.is_object() && found != json.end() ? *found : kNothing;
}

// Empty when it is no such thing.
std::optional<std::int64_t> number(const Json& json, const char* name) {
  const Json& found = member(json, name);
  if (!found.is_number_integer()) return std::nullopt;
  return found.get<std::int64_t>();
}
std::string text(const Json& json, const char* name) {
  const Json& found = member(json, name);
  return found.is_string() ? found.get<std::string>() : std::string();
}

std::string bytes(std::int64_t count) {
  return fmt::format("{} bytes ({})", count, readable_bytes(static_cast<std::uint64_t>(count)));
}

void add_value(Parts& parts, const Json& json) {
  if (const auto size = number(json, "size")) parts.push_back(bytes(*size));
  if (const std::string version = text(json, "version"); !version.empty()) {
    parts.push_back("version " + version);
  }
}

void add_expiry(Parts& parts, const Json& json) {
  if (const auto left = number(json, "expires_in_ms")) {
    parts.push_back("expires in " + readable_time(*left));
  } else {
    parts.push_back("never expires");
  }
}

std::string memory_line(const Json& json) {
  const Json& l1 = member(json, "l1");
  if (member(l1, "resident") != true) return "not there";
  Parts parts;
  add_value(parts, l1);
  if (const auto age = number(l1, "age_ms")) {
    const auto wraps = number(l1, "age_wraps_after_ms");
    parts.push_back(fmt::format(
        "since {}{}", readable_time(*age),
        wraps ? fmt::format(" (or longer, by any number of {})", readable_time(*wraps)) : ""));
  }
  if (const auto hits = number(l1, "hits")) {
    parts.push_back(fmt::format("read {}{} times",
                                member(l1, "hits_at_least") == true ? "at least " : "", *hits));
  }
  if (const auto idle = number(l1, "idle_ms")) {
    parts.push_back("last moved up " + readable_time(*idle) + " ago");
  }
  if (const Json& freshness = member(l1, "freshness"); freshness.is_object()) {
    if (const auto ago = number(freshness, "current_ms_ago")) {
      parts.push_back(
          fmt::format("known to be current {} ago{}", readable_time(*ago),
                      member(freshness, "marked") == true ? " and in doubt since" : ""));
    }
  }
  add_expiry(parts, l1);
  const auto leaves = number(l1, "leaves_in_ms");
  if (leaves && leaves != number(l1, "expires_in_ms")) {
    parts.push_back("leaves memory in " + readable_time(*leaves) + " at the latest");
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

std::string last_line(const Json& json) {
  const Json& last = member(json, "last");
  const auto remembers = number(json, "remembers_ms");
  if (!last.is_object()) {
    if (!remembers) return "nothing has happened to it since the daemon started";
    return fmt::format(
        "nothing is remembered; what happened in the last {} would be, older events may be "
        "forgotten",
        readable_time(*remembers));
  }
  std::string line = text(last, "event");
  if (const auto ago = number(last, "ago_ms")) line += ", " + readable_time(*ago) + " ago";
  if (const std::string code = text(last, "code"); !code.empty()) line += ", " + code;
  if (const std::string meaning = text(last, "text"); !meaning.empty()) line += ": " + meaning;
  Parts parts;
  add_value(parts, last);
  if (const auto limit = number(last, "limit")) parts.push_back("the limit is " + bytes(*limit));
  if (!parts.empty()) line += fmt::format("; {}", fmt::join(parts, ", "));
  if (remembers) {
    line += fmt::format("; what came after it, but not in the last {}, may be forgotten",
                        readable_time(*remembers));
  }
  return line;
}

std::string l2_line(const Json& json) {
  const Json& l2 = member(json, "l2");
  const std::string state = text(l2, "state");
  if (state == "none") return "there is none";
  if (state == "absent") return "not there";
  Parts parts;
  if (state == "present") {
    add_value(parts, l2);
    const auto chunks = number(l2, "chunks");
    if (chunks == 0) {
      parts.push_back("within its manifest");
    } else if (chunks) {
      parts.push_back(
          fmt::format("{} chunks of {} bytes", *chunks, number(l2, "chunk_bytes").value_or(0)));
    }
    add_expiry(parts, l2);
    return fmt::format("{}", fmt::join(parts, ", "));
  }
  const char* const what =
      state == "corrupt" ? "its manifest was corrupt, and was removed" : "could not be asked";
  return fmt::format("{}: {} ({})", what, text(l2, "text"), text(l2, "code"));
}

}  // namespace

std::string readable_time(std::int64_t ms) {
  struct Unit {
    std::int64_t ms;
    const char* name;
    std::int64_t smaller_ms;
    const char* smaller;
  };
  constexpr Unit kUnits[] = {{86'400'000, "d", 3'600'000, "h"},
                             {3'600'000, "h", 60'000, "min"},
                             {60'000, "min", 1'000, "s"}};
  for (const Unit& unit : kUnits) {
    if (ms < unit.ms) continue;
    return fmt::format("{} {} {} {}", ms / unit.ms, unit.name, ms % unit.ms / unit.smaller_ms,
                       unit.smaller);
  }
  if (ms >= 1000) return fmt::format("{}.{} s", ms / 1000, ms % 1000 / 100);
  return fmt::format("{} ms", ms);
}

std::vector<std::string> explanation_lines(const Json& json) {
  return {"memory:      " + memory_line(json), "last event:  " + last_line(json),
          "second tier: " + l2_line(json)};
}

}  // namespace cistern::cli
