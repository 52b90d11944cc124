#include "config/substitute.h"

#include <algorithm>

#include <fmt/format.h>

namespace cistern::config {
namespace {

bool is_name(std::string_view text) {
  const auto is_letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  };
  return !text.empty() && is_letter(text.front()) &&
         std::ranges::all_of(text, [&](char c) { return is_letter(c) || (c >= '0' && c <= '9'); });
}

// `inside` is what stands between the braces.
tl::expected<std::string, std::string> look_up(std::string_view inside,
                                               const Environment& environment) {
  constexpr std::string_view kOtherwise = ":-";
  const std::size_t mark = inside.find(kOtherwise);
  const std::string name(inside.substr(0, mark));
  if (!is_name(name)) {
    return tl::unexpected(
        std::string("${NAME} or ${NAME:-OTHER}, the name of letters, digits and '_' (${ itself is "
                    "written $${)"));
  }
  const auto found = environment.find(name);
  const bool has_other = mark != inside.npos;
  if (found == environment.end() && !has_other) {
    return tl::unexpected(
        fmt::format("the environment variable {} to be set (or ${{{}:-OTHER}} for when it is not)",
                    name, name));
  }
  if (has_other && (found == environment.end() || found->second.empty())) {
    return std::string(inside.substr(mark + kOtherwise.size()));
  }
  return found->second;
}

}  // namespace

tl::expected<std::string, std::string> substitute(std::string_view text,
                                                  const Environment& environment) {
  std::string result;
  while (!text.empty()) {
    if (text.starts_with("$${")) {
      result += "${";
      text.remove_prefix(3);
    } else if (text.starts_with("${")) {
      const std::size_t close = text.find('}');
      if (close == text.npos) {
        return tl::unexpected(std::string("a closing brace after ${ (${ itself is written $${)"));
      }
      auto value = look_up(text.substr(2, close - 2), environment);
      if (!value) return value;
      result += *value;
      text.remove_prefix(close + 1);
    } else {
      result += text.front();
      text.remove_prefix(1);
    }
  }
  return result;
}

}  // namespace cistern::config
