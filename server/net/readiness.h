// Which sockets of a loop have become readable or writable: an edge-triggered epoll set of the
// sessions' own, which hangs in Asio's as one descriptor.
//
// Waiting for readability through Asio costs an epoll_ctl for each wait, which for a small request
// is a third system call beside its receive and its send; here a socket is registered once, and
// what is ready comes in one call for all. The loop's thread only.
#pragma once

#include <cstdint>
#include <vector>

#include "server/net/asio_loop.h"
#include "server/net/unique_fd.h"

namespace cistern::net {

class Readiness {
 public:
  struct Events {
    bool readable = false;  // or ended
    bool writable = false;
    bool ended = false;   // the peer sends no more: a short read may stand before the end
    bool broken = false;  // both directions are over
  };
  struct Watcher {
    virtual ~Watcher() = default;
    // Once for each change: what is readable stays so until a read comes back short (or, once it
    // has ended, empty), what is writable until a write does, and neither is said again before.
    // May remove any watcher.
    virtual void on_ready(const Events& events) = 0;
  };
  // Of one watcher, until remove().
  enum class Id : std::uint32_t {};

  // Throws std::system_error.
  explicit Readiness(AsioLoop& loop);
  Readiness(const Readiness&) = delete;
  Readiness& operator=(const Readiness&) = delete;

  // Throws std::system_error when the kernel has no room for one more (fs.epoll.max_user_watches).
  // `socket` stays the caller's, open until remove().
  Id add(int socket, Watcher& watcher);
  // on_ready() is not called any more, also of what was seen already.
  void remove(Id id, int socket);

 private:
  struct Slot {
    Watcher* watcher = nullptr;  // null: free
    std::uint32_t generation = 0;
  };
  void wait();
  void dispatch();

  AsioLoop& loop_;
  asio::posix::stream_descriptor epoll_;
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_;
};

}  // namespace cistern::net
