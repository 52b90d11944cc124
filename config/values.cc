#include "config/values.h"

#include <algorithm>
#include <array>
#include <limits>
#include <type_traits>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "config/units.h"

namespace cistern::config {
namespace {

constexpr std::array<std::string_view, 3> kL2Kinds = {"none", "redis", "memcached"};
constexpr std::array<std::string_view, 3> kCompressions = {"auto", "zstd", "none"};
constexpr std::array<std::string_view, 5> kLogLevels = {"trace", "debug", "info", "warn", "error"};
constexpr std::array<std::string_view, 2> kOnGetFailures = {"error", "miss"};
constexpr std::array<std::string_view, 2> kOnPutFailures = {"error", "l1_only"};
constexpr std::array<std::string_view, 2> kLogFormats = {"json", "text"};
constexpr std::string_view kAuto = "auto";
constexpr std::string_view kNone = "none";

// How a C++ type is written. Each format has:
//   expectation(bounds)       what is expected
//   parse(text, bounds)       the value, or what was expected
//   write(value)              the text
template <typename T>
using Parsed = tl::expected<T, std::string>;

template <typename T>
struct Format;

bool within(std::uint64_t amount, const Bounds& bounds) {
  return amount >= bounds.min && amount <= bounds.max && amount % bounds.multiple == 0;
}

template <>
struct Format<std::uint64_t> {
  static std::string expectation(const Bounds& bounds) {
    std::string text =
        fmt::format("a size from {} to {}", format_size(bounds.min), format_size(bounds.max));
    if (bounds.multiple > 1)
      text += fmt::format(", a multiple of {}", format_size(bounds.multiple));
    return text;
  }
  static Parsed<std::uint64_t> parse(std::string_view text, const Bounds& bounds) {
    const auto bytes = parse_size(text);
    if (!bytes) {
      return tl::unexpected(
          fmt::format("{}, as a whole number with a unit ({})", expectation(bounds), kSizeUnits));
    }
    if (!within(*bytes, bounds)) return tl::unexpected(expectation(bounds));
    return *bytes;
  }
  static std::string write(std::uint64_t bytes) { return format_size(bytes); }
};

template <>
struct Format<unsigned> {
  static std::string expectation(const Bounds& bounds) {
    return fmt::format("a whole number from {} to {}", bounds.min, bounds.max);
  }
  static Parsed<unsigned> parse(std::string_view text, const Bounds& bounds) {
    const auto count = parse_count(text);
    if (!count || !within(*count, bounds) || *count > std::numeric_limits<unsigned>::max()) {
      return tl::unexpected(expectation(bounds));
    }
    return static_cast<unsigned>(*count);
  }
  static std::string write(unsigned count) { return fmt::to_string(count); }
};

template <>
struct Format<Share> {
  static std::string expectation(const Bounds& bounds) {
    return fmt::format("a share from {} to {}, such as 0.1 or 10%", format_share(bounds.min),
                       format_share(bounds.max));
  }
  static Parsed<Share> parse(std::string_view text, const Bounds& bounds) {
    const auto per_mille = parse_share(text);
    if (!per_mille || !within(*per_mille, bounds)) return tl::unexpected(expectation(bounds));
    return Share{static_cast<unsigned>(*per_mille)};
  }
  static std::string write(Share share) { return format_share(share.per_mille); }
};

template <>
struct Format<milliseconds> {
  static std::string expectation(const Bounds& bounds) {
    return fmt::format("a duration from {} to {}", write(as_duration(bounds.min)),
                       write(as_duration(bounds.max)));
  }
  static Parsed<milliseconds> parse(std::string_view text, const Bounds& bounds) {
    const auto duration = parse_duration(text);
    if (!duration) {
      return tl::unexpected(fmt::format("{}, as a whole number with a unit ({})",
                                        expectation(bounds), kDurationUnits));
    }
    if (!within(static_cast<std::uint64_t>(duration->count()), bounds)) {
      return tl::unexpected(expectation(bounds));
    }
    return *duration;
  }
  static std::string write(milliseconds duration) { return format_duration(duration); }

 private:
  static milliseconds as_duration(std::uint64_t ms) {
    return milliseconds(static_cast<milliseconds::rep>(ms));
  }
};

// A size or a number that may be auto.
template <typename T>
requires std::is_unsigned_v<T>
struct Format<std::optional<T>> {
  static std::string expectation(const Bounds& bounds) {
    return fmt::format("{} or {}", kAuto, Format<T>::expectation(bounds));
  }
  static Parsed<std::optional<T>> parse(std::string_view text, const Bounds& bounds) {
    if (text == kAuto) return std::optional<T>();
    auto value = Format<T>::parse(text, bounds);
    if (!value) return tl::unexpected(fmt::format("{} or {}", kAuto, value.error()));
    return std::optional<T>(*value);
  }
  static std::string write(const std::optional<T>& value) {
    return value ? Format<T>::write(*value) : std::string(kAuto);
  }
};

template <>
struct Format<std::optional<Endpoint>> {
  static std::string expectation(const Bounds&) { return "HOST:PORT, [IPV6]:PORT or none"; }
  static Parsed<std::optional<Endpoint>> parse(std::string_view text, const Bounds& bounds) {
    if (text == kNone) return std::optional<Endpoint>();
    auto endpoint = proto::parse_endpoint(text);
    if (!endpoint) {
      return tl::unexpected(fmt::format("{} ({})", expectation(bounds), endpoint.error().message));
    }
    if (endpoint->kind != Endpoint::Kind::kTcp) {
      return tl::unexpected(fmt::format("{} (HTTP is served over TCP only)", expectation(bounds)));
    }
    return std::optional<Endpoint>(*std::move(endpoint));
  }
  static std::string write(const std::optional<Endpoint>& endpoint) {
    return endpoint ? proto::host_and_port(*endpoint) : std::string(kNone);
  }
};

template <>
struct Format<Endpoint> {
  static Parsed<Endpoint> parse(std::string_view text, const Bounds&) {
    auto endpoint = proto::parse_endpoint(text);
    if (!endpoint) {
      return tl::unexpected(fmt::format("tcp://HOST:PORT, tcp://[IPV6]:PORT or unix:///PATH ({})",
                                        endpoint.error().message));
    }
    return *std::move(endpoint);
  }
  static std::string write(const Endpoint& endpoint) { return proto::to_string(endpoint); }
};

template <>
struct Format<HostPort> {
  static Parsed<HostPort> parse(std::string_view text, const Bounds&) {
    auto endpoint = proto::parse_endpoint(text);
    const bool is_tcp = endpoint && endpoint->kind == Endpoint::Kind::kTcp;
    if (!is_tcp || endpoint->port == 0) {
      return tl::unexpected(
          fmt::format("HOST:PORT or [IPV6]:PORT ({})", !endpoint ? endpoint.error().message
                                                       : is_tcp  ? "port 0 cannot be connected to"
                                                                 : "only TCP is possible"));
    }
    return HostPort{std::move(endpoint->host), endpoint->port};
  }
  static std::string write(const HostPort& address) {
    return proto::host_and_port(Endpoint::tcp(address.host, address.port));
  }
};

template <>
struct Format<RedisUrl> {
  static std::string expectation(const Bounds&) {
    return "redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE] or "
           "unix://[[USER]:PASSWORD@]/PATH[?db=DATABASE]";
  }
  static Parsed<RedisUrl> parse(std::string_view text, const Bounds& bounds) {
    auto url = parse_redis_url(text);
    if (!url) {
      return tl::unexpected(fmt::format("{} ({})", expectation(bounds), url.error().message));
    }
    return *std::move(url);
  }
  static std::string write(const RedisUrl& url) { return masked(url); }
};

template <>
struct Format<std::string> {
  static std::string expectation(const Bounds& bounds) {
    return fmt::format("text of {} to {} bytes without control characters", bounds.min, bounds.max);
  }
  static Parsed<std::string> parse(std::string_view text, const Bounds& bounds) {
    const bool is_printable = std::ranges::none_of(
        text, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
    if (!within(text.size(), bounds) || !is_printable) return tl::unexpected(expectation(bounds));
    return std::string(text);
  }
  static std::string write(const std::string& text) { return text; }
};

// The enumerators count from 0 in the order of the names.
template <typename T, const auto& kNames>
struct Choice {
  static std::string expectation(const Bounds&) {
    return fmt::format("one of {}", fmt::join(kNames, ", "));
  }
  static Parsed<T> parse(std::string_view text, const Bounds& bounds) {
    const auto found = std::ranges::find(kNames, text);
    if (found == kNames.end()) return tl::unexpected(expectation(bounds));
    return static_cast<T>(found - kNames.begin());
  }
  static std::string write(T choice) { return std::string(name(choice)); }
};
template <>
struct Format<L2Kind> : Choice<L2Kind, kL2Kinds> {};
template <>
struct Format<Compression> : Choice<Compression, kCompressions> {};
template <>
struct Format<OnGetFailure> : Choice<OnGetFailure, kOnGetFailures> {};
template <>
struct Format<OnPutFailure> : Choice<OnPutFailure, kOnPutFailures> {};
template <>
struct Format<LogLevel> : Choice<LogLevel, kLogLevels> {};
template <>
struct Format<LogFormat> : Choice<LogFormat, kLogFormats> {};

template <typename T>
std::optional<std::string> assign_to(T& to, const std::vector<std::string>& items,
                                     const Bounds& bounds) {
  auto value = Format<T>::parse(items.front(), bounds);
  if (!value) return value.error();
  to = *std::move(value);
  return std::nullopt;
}

template <typename T>
std::optional<std::string> assign_to(std::vector<T>& to, const std::vector<std::string>& items,
                                     const Bounds& bounds) {
  std::vector<T> values;
  for (const std::string& item : items) {
    auto value = Format<T>::parse(item, bounds);
    if (!value) return value.error();
    values.push_back(*std::move(value));
  }
  if (values.empty()) return std::is_same_v<T, Endpoint> ? "at least one endpoint" : "at least one";
  to = std::move(values);
  return std::nullopt;
}

template <typename T>
std::vector<std::string> written_from(const T& value) {
  return {Format<T>::write(value)};
}

template <typename T>
std::vector<std::string> written_from(const std::vector<T>& values) {
  std::vector<std::string> items;
  for (const T& value : values) items.push_back(Format<T>::write(value));
  return items;
}

template <typename T>
struct ListOf : std::false_type {};
template <typename T>
struct ListOf<std::vector<T>> : std::true_type {};

// Of a setting's value.
template <typename MemberOfT>
using TypeOf =
    std::remove_reference_t<decltype(std::declval<MemberOfT>()(std::declval<Config&>()))>;

}  // namespace

std::string_view name(OnGetFailure choice) {
  return kOnGetFailures.at(static_cast<std::size_t>(choice));
}
std::string_view name(OnPutFailure choice) {
  return kOnPutFailures.at(static_cast<std::size_t>(choice));
}
std::string_view name(L2Kind kind) { return kL2Kinds.at(static_cast<std::size_t>(kind)); }
std::string_view name(Compression algorithm) {
  return kCompressions.at(static_cast<std::size_t>(algorithm));
}
std::string_view name(LogLevel level) { return kLogLevels.at(static_cast<std::size_t>(level)); }
std::string_view name(LogFormat format) { return kLogFormats.at(static_cast<std::size_t>(format)); }

bool takes_list(const Setting& setting) {
  return std::visit([](const auto member) { return ListOf<TypeOf<decltype(member)>>::value; },
                    setting.field);
}

std::string expectation(const Setting& setting) {
  return std::visit(
      [&](const auto member) -> std::string {
        using T = TypeOf<decltype(member)>;
        if constexpr (std::is_same_v<T, std::vector<Endpoint>>) {
          return "a list of endpoints, each tcp://HOST:PORT, tcp://[IPV6]:PORT or unix:///PATH";
        } else if constexpr (std::is_same_v<T, std::vector<HostPort>>) {
          return "a list of HOST:PORT or [IPV6]:PORT";
        } else if constexpr (std::is_same_v<T, std::vector<unsigned>>) {
          return fmt::format("a list, each {}", Format<unsigned>::expectation(setting.bounds));
        } else {
          return Format<T>::expectation(setting.bounds);
        }
      },
      setting.field);
}

std::optional<std::string> assign(const Setting& setting, const std::vector<std::string>& items,
                                  Config& config) {
  return std::visit(
      [&](const auto member) { return assign_to(member(config), items, setting.bounds); },
      setting.field);
}

std::vector<std::string> written(const Setting& setting, const Config& config) {
  Config readable = config;  // a Member takes one that can be changed
  return std::visit([&](const auto member) { return written_from(member(readable)); },
                    setting.field);
}

std::string in_quotes(std::string_view text) {
  constexpr std::size_t kMostBytes = 80;
  std::string result = "\"";
  for (const char c : text.substr(0, kMostBytes)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      result += fmt::format("\\x{:02x}", static_cast<unsigned>(byte));
    } else {
      result += c;
    }
  }
  return result + (text.size() > kMostBytes ? "…\"" : "\"");
}

std::string shown(const Setting& setting, std::string_view found) {
  return in_quotes(setting.secret ? masked_redis_text(found) : std::string(found));
}

}  // namespace cistern::config
