#include "proto/endpoint.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include <fmt/format.h>

namespace cistern::proto {
namespace {

constexpr std::string_view kTcpScheme = "tcp://";
constexpr std::string_view kUnixScheme = "unix://";
constexpr std::string_view kForms =
    "an endpoint is tcp://HOST:PORT, tcp://[IPV6]:PORT or unix:///PATH";

bool is_alnum(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool is_name_char(char c) { return is_alnum(c) || c == '-' || c == '.' || c == '_'; }

tl::unexpected<Error> bad(std::string what) { return fail(Status::kUsage, std::move(what)); }

Result<std::uint16_t> parse_port(std::string_view text) {
  std::uint16_t port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) {
    return bad("the port must be a number from 0 to 65535");
  }
  return port;
}

Result<Endpoint> parse_ipv6(std::string_view text) {
  const std::size_t close = text.find(']');
  if (close == text.npos) return bad("the bracket before the IPv6 address is never closed");
  const std::string host(text.substr(1, close - 1));
  if (close + 1 >= text.size() || text[close + 1] != ':') {
    return bad("a colon and a port must follow the bracket");
  }
  const std::size_t percent = host.find('%');
  const std::string address = host.substr(0, percent);
  const bool zone_is_good =
      percent == host.npos ||
      (percent + 1 < host.size() &&
       std::all_of(host.begin() + static_cast<long>(percent) + 1, host.end(), is_name_char));
  in6_addr parsed;
  if (!zone_is_good || inet_pton(AF_INET6, address.c_str(), &parsed) != 1) {
    return bad("what stands in brackets is not an IPv6 address");
  }
  auto port = parse_port(text.substr(close + 2));
  if (!port) return tl::unexpected(port.error());
  return Endpoint::tcp(host, *port);
}

Result<Endpoint> parse_tcp(std::string_view text) {
  if (!text.empty() && text.front() == '[') return parse_ipv6(text);
  const std::size_t colon = text.rfind(':');
  if (colon == text.npos) return bad(fmt::format("the port is missing; {}", kForms));
  const std::string host(text.substr(0, colon));
  if (host.empty() || host == "*") {
    return bad("the host is missing; for all addresses write 0.0.0.0 or [::]");
  }
  if (host.find(':') != host.npos) return bad("an IPv6 address must stand in brackets: [::1]:7400");
  if (host.size() > kMaxHostBytes) {
    return bad(fmt::format("the host is longer than {} bytes", kMaxHostBytes));
  }
  if (!std::ranges::all_of(host, is_name_char)) {
    return bad("the host has characters other than letters, digits, '-', '_' and '.'");
  }
  const bool looks_like_ipv4 =
      std::ranges::all_of(host, [](char c) { return c == '.' || (c >= '0' && c <= '9'); });
  in_addr parsed;
  if (looks_like_ipv4 && inet_pton(AF_INET, host.c_str(), &parsed) != 1) {
    return bad("the host is not an IPv4 address");
  }
  auto port = parse_port(text.substr(colon + 1));
  if (!port) return tl::unexpected(port.error());
  return Endpoint::tcp(host, *port);
}

Result<Endpoint> parse_unix(std::string_view path) {
  if (path.empty() || path.front() != '/') {
    return bad("a socket's path must be absolute: unix:///run/cistern/cistern.sock");
  }
  if (path.back() == '/') return bad("a socket's path must name a file, not a folder");
  if (path.find('\0') != path.npos) return bad("a socket's path must not have a NUL in it");
  if (path.size() > kMaxUnixPathBytes) {
    return bad(fmt::format("the socket's path has {} bytes, and the kernel takes at most {}",
                           path.size(), kMaxUnixPathBytes));
  }
  return Endpoint::unix_socket(std::string(path));
}

bool stands_for_all(const std::string& host) { return host == "0.0.0.0" || host == "::"; }

}  // namespace

Endpoint Endpoint::tcp(std::string host, std::uint16_t port) {
  Endpoint endpoint;
  endpoint.host = std::move(host);
  endpoint.port = port;
  return endpoint;
}

Endpoint Endpoint::unix_socket(std::string path) {
  Endpoint endpoint;
  endpoint.kind = Kind::kUnix;
  endpoint.path = std::move(path);
  return endpoint;
}

Result<Endpoint> parse_endpoint(std::string_view text) {
  if (text.starts_with(kUnixScheme)) return parse_unix(text.substr(kUnixScheme.size()));
  if (text.starts_with(kTcpScheme)) return parse_tcp(text.substr(kTcpScheme.size()));
  if (text.empty() || text.find("://") != text.npos || text.front() == '/') {
    return bad(std::string(kForms));
  }
  return parse_tcp(text);
}

std::string host_and_port(const Endpoint& endpoint) {
  const bool is_ipv6 = endpoint.host.find(':') != endpoint.host.npos;
  const std::string host = is_ipv6 ? fmt::format("[{}]", endpoint.host) : endpoint.host;
  return fmt::format("{}:{}", host, endpoint.port);
}

std::string to_string(const Endpoint& endpoint) {
  if (endpoint.kind == Endpoint::Kind::kUnix)
    return fmt::format("{}{}", kUnixScheme, endpoint.path);
  return fmt::format("{}{}", kTcpScheme, host_and_port(endpoint));
}

bool collide(const Endpoint& a, const Endpoint& b) {
  if (a.kind != b.kind) return false;
  if (a.kind == Endpoint::Kind::kUnix) return a.path == b.path;
  if (a.port == 0 || a.port != b.port) return false;
  return a.host == b.host || stands_for_all(a.host) || stands_for_all(b.host);
}

}  // namespace cistern::proto
