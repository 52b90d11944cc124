// memcached: its meta commands, mg and ms.
#include <algorithm>
#include <charconv>

#include "tests/bench/load/line_driver.h"

namespace cistern::bench {
namespace {

constexpr std::uint64_t kMsPerSecond = 1000;
// memcached takes a larger number for a point in time.
constexpr std::uint64_t kMaxTtlSeconds = 60 * 60 * 24 * 30;

LineSystem::Line interpret(std::string_view line) {
  using Kind = LineSystem::Line::Kind;
  if (line == "HD") return {Kind::kEnd, 0, Outcome::kStored};
  if (line == "EN") return {Kind::kEnd, 0, Outcome::kMiss};
  if (line == "NS" || line.starts_with("SERVER_ERROR out of memory") ||
      line.starts_with("SERVER_ERROR object too large")) {
    return {Kind::kEnd, 0, Outcome::kRefused};
  }
  if (line == "ERROR" || line.starts_with("CLIENT_ERROR") || line.starts_with("SERVER_ERROR")) {
    return {Kind::kEnd, 0, Outcome::kFailed};
  }
  if (!line.starts_with("VA ")) return {};
  LineSystem::Line value{Kind::kValue, 0, Outcome::kHit};
  const char* const last = line.data() + line.size();
  const auto [end, error] = std::from_chars(line.data() + 3, last, value.size);
  return error == std::errc() && (end == last || *end == ' ') ? value : LineSystem::Line{};
}

}  // namespace

std::unique_ptr<System> make_memcached(const Corpus& corpus, const SystemOptions& options) {
  const auto get = [&corpus](std::string& out, KeyIndex key) {
    out += "mg " + corpus.key(key) + " v\r\n";
  };
  // Whole seconds, rounded up: memcached has no finer ones.
  const std::uint64_t seconds =
      std::min((options.ttl_ms + kMsPerSecond - 1) / kMsPerSecond, kMaxTtlSeconds);
  const std::string ttl = seconds == 0 ? "" : " T" + std::to_string(seconds);
  const auto put_head = [&corpus, ttl](std::string& out, KeyIndex key) {
    out += "ms " + corpus.key(key) + " " + std::to_string(corpus.size(key)) + ttl + "\r\n";
  };
  return std::make_unique<LineSystem>(corpus, options, get, put_head, interpret);
}

}  // namespace cistern::bench
