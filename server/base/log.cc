#include "server/base/log.h"

#include <time.h>

#include <chrono>
#include <cmath>
#include <memory>

#include <fmt/format.h>
#include <spdlog/async.h>
#include <spdlog/async_logger.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_sinks.h>

namespace cistern::base::log {
namespace detail {
std::atomic<Level> threshold{Level::kInfo};
}

namespace {

// spdlog keeps a slot of about 400 bytes for each.
constexpr std::size_t kQueuedEvents = 2048;

using Line = fmt::memory_buffer;

void append(Line& line, std::string_view text) {
  line.append(text.data(), text.data() + text.size());
}

// Length of the well-formed UTF-8 sequence that `text` begins with, or 0 (Unicode, table 3-7).
std::size_t utf8_length(std::string_view text) {
  const auto at = [&](std::size_t i) -> unsigned {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0;
  };
  const auto within = [](unsigned byte, unsigned low, unsigned high) {
    return byte >= low && byte <= high;
  };
  const auto tail = [&](std::size_t i) { return within(at(i), 0x80, 0xBF); };
  const unsigned lead = at(0);
  if (lead < 0x80) return 1;
  if (within(lead, 0xC2, 0xDF)) return tail(1) ? 2 : 0;
  if (within(lead, 0xE0, 0xEF)) {
    const unsigned low = lead == 0xE0 ? 0xA0 : 0x80;
    const unsigned high = lead == 0xED ? 0x9F : 0xBF;
    return within(at(1), low, high) && tail(2) ? 3 : 0;
  }
  if (within(lead, 0xF0, 0xF4)) {
    const unsigned low = lead == 0xF0 ? 0x90 : 0x80;
    const unsigned high = lead == 0xF4 ? 0x8F : 0xBF;
    return within(at(1), low, high) && tail(2) && tail(3) ? 4 : 0;
  }
  return 0;
}

void append_escaped(Line& line, std::string_view text) {
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    const auto byte = static_cast<unsigned char>(text.front());
    if (length == 0) {
      append(line, "\xEF\xBF\xBD");
    } else if (byte == '"' || byte == '\\') {
      line.push_back('\\');
      line.push_back(text.front());
    } else if (byte == '\n') {
      append(line, "\\n");
    } else if (byte < 0x20 || byte == 0x7F) {
      fmt::format_to(std::back_inserter(line), "\\u{:04x}", byte);
    } else {
      append(line, text.substr(0, length));
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
}

void append_quoted(Line& line, std::string_view text) {
  line.push_back('"');
  append_escaped(line, text);
  line.push_back('"');
}

bool needs_quotes(std::string_view text) {
  if (text.empty()) return true;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("-_.:/+@%,[]").find(c) != std::string_view::npos;
    if (!plain) return true;
  }
  return false;
}

void append_value(Line& line, const Value& value, Format format) {
  std::visit(
      [&](const auto& held) {
        using Held = std::remove_cvref_t<decltype(held)>;
        if constexpr (std::is_same_v<Held, std::string_view>) {
          if (format == Format::kJson || needs_quotes(held)) {
            append_quoted(line, held);
          } else {
            append(line, held);
          }
        } else if constexpr (std::is_same_v<Held, double>) {
          if (std::isfinite(held)) {
            fmt::format_to(std::back_inserter(line), "{}", held);
          } else {
            append(line, "null");  // JSON has no other word for it
          }
        } else {
          fmt::format_to(std::back_inserter(line), "{}", held);
        }
      },
      value.held());
}

void append_time(Line& line) {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  tm parts{};
  ::gmtime_r(&now.tv_sec, &parts);
  fmt::format_to(std::back_inserter(line), "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
                 parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min,
                 parts.tm_sec, now.tv_nsec / 1'000'000);
}

void append_field(Line& line, std::string_view key, const Value& value, Format format) {
  if (format == Format::kJson) {
    line.push_back(',');
    append_quoted(line, key);
    line.push_back(':');
  } else {
    line.push_back(' ');
    append(line, key);
    line.push_back('=');
  }
  append_value(line, value, format);
}

void append_head(Line& line, Level level, std::string_view event, Format format) {
  if (format == Format::kText) {
    append_time(line);
    fmt::format_to(std::back_inserter(line), " {} {}", name(level), event);
    return;
  }
  append(line, "{\"time\":\"");
  append_time(line);
  fmt::format_to(std::back_inserter(line), "\",\"level\":\"{}\",\"event\":", name(level));
  append_quoted(line, event);
}

class FunctionSink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit FunctionSink(std::function<void(std::string_view)> take) : take_(std::move(take)) {}

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    take_({message.payload.data(), message.payload.size()});
  }
  void flush_() override {}

 private:
  const std::function<void(std::string_view)> take_;
};

struct Backend {
  Format format = Format::kText;
  std::shared_ptr<spdlog::logger> logger;
  // After the logger, so that it is destroyed first: its thread has then ended, and lets go of the
  // logger no more.
  std::shared_ptr<spdlog::details::thread_pool> pool;
};

std::unique_ptr<Backend> make_plain_backend() {
  auto made = std::make_unique<Backend>();
  made->logger = std::make_shared<spdlog::logger>(
      "cistern", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  made->logger->set_pattern("%v");
  made->logger->set_level(spdlog::level::trace);
  return made;
}

std::unique_ptr<Backend>& backend() {
  static std::unique_ptr<Backend> the_backend = make_plain_backend();
  return the_backend;
}

spdlog::level::level_enum to_spdlog(Level level) {
  return static_cast<spdlog::level::level_enum>(level);
}
static_assert(static_cast<int>(Level::kError) == SPDLOG_LEVEL_ERROR);

void write_line(Level level, std::string_view event, Fields fields, std::uint64_t suppressed) {
  const Backend& to = *backend();
  Line line;
  append_head(line, level, event, to.format);
  for (const Field& field : fields) append_field(line, field.key, field.value, to.format);
  if (suppressed != 0) append_field(line, "suppressed", suppressed, to.format);
  if (to.format == Format::kJson) line.push_back('}');
  to.logger->log(to_spdlog(level), spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace

std::string_view name(Level level) {
  switch (level) {
    case Level::kTrace:
      return "trace";
    case Level::kDebug:
      return "debug";
    case Level::kInfo:
      return "info";
    case Level::kWarn:
      return "warn";
    case Level::kError:
      return "error";
  }
  return "unknown";
}

void init(const Options& options) {
  std::shared_ptr<spdlog::sinks::sink> sink;
  if (options.sink) {
    sink = std::make_shared<FunctionSink>(options.sink);
  } else {
    sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  }
  auto made = std::make_unique<Backend>();
  made->format = options.format;
  made->pool = std::make_shared<spdlog::details::thread_pool>(kQueuedEvents, 1);
  made->logger = std::make_shared<spdlog::async_logger>(
      "cistern", std::move(sink), made->pool, spdlog::async_overflow_policy::overrun_oldest);
  made->logger->set_pattern("%v");
  made->logger->set_level(spdlog::level::trace);
  backend() = std::move(made);
  set_level(options.level);
}

void shutdown() {
  // The pool's destructor writes what is queued and joins its thread.
  backend() = make_plain_backend();
  set_level(Level::kInfo);
}

void set_level(Level level) { detail::threshold.store(level, std::memory_order_relaxed); }

std::uint64_t dropped() {
  const Backend& from = *backend();
  return from.pool == nullptr ? 0 : from.pool->overrun_counter();
}

bool Limit::pass(std::uint64_t now_s, std::uint64_t& suppressed) {
  std::uint64_t second = second_.load(std::memory_order_relaxed);
  if (second != now_s &&
      second_.compare_exchange_strong(second, now_s, std::memory_order_relaxed)) {
    count_.store(0, std::memory_order_relaxed);
  }
  if (count_.fetch_add(1, std::memory_order_relaxed) >= per_second_) {
    suppressed_.fetch_add(1, std::memory_order_relaxed);
    return false;
  }
  suppressed = suppressed_.exchange(0, std::memory_order_relaxed);
  return true;
}

namespace detail {

void write(Level level, std::string_view event, Fields fields) {
  write_line(level, event, fields, 0);
}

void write(Limit& limit, Level level, std::string_view event, Fields fields) {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  const auto second = std::chrono::duration_cast<std::chrono::seconds>(now).count();
  std::uint64_t suppressed = 0;
  if (limit.pass(static_cast<std::uint64_t>(second), suppressed)) {
    write_line(level, event, fields, suppressed);
  }
}

}  // namespace detail

std::string json_escape(std::string_view text) {
  Line line;
  append_escaped(line, text);
  return {line.data(), line.size()};
}

}  // namespace cistern::base::log
