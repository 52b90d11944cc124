// Making bound sockets: the part of listener.h that is over before anything runs.
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include <fmt/format.h>

#include "server/net/listener.h"
#include "server/net/socket_buffers.h"

namespace cistern::net {
namespace {

using base::Result;
using proto::Endpoint;
using proto::Status;

// Owner and group may connect: the application runs as one of them.
constexpr mode_t kSocketFileMode = 0660;

tl::unexpected<base::Error> failed(const Endpoint& endpoint, std::string_view why) {
  return base::fail(Status::kLocalIo, fmt::format("cannot listen on {} (server.listen): {}",
                                                  to_string(endpoint), why));
}

std::string reason(int error) { return std::strerror(error); }

std::string explain_tcp(int error) {
  if (error == EADDRINUSE) return "another process listens there";
  if (error == EACCES) return "ports below 1024 need the capability CAP_NET_BIND_SERVICE";
  return reason(error);
}

struct FreeAddresses {
  void operator()(addrinfo* list) const { ::freeaddrinfo(list); }
};

std::uint16_t port_of(const sockaddr_storage& address) {
  return address.ss_family == AF_INET6
             ? ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port)
             : ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

void set_port(sockaddr_storage& address, std::uint16_t port) {
  if (address.ss_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6&>(address).sin6_port = htons(port);
  } else {
    reinterpret_cast<sockaddr_in&>(address).sin_port = htons(port);
  }
}

// Errno on failure.
tl::expected<UniqueFd, int> bind_address(const sockaddr_storage& address, socklen_t length,
                                         bool v6_only) {
  UniqueFd socket(::socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket) return tl::unexpected(errno);
  const int on = 1;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (address.ss_family == AF_INET6) {
    const int only = v6_only ? 1 : 0;
    ::setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only);
  }
  set_listener_buffers(socket.get());
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    return tl::unexpected(errno);
  }
  return socket;
}

Result<std::vector<BoundSocket>> bind_tcp(const Endpoint& endpoint) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* list = nullptr;
  const std::string port = std::to_string(endpoint.port);
  const int resolved = ::getaddrinfo(endpoint.host.c_str(), port.c_str(), &hints, &list);
  const std::unique_ptr<addrinfo, FreeAddresses> addresses(list);
  if (resolved != 0) return failed(endpoint, ::gai_strerror(resolved));

  std::vector<BoundSocket> bound;
  std::uint16_t chosen = endpoint.port;
  int refused = 0;
  for (const addrinfo* at = list; at != nullptr; at = at->ai_next) {
    sockaddr_storage address{};
    std::memcpy(&address, at->ai_addr, at->ai_addrlen);
    set_port(address, chosen);
    auto socket = bind_address(address, at->ai_addrlen, endpoint.host != "::");
    if (!socket) {
      // A name's address of a family that this machine doesn't have is no reason to fail.
      refused = socket.error();
      if (refused == EADDRNOTAVAIL || refused == EAFNOSUPPORT) continue;
      return failed(endpoint, explain_tcp(refused));
    }
    sockaddr_storage actual{};
    socklen_t length = sizeof actual;
    ::getsockname(socket->get(), reinterpret_cast<sockaddr*>(&actual), &length);
    chosen = port_of(actual);
    bound.emplace_back(std::move(*socket), Endpoint::tcp(endpoint.host, chosen));
  }
  if (bound.empty()) return failed(endpoint, explain_tcp(refused));
  return bound;
}

sockaddr_un unix_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), std::min(path.size(), sizeof address.sun_path - 1));
  return address;
}

// Removes what a daemon that was killed has left. Empty: the path is free now.
std::optional<std::string> clear_path(const std::string& path) {
  struct stat file {};
  if (::lstat(path.c_str(), &file) != 0) {
    return errno == ENOENT ? std::nullopt : std::optional(reason(errno));
  }
  if (!S_ISSOCK(file.st_mode)) return "a file that is not a socket is in its place; remove it";
  const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!probe) return reason(errno);
  const sockaddr_un address = unix_address(path);
  const int connected =
      ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  // EAGAIN: its backlog is full.
  if (connected == 0 || errno == EAGAIN) return "another process listens there";
  if (errno != ECONNREFUSED && errno != ENOENT) return reason(errno);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return "a stale socket is in its place and cannot be removed: " + reason(errno);
  }
  return std::nullopt;
}

Result<std::vector<BoundSocket>> bind_unix(const Endpoint& endpoint) {
  if (const auto in_the_way = clear_path(endpoint.path)) return failed(endpoint, *in_the_way);
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket) return failed(endpoint, reason(errno));
  const sockaddr_un address = unix_address(endpoint.path);
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    if (errno == ENOENT) return failed(endpoint, "its directory does not exist; create it");
    return failed(endpoint, reason(errno));
  }
  std::vector<BoundSocket> bound;
  bound.emplace_back(std::move(socket), endpoint);
  // Nobody can connect before listen().
  if (::chmod(endpoint.path.c_str(), kSocketFileMode) != 0) {
    return failed(endpoint, "its mode cannot be set: " + reason(errno));
  }
  return bound;
}

}  // namespace

BoundSocket::BoundSocket(UniqueFd socket, proto::Endpoint endpoint)
    : socket_(std::move(socket)), endpoint_(std::move(endpoint)) {
  struct stat file {};
  if (!is_tcp() && ::stat(endpoint_.path.c_str(), &file) == 0) {
    device_ = file.st_dev;
    inode_ = file.st_ino;
  }
}

BoundSocket::~BoundSocket() {
  if (!socket_ || is_tcp()) return;
  struct stat file {};
  if (::stat(endpoint_.path.c_str(), &file) != 0) return;
  if (file.st_dev == device_ && file.st_ino == inode_) ::unlink(endpoint_.path.c_str());
}

Result<std::vector<BoundSocket>> bind_endpoint(const Endpoint& endpoint) {
  return endpoint.kind == Endpoint::Kind::kTcp ? bind_tcp(endpoint) : bind_unix(endpoint);
}

}  // namespace cistern::net
