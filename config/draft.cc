#include "config/draft.h"

#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "config/values.h"

namespace cistern::config {

void Draft::add_problem(const Origin& origin, std::string setting, std::string found,
                        std::string expected) {
  if (!origin.variable.empty()) {
    setting = setting.empty() ? origin.variable : fmt::format("{} ({})", setting, origin.variable);
  }
  problems.push_back(
      {origin.file, origin.line, std::move(setting), std::move(found), std::move(expected)});
}

void Draft::set(const Setting& setting, const std::vector<std::string>& items,
                const Origin& origin) {
  const auto expected = assign(setting, items, config);
  given[setting.name] = {origin, expected.has_value()};
  if (expected) {
    const std::string found =
        items.empty() ? "an empty list" : shown(setting, fmt::to_string(fmt::join(items, ", ")));
    add_problem(origin, std::string(setting.name), found, *expected);
  }
}

std::string to_string(const Problem& problem) {
  std::string text = problem.file;
  if (problem.line > 0) text += fmt::format(":{}", problem.line);
  if (!problem.setting.empty()) text += fmt::format(": {}", problem.setting);
  if (!problem.found.empty()) text += fmt::format(": found {}", problem.found);
  return text + fmt::format("{}expected {}", problem.found.empty() ? ": " : "; ", problem.expected);
}

}  // namespace cistern::config
