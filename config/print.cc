// A Config as YAML, and the example file.
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "config/config.h"
#include "config/settings.h"
#include "config/units.h"
#include "config/values.h"

namespace cistern::config {
namespace {

constexpr std::size_t kLineLength = 100;

// Everything that may be text is quoted, so that no value is taken for something else by a reader
// of YAML. The words and amounts of the table are plain scalars.
bool is_text(const Setting& setting) {
  return takes_list(setting) || std::holds_alternative<Member<std::string>>(setting.field) ||
         std::holds_alternative<Member<RedisUrl>>(setting.field) ||
         std::holds_alternative<Member<std::optional<Endpoint>>>(setting.field);
}

std::string as_yaml_text(std::string_view text) {
  std::string result = "\"";
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '"' || text[i] == '\\') result += '\\';
    if (text.substr(i).starts_with("${")) result += '$';  // else it would be taken for a variable
    result += text[i];
  }
  return result + "\"";
}

std::string as_yaml(const Setting& setting, const Config& config) {
  std::vector<std::string> items = written(setting, config);
  if (is_text(setting)) {
    for (std::string& item : items) item = as_yaml_text(item);
  }
  return takes_list(setting) ? fmt::format("[{}]", fmt::join(items, ", ")) : items.front();
}

std::string indentation(std::size_t depth) { return std::string(2 * depth, ' '); }

std::string as_comment(std::string_view text, std::size_t depth) {
  const std::string start = indentation(depth) + "#";
  std::string result;
  std::string line = start;
  while (!text.empty()) {
    const std::size_t space = text.find(' ');
    const std::string_view word = text.substr(0, space);
    if (line.size() + 1 + word.size() > kLineLength) {
      result += line + "\n";
      line = start;
    }
    line += " ";
    line += word;
    text.remove_prefix(space == text.npos ? text.size() : space + 1);
  }
  return result + line + "\n";
}

// Calls `entry(setting, depth)` for each, after having written the sections that begin with it.
template <typename Entry>
std::string by_sections(const Entry& entry) {
  std::string result;
  std::vector<std::string_view> open;
  for (const Setting& setting : settings()) {
    std::vector<std::string_view> parts;
    std::string_view rest = setting.name;
    for (std::size_t dot = rest.find('.'); dot != rest.npos; dot = rest.find('.')) {
      parts.push_back(rest.substr(0, dot));
      rest.remove_prefix(dot + 1);
    }
    std::size_t common = 0;
    while (common < open.size() && common < parts.size() && open[common] == parts[common]) {
      ++common;
    }
    for (std::size_t depth = common; depth < parts.size(); ++depth) {
      if (depth == 0 && !result.empty()) result += "\n";
      result += fmt::format("{}{}:\n", indentation(depth), parts[depth]);
    }
    open = parts;
    result += entry(setting, rest, parts.size());
  }
  return result;
}

constexpr std::string_view kExampleHead =
    R"(# Every setting of cisternd, with its default: a file with nothing in it does the same as this one.
#
# Sizes are whole numbers of B, KiB, MiB, GiB, TiB (1024) or KB, MB, GB, TB (1000); durations of
# ms, s, m, h, d.
# ${NAME} stands for an environment variable, ${NAME:-OTHER} for one that may be unset or empty;
# $${ is ${ itself.
# A variable CISTERN_SECTION_KEY overrides a setting: CISTERN_LIMITS_MAX_KEY_BYTES=2KiB; lists
# are separated by commas.
# `cisternd --check-config` reports every mistake with its line, `--print-config` the settings in
# effect.

)";

}  // namespace

std::string print(const Config& config) {
  return by_sections([&](const Setting& setting, std::string_view key, std::size_t depth) {
    return fmt::format("{}{}: {}\n", indentation(depth), key, as_yaml(setting, config));
  });
}

std::string example() {
  const Config defaults;
  return std::string(kExampleHead) +
         by_sections([&](const Setting& setting, std::string_view key, std::size_t depth) {
           return as_comment(setting.meaning, depth) +
                  as_comment(fmt::format("Expects {}.", expectation(setting)), depth) +
                  fmt::format("{}{}: {}\n", indentation(depth), key, as_yaml(setting, defaults));
         });
}

}  // namespace cistern::config
