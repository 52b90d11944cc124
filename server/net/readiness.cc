#include "server/net/readiness.h"

#include <sys/epoll.h>

#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

#include "server/base/check.h"

namespace cistern::net {
namespace {

// Sockets that have their turn before a bulk turn, or posted tasks and timers, have theirs.
constexpr std::size_t kBatch = 64;
// Bulk turns before Asio has its turn: under a millisecond, by which an answer of L2 may be late. A
// round of Asio's takes a few microseconds, little beside four of them.
constexpr int kBulkTurns = 4;
// Of many connections few are in the processor's caches. So many ahead of its turn a watcher is
// fetched; the lines, of an object that may be smaller.
constexpr int kWatchersAhead = 2;
constexpr std::size_t kPrefetchLines = 16;

int make_epoll() {
  const int fd = ::epoll_create1(EPOLL_CLOEXEC);
  if (fd < 0) throw std::system_error(errno, std::generic_category(), "epoll_create1");
  return fd;
}

}  // namespace

Readiness::Readiness(AsioLoop& loop) : loop_(loop), epoll_(loop.context(), make_epoll()) { wait(); }

Readiness::Id Readiness::add(int socket, Watcher& watcher) {
  if (free_.empty()) {
    free_.push_back(static_cast<std::uint32_t>(slots_.size()));
    slots_.emplace_back();
  }
  const std::uint32_t index = free_.back();
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  event.data.u64 = tag(index, slots_[index].generation);
  if (::epoll_ctl(epoll_.native_handle(), EPOLL_CTL_ADD, socket, &event) != 0) {
    throw std::system_error(errno, std::generic_category(), "epoll_ctl");
  }
  free_.pop_back();
  slots_[index].watcher = &watcher;
  return static_cast<Id>(index);
}

void Readiness::remove(Id id, int socket) {
  const auto index = static_cast<std::uint32_t>(id);
  CHECK(slots_[index].watcher != nullptr);
  slots_[index].watcher = nullptr;
  ++slots_[index].generation;
  slots_[index].in_queue = false;
  free_.push_back(index);
  const int result = ::epoll_ctl(epoll_.native_handle(), EPOLL_CTL_DEL, socket, nullptr);
  CHECK(result == 0);
}

Readiness::Slot* Readiness::find(std::uint64_t tag) {
  Slot& slot = slots_[static_cast<std::uint32_t>(tag)];
  return slot.watcher != nullptr && slot.generation == tag >> 32 ? &slot : nullptr;
}

void Readiness::later(Id id) {
  const auto index = static_cast<std::uint32_t>(id);
  Slot& slot = slots_[index];
  CHECK(slot.watcher != nullptr);
  if (std::exchange(slot.in_queue, true)) return;
  bulk_.push_back(tag(index, slot.generation));
  if (!dispatching_) go_on();
}

// Asio registers a descriptor edge-triggered, and looks at it anew with each async_wait: what was
// ready before is told all the same.
void Readiness::wait() {
  if (std::exchange(waiting_, true)) return;
  epoll_.async_wait(asio::posix::stream_descriptor::wait_read,
                    [this](const asio::error_code& error) {
                      if (error) return;  // it may be gone
                      waiting_ = false;
                      dispatch();
                    });
}

void Readiness::go_on() {
  if (std::exchange(posted_, true)) return;
  asio::post(loop_.context(), [this, alive = std::weak_ptr<const bool>(alive_)] {
    if (alive.expired()) return;
    posted_ = false;
    dispatch();
  });
}

void Readiness::dispatch() {
  dispatching_ = true;
  run_ready();
  for (int turn = 0; turn < kBulkTurns && !bulk_.empty(); ++turn) {
    run_bulk_turn();
    run_ready();
  }
  dispatching_ = false;
  if (bulk_.empty()) {
    wait();
  } else {
    go_on();
  }
}

void Readiness::prefetch(std::uint64_t tag) const {
  const Slot& slot = slots_[static_cast<std::uint32_t>(tag)];
  if (slot.watcher == nullptr) return;
  const auto* const at = reinterpret_cast<const char*>(slot.watcher);
  for (std::size_t line = 0; line < kPrefetchLines; ++line) __builtin_prefetch(at + 64 * line);
}

void Readiness::run_ready() {
  std::array<epoll_event, kBatch> events;
  const int count =
      ::epoll_wait(epoll_.native_handle(), events.data(), static_cast<int>(events.size()), 0);
  for (int i = 0; i < count; ++i) {
    if (i + kWatchersAhead < count) {
      prefetch(events[static_cast<std::size_t>(i + kWatchersAhead)].data.u64);
    }
    const epoll_event& event = events[static_cast<std::size_t>(i)];
    // An earlier one of this batch may have removed it.
    const Slot* const slot = find(event.data.u64);
    if (slot == nullptr) continue;
    loop_.forget_now();
    slot->watcher->on_ready({.readable = (event.events & EPOLLIN) != 0,
                             .writable = (event.events & EPOLLOUT) != 0,
                             .ended = (event.events & EPOLLRDHUP) != 0,
                             .broken = (event.events & (EPOLLHUP | EPOLLERR)) != 0});
  }
}

void Readiness::run_bulk_turn() {
  while (!bulk_.empty()) {
    Slot* const slot = find(bulk_.front());
    bulk_.pop_front();
    if (slot == nullptr) continue;  // it was removed while it waited
    slot->in_queue = false;
    loop_.forget_now();
    slot->watcher->on_bulk_turn();
    return;
  }
}

}  // namespace cistern::net
