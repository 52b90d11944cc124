// Closes sockets so that the peer can read what was sent last.
//
// A socket that is closed while bytes of the peer lie unread is reset by the kernel, and the reset
// can overtake the error that was meant for the peer. So the sending side is shut, what still
// arrives is dropped, and the socket is closed once the peer has closed its side, or soon anyway.
#pragma once

#include <list>
#include <memory>

#include <asio.hpp>

#include "server/net/asio_loop.h"
#include "server/net/unique_fd.h"

namespace cistern::net {

class Lingering {
 public:
  // How long a peer has to take notice, and how many may do so at a time; past that they are reset.
  static constexpr std::chrono::milliseconds kPatience{500};
  static constexpr std::size_t kMaxSockets = 64;

  // The loop's thread only.
  explicit Lingering(AsioLoop& loop) : loop_(loop) {}
  ~Lingering();
  void close(UniqueFd socket);
  // Closes all at once.
  void close_all();

 private:
  struct Socket;
  void wait(const std::shared_ptr<Socket>& socket);
  void on_readable(const std::shared_ptr<Socket>& socket);
  void drop(const std::shared_ptr<Socket>& socket);

  AsioLoop& loop_;
  std::list<std::shared_ptr<Socket>> sockets_;
};

}  // namespace cistern::net
