// Which sockets of a loop have become readable or writable, and whose turn it is to move bulk: an
// edge-triggered epoll set of the sessions' own, which hangs in Asio's as one descriptor, and a
// queue beside it.
//
// Waiting for readability through Asio costs an epoll_ctl for each wait, which for a small request
// is a third system call beside its receive and its send; here a socket is registered once, and
// what is ready comes in one call for all.
//
// Bulk. A turn of a large transfer takes as long as dozens of small requests. Were those turns
// posted to the loop, all that are due would run in a row before anybody looks at the sockets
// again, and a small request would wait for as many of them as there are streams. So whoever has
// more to move than a small request takes asks for a turn in this queue, and after each single
// turn the sockets are looked at: a small request waits for one bulk turn, however many transfers
// there are, and a transfer waits for one batch of sockets before each turn that is given.
// Every few bulk turns Asio has its turn, for timers, posted tasks and the sockets of others.
//
// The loop's thread only.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
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
    // The turn that later() asked for, once. To be bounded by the watcher itself. May ask for the
    // next, which comes after those of all others that wait; may remove any watcher.
    virtual void on_bulk_turn() {}
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
  // Neither on_ready() nor on_bulk_turn() is called any more, also of what was seen or asked for
  // already.
  void remove(Id id, int socket);
  // Asks for one bulk turn, never within this call; asking again before it comes changes nothing.
  void later(Id id);

 private:
  struct Slot {
    Watcher* watcher = nullptr;  // null: free
    std::uint32_t generation = 0;
    bool in_queue = false;  // of bulk turns, with this generation
  };
  // Of a slot and its generation, as an event carries it.
  static constexpr std::uint64_t tag(std::uint32_t index, std::uint32_t generation) {
    return std::uint64_t{generation} << 32 | index;
  }
  // Null when it was removed, and its place may be another's.
  Slot* find(std::uint64_t tag);
  void prefetch(std::uint64_t tag) const;
  void wait();
  void go_on();
  void dispatch();
  void run_ready();
  void run_bulk_turn();

  AsioLoop& loop_;
  asio::posix::stream_descriptor epoll_;
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_;
  std::deque<std::uint64_t> bulk_;  // tags
  // One of these calls dispatch() again, or it's running: nothing is ever left without.
  bool waiting_ = false;
  bool posted_ = false;
  // Of what was posted and may run when this has gone.
  const std::shared_ptr<const bool> alive_ = std::make_shared<const bool>(true);
  bool dispatching_ = false;
};

}  // namespace cistern::net
