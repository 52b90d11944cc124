// Where a daemon listens or is found, as people write it: `tcp://127.0.0.1:7400`,
// `tcp://[::1]:7400`, `unix:///run/cistern/cistern.sock`. Text only: no name is resolved and no
// socket is touched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "proto/status.h"

namespace cistern::proto {

// What sockaddr_un holds on Linux, without the closing NUL.
inline constexpr std::size_t kMaxUnixPathBytes = 107;
inline constexpr std::size_t kMaxHostBytes = 253;  // of a DNS name

struct Endpoint {
  enum class Kind : std::uint8_t { kTcp, kUnix };

  Kind kind = Kind::kTcp;
  std::string host;        // kTcp: a name or an address; an IPv6 address stands without brackets
  std::uint16_t port = 0;  // kTcp: 0 lets the kernel choose, for listeners only
  std::string path;        // kUnix: absolute

  // No checks: for what is known to be well formed.
  static Endpoint tcp(std::string host, std::uint16_t port);
  static Endpoint unix_socket(std::string path);

  bool operator==(const Endpoint&) const = default;
};

// `tcp://HOST:PORT`, the same without `tcp://`, or `unix:///PATH`. HOST is a name, an IPv4 address,
// or an IPv6 address in brackets, with a zone if need be. kUsage for anything else; the message
// says what is wrong with which part, without repeating the text.
Result<Endpoint> parse_endpoint(std::string_view text);

// The form that parse_endpoint() takes, with its scheme.
std::string to_string(const Endpoint& endpoint);
// `HOST:PORT` of a kTcp endpoint, IPv6 addresses in brackets.
std::string host_and_port(const Endpoint& endpoint);

// Whether listening on both at once fails: the same socket path, or the same port other than 0 on
// the same host or where one of the hosts stands for all addresses.
bool collide(const Endpoint& a, const Endpoint& b);

}  // namespace cistern::proto
