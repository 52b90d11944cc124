#include "config/units.h"

#include <array>
#include <charconv>
#include <limits>
#include <span>

#include <fmt/format.h>

namespace cistern::config {
namespace {

struct Unit {
  std::string_view name;
  std::uint64_t factor;
};

// What is printed comes first, the smallest unit first; the others are only read.
constexpr std::size_t kPrintedSizes = 5;
constexpr std::array kSizes = {Unit{"B", 1},
                               Unit{"KiB", 1ull << 10},
                               Unit{"MiB", 1ull << 20},
                               Unit{"GiB", 1ull << 30},
                               Unit{"TiB", 1ull << 40},
                               Unit{"KB", 1'000},
                               Unit{"MB", 1'000'000},
                               Unit{"GB", 1'000'000'000},
                               Unit{"TB", 1'000'000'000'000}};
constexpr std::array kDurations = {Unit{"ms", 1}, Unit{"s", 1'000}, Unit{"m", 60'000},
                                   Unit{"h", 3'600'000}, Unit{"d", 86'400'000}};

std::optional<std::uint64_t> parse(std::string_view text, std::span<const Unit> units) {
  std::uint64_t number = 0;
  const char* const last = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), last, number);
  if (error != std::errc()) return std::nullopt;
  std::string_view unit(end, static_cast<std::size_t>(last - end));
  if (unit.empty()) return number == 0 ? std::optional<std::uint64_t>(0) : std::nullopt;
  if (unit.front() == ' ') unit.remove_prefix(1);
  for (const Unit& known : units) {
    if (unit != known.name) continue;
    if (number > std::numeric_limits<std::uint64_t>::max() / known.factor) return std::nullopt;
    return number * known.factor;
  }
  return std::nullopt;
}

std::string format(std::uint64_t amount, std::span<const Unit> units) {
  const Unit* best = &units.front();
  for (const Unit& unit : units) {
    if (amount != 0 && amount % unit.factor == 0) best = &unit;
  }
  return fmt::format("{}{}", amount / best->factor, best->name);
}

}  // namespace

std::optional<std::uint64_t> parse_size(std::string_view text) { return parse(text, kSizes); }

std::optional<std::chrono::milliseconds> parse_duration(std::string_view text) {
  const auto ms = parse(text, kDurations);
  if (!ms || *ms > static_cast<std::uint64_t>(std::chrono::milliseconds::max().count())) {
    return std::nullopt;
  }
  return std::chrono::milliseconds(*ms);
}

std::optional<std::uint64_t> parse_count(std::string_view text) {
  std::uint64_t number = 0;
  const char* const last = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), last, number);
  if (text.empty() || error != std::errc() || end != last) return std::nullopt;
  return number;
}

std::optional<std::uint64_t> parse_share(std::string_view text) {
  // Where the last digit that counts stands after the point: 0.001 is 0.1%.
  std::size_t places = 3;
  if (text.ends_with('%')) {
    text.remove_suffix(1);
    places = 1;
  }
  const std::size_t point = text.find('.');
  std::string digits(text.substr(0, point));
  std::string fraction;
  if (digits.empty()) return std::nullopt;
  if (point != text.npos) {
    fraction = text.substr(point + 1);
    if (fraction.empty() || fraction.size() > places) return std::nullopt;
  }
  fraction.append(places - fraction.size(), '0');
  return parse_count(digits + fraction);
}

std::string format_size(std::uint64_t bytes) {
  return format(bytes, std::span(kSizes).first(kPrintedSizes));
}

std::string format_duration(std::chrono::milliseconds duration) {
  // A duration of zero reads better in seconds.
  if (duration.count() == 0) return "0s";
  return format(static_cast<std::uint64_t>(duration.count()), kDurations);
}

std::string format_share(std::uint64_t per_mille) {
  std::string text = fmt::format("{}.{:03}", per_mille / 1000, per_mille % 1000);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.ends_with('.')) text.pop_back();
  return text;
}

}  // namespace cistern::config
