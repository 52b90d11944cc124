// Structured logs: one event a line, to stderr, as JSON or text. No payloads, no keys' values, no
// secrets.
//
//   log::info("listening", {{"endpoint", endpoint}, {"backlog", 128}});
//
// Any thread. Until init() events go straight to stderr as text from level info on; afterwards
// through a bounded queue and a thread of its own, so that a full pipe behind stderr never holds a
// worker: when the queue is full the oldest events are dropped and counted.
#pragma once

#include <atomic>
#include <concepts>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>
#include <variant>

namespace cistern::base::log {

enum class Level : std::uint8_t { kTrace, kDebug, kInfo, kWarn, kError };
enum class Format : std::uint8_t { kJson, kText };

std::string_view name(Level level);

struct Options {
  Level level = Level::kInfo;
  Format format = Format::kJson;
  // Takes each line, without its end, in place of stderr; on the log's own thread.
  std::function<void(std::string_view)> sink;
};

// From one thread, while no other logs.
void init(const Options& options);
// Writes what is queued and returns to the state before init().
void shutdown();
void set_level(Level level);
// Events lost because the queue was full.
std::uint64_t dropped();

// What a field may hold; refers to text, does not own it.
class Value {
 public:
  Value(std::string_view text) : value_(text) {}
  Value(const char* text) : value_(std::string_view(text)) {}
  Value(const std::string& text) : value_(std::string_view(text)) {}
  Value(bool value) : value_(value) {}
  template <std::signed_integral T>
  Value(T value) : value_(static_cast<std::int64_t>(value)) {}
  template <std::unsigned_integral T>
  requires(!std::same_as<T, bool>) Value(T value) : value_(static_cast<std::uint64_t>(value)) {}
  Value(double value) : value_(value) {}

  using Held = std::variant<std::string_view, std::int64_t, std::uint64_t, double, bool>;
  const Held& held() const { return value_; }

 private:
  Held value_;
};

struct Field {
  std::string_view key;
  Value value;
};
using Fields = std::initializer_list<Field>;

// For events that peers can provoke: at most `per_second` a second pass, and the next one that
// passes says how many did not ("suppressed"). Usually static; any thread.
class Limit {
 public:
  explicit constexpr Limit(std::uint32_t per_second) : per_second_(per_second) {}
  // Whether an event may pass at `now_s`, a second of any monotonic clock; then `suppressed` is how
  // many did not since the last one that did.
  bool pass(std::uint64_t now_s, std::uint64_t& suppressed);

 private:
  const std::uint32_t per_second_;
  std::atomic<std::uint64_t> second_{~std::uint64_t{0}};
  std::atomic<std::uint32_t> count_{0};
  std::atomic<std::uint64_t> suppressed_{0};
};

namespace detail {
extern std::atomic<Level> threshold;
void write(Level level, std::string_view event, Fields fields);
void write(Limit& limit, Level level, std::string_view event, Fields fields);
}  // namespace detail

inline bool enabled(Level level) {
  return level >= detail::threshold.load(std::memory_order_relaxed);
}

inline void event(Level level, std::string_view what, Fields fields = {}) {
  if (enabled(level)) detail::write(level, what, fields);
}
inline void event(Limit& limit, Level level, std::string_view what, Fields fields = {}) {
  if (enabled(level)) detail::write(limit, level, what, fields);
}

inline void trace(std::string_view what, Fields fields = {}) { event(Level::kTrace, what, fields); }
inline void debug(std::string_view what, Fields fields = {}) { event(Level::kDebug, what, fields); }
inline void info(std::string_view what, Fields fields = {}) { event(Level::kInfo, what, fields); }
inline void warn(std::string_view what, Fields fields = {}) { event(Level::kWarn, what, fields); }
inline void error(std::string_view what, Fields fields = {}) { event(Level::kError, what, fields); }
inline void info(Limit& limit, std::string_view what, Fields fields = {}) {
  event(limit, Level::kInfo, what, fields);
}
inline void warn(Limit& limit, std::string_view what, Fields fields = {}) {
  event(limit, Level::kWarn, what, fields);
}
inline void error(Limit& limit, std::string_view what, Fields fields = {}) {
  event(limit, Level::kError, what, fields);
}

// `text` as it may stand between the quotes of a JSON string: escaped, and with U+FFFD for every
// byte that is not part of well-formed UTF-8.
std::string json_escape(std::string_view text);

}  // namespace cistern::base::log

namespace cistern {
namespace log = base::log;
}
