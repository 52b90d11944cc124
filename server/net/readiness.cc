#include "server/net/readiness.h"

#include <sys/epoll.h>

#include <array>
#include <cerrno>
#include <system_error>

#include "server/base/check.h"

namespace cistern::net {
namespace {

// Sockets that have their turn before posted tasks and timers have theirs.
constexpr std::size_t kBatch = 64;

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
  event.data.u64 = std::uint64_t{slots_[index].generation} << 32 | index;
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
  free_.push_back(index);
  const int result = ::epoll_ctl(epoll_.native_handle(), EPOLL_CTL_DEL, socket, nullptr);
  CHECK(result == 0);
}

void Readiness::wait() {
  epoll_.async_wait(asio::posix::stream_descriptor::wait_read,
                    [this](const asio::error_code& error) {
                      if (error) return;
                      dispatch();
                      wait();
                    });
}

void Readiness::dispatch() {
  std::array<epoll_event, kBatch> events;
  const int count =
      ::epoll_wait(epoll_.native_handle(), events.data(), static_cast<int>(events.size()), 0);
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<std::size_t>(i)];
    const auto index = static_cast<std::uint32_t>(event.data.u64);
    // An earlier one of this batch may have removed it, and its place may be another's.
    const Slot slot = slots_[index];
    if (slot.watcher == nullptr || slot.generation != event.data.u64 >> 32) continue;
    loop_.forget_now();
    slot.watcher->on_ready({.readable = (event.events & EPOLLIN) != 0,
                            .writable = (event.events & EPOLLOUT) != 0,
                            .ended = (event.events & EPOLLRDHUP) != 0,
                            .broken = (event.events & (EPOLLHUP | EPOLLERR)) != 0});
  }
}

}  // namespace cistern::net
