#include "server/l2/redis_url.h"

#include <charconv>

#include <fmt/format.h>

namespace cistern::l2 {
namespace {

constexpr std::size_t kMaxUnixPathBytes = 107;  // sun_path, less the final NUL

tl::unexpected<base::Error> bad(std::string_view what) {
  return base::fail(base::Status::kBadRequest,
                    fmt::format("l2.redis.url: {}; expected redis://[user:password@]host[:port]"
                                "[/db] or unix://[user:password@]/path[?db=n]",
                                what));
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

base::Result<std::string> percent_decode(std::string_view text, std::string_view part) {
  std::string decoded;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded += text[i];
      continue;
    }
    const int high = i + 2 < text.size() ? hex_digit(text[i + 1]) : -1;
    const int low = i + 2 < text.size() ? hex_digit(text[i + 2]) : -1;
    if (high < 0 || low < 0) {
      return bad(fmt::format("a % in the {} is not followed by two hex digits", part));
    }
    decoded += static_cast<char>(high * 16 + low);
    i += 2;
  }
  if (decoded.find('\0') != std::string::npos) {
    return bad(fmt::format("the {} contains a zero byte", part));
  }
  return decoded;
}

template <typename Int>
bool parse_number(std::string_view text, Int& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

base::Result<void> parse_login(std::string_view text, RedisUrl& url) {
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) return bad("the login has no ':' before its password");
  auto user = percent_decode(text.substr(0, colon), "user");
  if (!user) return tl::unexpected(user.error());
  auto password = percent_decode(text.substr(colon + 1), "password");
  if (!password) return tl::unexpected(password.error());
  if (password->empty()) return bad("the login has an empty password");
  url.user = std::move(*user);
  url.password = std::move(*password);
  return {};
}

base::Result<void> parse_host(std::string_view text, RedisUrl& url) {
  std::string_view port;
  if (text.starts_with('[')) {
    const std::size_t close = text.find(']');
    if (close == std::string_view::npos) return bad("the IPv6 address lacks its ']'");
    url.host = text.substr(1, close - 1);
    port = text.substr(close + 1);
    if (!port.empty() && !port.starts_with(':')) return bad("there is more after the ']'");
  } else {
    const std::size_t colon = text.find(':');
    url.host = text.substr(0, colon);
    if (colon != std::string_view::npos) port = text.substr(colon);
  }
  if (url.host.empty()) return bad("the host is missing");
  if (url.host.find_first_of(" \t\r\n") != std::string::npos) return bad("the host has a space");
  if (!port.empty() && (!parse_number(port.substr(1), url.port) || url.port == 0)) {
    return bad("the port is not a number from 1 to 65535");
  }
  return {};
}

base::Result<void> parse_db(std::string_view text, RedisUrl& url) {
  if (!parse_number(text, url.db)) return bad("the database is not a number");
  return {};
}

base::Result<void> parse_tcp(std::string_view rest, RedisUrl& url) {
  const std::size_t slash = rest.find('/');
  const std::string_view db = slash == std::string_view::npos ? "" : rest.substr(slash + 1);
  if (auto host = parse_host(rest.substr(0, slash), url); !host) return host;
  if (!db.empty()) return parse_db(db, url);
  return {};
}

base::Result<void> parse_unix(std::string_view rest, RedisUrl& url) {
  const std::size_t query = rest.find('?');
  auto path = percent_decode(rest.substr(0, query), "path");
  if (!path) return tl::unexpected(path.error());
  if (!path->starts_with('/')) return bad("the path of a unix socket begins with '/'");
  if (path->size() > kMaxUnixPathBytes) return bad("the path of a unix socket has over 107 bytes");
  url.unix_path = std::move(*path);
  if (query == std::string_view::npos) return {};
  constexpr std::string_view kDb = "db=";
  const std::string_view option = rest.substr(query + 1);
  if (!option.starts_with(kDb)) return bad("the only option is db");
  return parse_db(option.substr(kDb.size()), url);
}

}  // namespace

base::Result<RedisUrl> parse_redis_url(std::string_view text) {
  const std::size_t scheme_end = text.find("://");
  if (scheme_end == std::string_view::npos) return bad("there is no scheme");
  const std::string_view scheme = text.substr(0, scheme_end);
  std::string_view rest = text.substr(scheme_end + 3);
  if (scheme == "rediss") {
    return base::fail(base::Status::kBadRequest,
                      "l2.redis.url: rediss:// (TLS) is not supported by this build, whose hiredis "
                      "has no TLS; use redis:// through a TLS tunnel such as stunnel");
  }
  if (scheme != "redis" && scheme != "unix") return bad("the scheme is neither redis nor unix");
  RedisUrl url;
  const std::size_t at = rest.rfind('@');
  if (at != std::string_view::npos) {
    if (auto login = parse_login(rest.substr(0, at), url); !login) {
      return tl::unexpected(login.error());
    }
    rest.remove_prefix(at + 1);
  }
  const auto parsed = scheme == "unix" ? parse_unix(rest, url) : parse_tcp(rest, url);
  if (!parsed) return tl::unexpected(parsed.error());
  return url;
}

std::string display(const RedisUrl& url) {
  if (url.is_unix()) return fmt::format("unix://{}?db={}", url.unix_path, url.db);
  const bool is_v6 = url.host.find(':') != std::string::npos;
  return fmt::format("tcp://{}{}{}:{}/{}", is_v6 ? "[" : "", url.host, is_v6 ? "]" : "", url.port,
                     url.db);
}

}  // namespace cistern::l2
