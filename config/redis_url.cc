#include "config/redis_url.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include <fmt/format.h>

namespace cistern::config {
namespace {

using proto::fail;
using proto::Result;
using proto::Status;

constexpr std::string_view kScheme = "redis://";
constexpr std::string_view kUnixScheme = "unix://";
constexpr std::string_view kDatabaseParameter = "db=";
constexpr std::string_view kMask = "***";

tl::unexpected<proto::Error> bad(std::string what) { return fail(Status::kUsage, std::move(what)); }

bool is_plain(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
         c == '.' || c == '_' || c == '~';
}

Result<std::string> percent_decode(std::string_view text) {
  std::string decoded;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded += text[i];
      continue;
    }
    unsigned code = 0;
    const char* const first = text.data() + i + 1;
    const char* const last = text.data() + std::min(i + 3, text.size());
    const auto [end, error] = std::from_chars(first, last, code, 16);
    if (error != std::errc() || end != first + 2) {
      return bad("a '%' in the user or password must be written %25");
    }
    decoded += static_cast<char>(code);
    i += 2;
  }
  return decoded;
}

std::string percent_encode(std::string_view text) {
  std::string encoded;
  for (const char c : text) {
    if (is_plain(c)) {
      encoded += c;
    } else {
      encoded += fmt::format("%{:02X}", static_cast<unsigned>(static_cast<unsigned char>(c)));
    }
  }
  return encoded;
}

Result<unsigned> parse_database(std::string_view text) {
  unsigned database = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), database);
  if (error != std::errc() || end != text.data() + text.size() || database > kMaxRedisDatabase) {
    return bad(fmt::format("the database must be a number from 0 to {}", kMaxRedisDatabase));
  }
  return database;
}

Result<void> parse_user(std::string_view text, RedisUrl& url) {
  const std::size_t colon = text.find(':');
  if (colon == text.npos) {
    return bad("before the '@' stands USER:PASSWORD, or :PASSWORD without a user");
  }
  auto username = percent_decode(text.substr(0, colon));
  if (!username) return tl::unexpected(username.error());
  auto password = percent_decode(text.substr(colon + 1));
  if (!password) return tl::unexpected(password.error());
  if (password->empty()) return bad("the password is empty");
  url.username = *std::move(username);
  url.password = *std::move(password);
  return {};
}

bool names_a_port(std::string_view authority) {
  const std::size_t bracket = authority.rfind(']');
  return authority.find(':', bracket == authority.npos ? 0 : bracket) != authority.npos;
}

// `rest` is HOST[:PORT][/DATABASE].
Result<void> parse_tcp(std::string_view rest, RedisUrl& url) {
  if (rest.find_first_of("?#") != rest.npos) return bad("the URL takes no '?' or '#' part");
  if (const std::size_t slash = rest.find('/'); slash != rest.npos) {
    if (slash + 1 < rest.size()) {
      auto database = parse_database(rest.substr(slash + 1));
      if (!database) return tl::unexpected(database.error());
      url.database = *database;
    }
    rest = rest.substr(0, slash);
  }
  std::string authority(rest);
  if (authority.empty() || authority.front() == ':') return bad("the host is missing");
  if (!names_a_port(authority)) authority += fmt::format(":{}", kRedisPort);
  auto endpoint = proto::parse_endpoint("tcp://" + authority);
  if (!endpoint) return tl::unexpected(endpoint.error());
  if (endpoint->port == 0) return bad("the port must not be 0");
  url.endpoint = *std::move(endpoint);
  return {};
}

// `rest` is /PATH[?db=DATABASE].
Result<void> parse_unix(std::string_view rest, RedisUrl& url) {
  if (const std::size_t query = rest.find('?'); query != rest.npos) {
    const std::string_view parameter = rest.substr(query + 1);
    if (!parameter.starts_with(kDatabaseParameter))
      return bad("after '?' stands db=DATABASE alone");
    auto database = parse_database(parameter.substr(kDatabaseParameter.size()));
    if (!database) return tl::unexpected(database.error());
    url.database = *database;
    rest = rest.substr(0, query);
  }
  auto endpoint = proto::parse_endpoint(fmt::format("{}{}", kUnixScheme, rest));
  if (!endpoint) return tl::unexpected(endpoint.error());
  url.endpoint = *std::move(endpoint);
  return {};
}

}  // namespace

Result<RedisUrl> parse_redis_url(std::string_view text) {
  if (text.starts_with("rediss://")) return bad("TLS to Redis is not supported");
  const bool is_unix = text.starts_with(kUnixScheme);
  if (!is_unix && !text.starts_with(kScheme)) {
    return bad("the URL must begin with redis:// or unix://");
  }
  std::string_view rest = text.substr((is_unix ? kUnixScheme : kScheme).size());

  RedisUrl url;
  if (const std::size_t at = rest.rfind('@'); at != rest.npos) {
    if (auto user = parse_user(rest.substr(0, at), url); !user) {
      return tl::unexpected(user.error());
    }
    rest = rest.substr(at + 1);
  }
  const auto parsed = is_unix ? parse_unix(rest, url) : parse_tcp(rest, url);
  if (!parsed) return tl::unexpected(parsed.error());
  return url;
}

std::string masked(const RedisUrl& url) {
  std::string user;
  if (!url.password.empty()) user = fmt::format("{}:{}@", percent_encode(url.username), kMask);
  if (url.endpoint.kind == proto::Endpoint::Kind::kUnix) {
    return fmt::format("{}{}{}?{}{}", kUnixScheme, user, url.endpoint.path, kDatabaseParameter,
                       url.database);
  }
  return fmt::format("{}{}{}/{}", kScheme, user, proto::host_and_port(url.endpoint), url.database);
}

std::string masked_redis_text(std::string_view text) {
  const std::size_t scheme_end = text.find("://");
  const std::size_t begin = scheme_end == text.npos ? 0 : scheme_end + 3;
  const std::string scheme(text.substr(0, begin));
  const std::size_t at = text.rfind('@');
  // Without an '@' what looks like HOST:PORT/DATABASE is shown, and nothing else: the '@' may be
  // what was forgotten. After a query mark anything may follow.
  std::string_view shown = text.substr(at == text.npos ? begin : at + 1);
  shown = shown.substr(0, shown.find_first_of("?#"));
  const std::size_t port = shown.find(':');
  const bool query_comes_first = at != text.npos && text.find_first_of("?#") < at;
  const bool looks_harmless = !query_comes_first && std::ranges::all_of(shown, [](char c) {
    return is_plain(c) || c == ':' || c == '/';
  }) && (port == shown.npos || (port > 0 && std::ranges::all_of(shown.substr(port + 1), [](char c) {
                                  return c == '/' || (c >= '0' && c <= '9');
                                })));
  std::string result = scheme;
  if (at != text.npos) result += fmt::format("{}@", kMask);
  result += looks_harmless ? shown : kMask;
  return result;
}

}  // namespace cistern::config
