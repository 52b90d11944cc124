// Redis: RESP2, GET and SET; PSETEX, which is SET with PX, where there is a time to live.
#include <charconv>

#include "tests/bench/load/line_driver.h"

namespace cistern::bench {
namespace {

void append_bulk(std::string& out, std::string_view text) {
  out += "$" + std::to_string(text.size()) + "\r\n";
  out += text;
  out += "\r\n";
}

LineSystem::Line interpret(std::string_view line) {
  using Kind = LineSystem::Line::Kind;
  if (line == "+OK") return {Kind::kEnd, 0, Outcome::kStored};
  if (line == "$-1") return {Kind::kEnd, 0, Outcome::kMiss};
  if (line.starts_with("-OOM")) return {Kind::kEnd, 0, Outcome::kRefused};
  if (line.starts_with("-")) return {Kind::kEnd, 0, Outcome::kFailed};
  if (!line.starts_with("$")) return {};
  LineSystem::Line value{Kind::kValue, 0, Outcome::kHit};
  const auto [end, error] = std::from_chars(line.data() + 1, line.data() + line.size(), value.size);
  return error == std::errc() && end == line.data() + line.size() ? value : LineSystem::Line{};
}

}  // namespace

std::unique_ptr<System> make_redis(const Corpus& corpus, const SystemOptions& options) {
  const auto get = [&corpus](std::string& out, KeyIndex key) {
    out += "*2\r\n$3\r\nGET\r\n";
    append_bulk(out, corpus.key(key));
  };
  // The time to live comes before the value, so that nothing but a line end follows it.
  const auto put_head = [&corpus, ttl_ms = options.ttl_ms](std::string& out, KeyIndex key) {
    if (ttl_ms == 0) {
      out += "*3\r\n$3\r\nSET\r\n";
      append_bulk(out, corpus.key(key));
    } else {
      out += "*4\r\n$6\r\nPSETEX\r\n";
      append_bulk(out, corpus.key(key));
      append_bulk(out, std::to_string(ttl_ms));
    }
    out += "$" + std::to_string(corpus.size(key)) + "\r\n";
  };
  return std::make_unique<LineSystem>(corpus, options, get, put_head, interpret);
}

std::unique_ptr<System> make_redis_gets(const Corpus& corpus,
                                        std::function<std::string(KeyIndex)> name) {
  const auto get = [name = std::move(name)](std::string& out, KeyIndex key) {
    out += "*2\r\n$3\r\nGET\r\n";
    append_bulk(out, name(key));
  };
  return std::make_unique<LineSystem>(corpus, SystemOptions{}, get, get, interpret);
}

}  // namespace cistern::bench
