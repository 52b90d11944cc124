#include "tests/bench/load/socket.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

namespace cistern::bench {
namespace {

constexpr int kConnectMs = 5000;

[[noreturn]] void refuse(const proto::Endpoint& endpoint, const std::string& why) {
  throw std::runtime_error("cannot connect to " + proto::to_string(endpoint) + ": " + why +
                           "; is the server running there?");
}

// Where the name resolves to; looked up at every connection, which costs nothing for an address.
std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> resolve(const proto::Endpoint& endpoint) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const std::string port = std::to_string(endpoint.port);
  const int error = getaddrinfo(endpoint.host.c_str(), port.c_str(), &hints, &found);
  if (error != 0) refuse(endpoint, gai_strerror(error));
  return {found, &freeaddrinfo};
}

// A unix socket whose queue is full says so at once, unless it blocks; so this one blocks until it
// is connected.
Fd connect_unix(const proto::Endpoint& endpoint) {
  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.is_open()) refuse(endpoint, std::strerror(errno));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (endpoint.path.size() > proto::kMaxUnixPathBytes) refuse(endpoint, "the path is too long");
  std::memcpy(address.sun_path, endpoint.path.data(), endpoint.path.size());
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    refuse(endpoint, std::strerror(errno));
  }
  fcntl(fd.get(), F_SETFL, fcntl(fd.get(), F_GETFL) | O_NONBLOCK);
  return fd;
}

void wait_until_connected(const proto::Endpoint& endpoint, const Fd& fd) {
  pollfd poll_fd{fd.get(), POLLOUT, 0};
  if (poll(&poll_fd, 1, kConnectMs) != 1) refuse(endpoint, "no answer within 5 s");
  int error = 0;
  socklen_t length = sizeof error;
  getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &length);
  if (error != 0) refuse(endpoint, std::strerror(error));
}

}  // namespace

Fd::~Fd() {
  if (fd_ >= 0) close(fd_);
}

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) close(fd_);
    fd_ = other.release();
  }
  return *this;
}

int Fd::release() { return std::exchange(fd_, -1); }

Fd connect_to(const proto::Endpoint& endpoint, bool waits) {
  if (endpoint.kind == proto::Endpoint::Kind::kUnix) return connect_unix(endpoint);
  const auto addresses = resolve(endpoint);
  Fd fd(socket(addresses->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.is_open()) refuse(endpoint, std::strerror(errno));
  const int on = 1;
  setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (connect(fd.get(), addresses->ai_addr, addresses->ai_addrlen) != 0) {
    if (errno != EINPROGRESS) refuse(endpoint, std::strerror(errno));
    if (waits) wait_until_connected(endpoint, fd);
  }
  return fd;
}

}  // namespace cistern::bench
