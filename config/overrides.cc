// CISTERN_… variables of the environment.
#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "config/draft.h"
#include "config/nearest.h"
#include "config/values.h"

namespace cistern::config {
namespace {

constexpr std::string_view kPrefix = "CISTERN_";
// Of the client, of the command line, and of tests.
constexpr std::array<std::string_view, 2> kOthers = {"CISTERN_SERVER", "CISTERN_CONFIG"};
constexpr std::string_view kTestPrefix = "CISTERN_TEST_";

bool is_number(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

// What Kubernetes and container links set for every service called cistern or cistern-SOMETHING:
// …_SERVICE_HOST, …_SERVICE_PORT[_NAME], …_PORT, …_PORT_7400_TCP[_PROTO|_PORT|_ADDR].
bool is_service_link(std::string_view variable) {
  if (variable.ends_with("_SERVICE_HOST") || variable.find("_SERVICE_PORT") != variable.npos ||
      variable.ends_with("_PORT")) {
    return true;
  }
  constexpr std::string_view kPort = "_PORT_";
  const std::size_t port = variable.find(kPort);
  if (port == variable.npos) return false;
  const std::string_view rest = variable.substr(port + kPort.size());
  const std::size_t end = rest.find('_');
  if (end == rest.npos || !is_number(rest.substr(0, end))) return false;
  const std::string_view transport = rest.substr(end + 1);
  return transport.starts_with("TCP") || transport.starts_with("UDP") ||
         transport.starts_with("SCTP");
}

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(' ');
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(' ') - first + 1);
}

std::vector<std::string> split(std::string_view text) {
  std::vector<std::string> items;
  while (true) {
    const std::size_t comma = text.find(',');
    items.emplace_back(trimmed(text.substr(0, comma)));
    if (comma == text.npos) return items;
    text.remove_prefix(comma + 1);
  }
}

}  // namespace

void read_overrides(const Environment& environment, Draft& draft) {
  std::vector<std::string> known;
  for (const Setting& setting : settings()) known.push_back(variable_name(setting));

  for (auto at = environment.lower_bound(std::string(kPrefix));
       at != environment.end() && at->first.starts_with(kPrefix); ++at) {
    const auto& [variable, value] = *at;
    const Origin origin{std::string(kEnvironmentName), 0, variable};
    const auto found = std::ranges::find(known, variable);
    if (found != known.end()) {
      const Setting& setting = settings()[static_cast<std::size_t>(found - known.begin())];
      draft.set(setting, takes_list(setting) ? split(value) : std::vector<std::string>{value},
                origin);
      continue;
    }
    if (std::ranges::find(kOthers, variable) != kOthers.end() ||
        variable.starts_with(kTestPrefix) || is_service_link(variable)) {
      continue;
    }
    const std::string meant = nearest(variable, known);
    draft.add_problem(origin, "", "an unknown variable",
                      meant.empty() ? "CISTERN_ and the name of a setting, as in "
                                      "CISTERN_LIMITS_MAX_KEY_BYTES"
                                    : fmt::format("a setting; did you mean {}?", meant));
  }
}

}  // namespace cistern::config
