// Stream sockets to a server, as the load generator uses them.
#pragma once

#include "proto/endpoint.h"

namespace cistern::bench {

// A descriptor that is closed with its owner.
class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  ~Fd();
  Fd(Fd&& other) noexcept : fd_(other.release()) {}
  Fd& operator=(Fd&& other) noexcept;

  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }
  int release();

 private:
  int fd_;
};

// A connected, non-blocking socket without Nagle's delay. Throws std::runtime_error that names the
// endpoint and the cause. The host is an address or a name.
//
// Without `waits` a TCP connection may still be under way: what is written then goes once it's
// made.
Fd connect_to(const proto::Endpoint& endpoint, bool waits);

}  // namespace cistern::bench
