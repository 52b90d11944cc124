// Listening sockets: bound one by one before anything is served, then accepted from on one loop.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <asio.hpp>

#include "proto/endpoint.h"
#include "server/base/types.h"
#include "server/net/asio_loop.h"
#include "server/net/unique_fd.h"

namespace cistern::net {

// A socket that is bound and doesn't listen yet. Its file, if it has one, goes with it, unless
// somebody has put another in its place.
class BoundSocket {
 public:
  BoundSocket(UniqueFd socket, proto::Endpoint endpoint);
  BoundSocket(BoundSocket&&) noexcept = default;
  BoundSocket& operator=(BoundSocket&&) = delete;
  ~BoundSocket();

  int fd() const { return socket_.get(); }
  // With the port that the kernel chose, where 0 was asked for.
  const proto::Endpoint& endpoint() const { return endpoint_; }
  bool is_tcp() const { return endpoint_.kind == proto::Endpoint::Kind::kTcp; }

 private:
  UniqueFd socket_;
  proto::Endpoint endpoint_;
  std::uint64_t device_ = 0, inode_ = 0;  // of the file at endpoint_.path
};

// All addresses of `endpoint`: a name may have more than one. SO_REUSEADDR, so that a restart
// doesn't wait for old connections; no SO_REUSEPORT, so that a second daemon fails instead of
// taking half of the connections. A unix socket that nobody answers on is removed; one on which
// somebody does is an error. The message names endpoint and reason.
base::Result<std::vector<BoundSocket>> bind_endpoint(const proto::Endpoint& endpoint);

// Accepts from one socket. The loop's thread only.
class Listener {
 public:
  using OnAccepted = std::function<void(UniqueFd socket, bool is_tcp)>;

  // Clients that the kernel may let wait for accept(); somaxconn bounds it, too.
  static constexpr int kBacklog = 1024;

  // Any thread, before the loop runs.
  Listener(AsioLoop& loop, BoundSocket socket, OnAccepted on_accepted);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  // From now on clients can connect; throws std::system_error where the kernel refuses.
  void listen();
  // On the loop.
  void start();
  // Closes the socket and removes its file.
  void stop();
  const proto::Endpoint& endpoint() const { return endpoint_; }

 private:
  void wait();
  void accept_some();
  void pause(int error);

  AsioLoop& loop_;
  std::unique_ptr<BoundSocket> socket_;
  const proto::Endpoint endpoint_;
  OnAccepted on_accepted_;
  asio::posix::stream_descriptor readable_;  // watches socket_, which owns the descriptor
  base::Loop::TimerId resume_ = base::Loop::TimerId::kNone;
};

}  // namespace cistern::net
