#include "server/net/lingering.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>

namespace cistern::net {

struct Lingering::Socket {
  explicit Socket(AsioLoop& loop, int fd) : descriptor(loop.context(), fd) {}
  asio::posix::stream_descriptor descriptor;
  base::Loop::TimerId timer = base::Loop::TimerId::kNone;
  bool dropped = false;
};

Lingering::~Lingering() { close_all(); }

void Lingering::close(UniqueFd socket) {
  ::shutdown(socket.get(), SHUT_WR);
  if (sockets_.size() >= kMaxSockets) return;
  auto entry = std::make_shared<Socket>(loop_, socket.release());
  sockets_.push_back(entry);
  entry->timer = loop_.after(kPatience, [this, entry] { drop(entry); });
  wait(entry);
}

void Lingering::close_all() {
  while (!sockets_.empty()) drop(std::shared_ptr<Socket>(sockets_.front()));
}

void Lingering::wait(const std::shared_ptr<Socket>& socket) {
  socket->descriptor.async_wait(asio::posix::stream_descriptor::wait_read,
                                [this, socket](const asio::error_code&) {
                                  if (!socket->dropped) on_readable(socket);
                                });
}

void Lingering::on_readable(const std::shared_ptr<Socket>& socket) {
  std::array<std::byte, 16 * proto::kKiB> dropped_bytes;
  const ssize_t got = ::recv(socket->descriptor.native_handle(), dropped_bytes.data(),
                             dropped_bytes.size(), MSG_DONTWAIT);
  const bool alive = got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
  if (alive) return wait(socket);
  drop(socket);
}

void Lingering::drop(const std::shared_ptr<Socket>& socket) {
  socket->dropped = true;
  loop_.cancel(socket->timer);
  asio::error_code ignored;
  socket->descriptor.close(ignored);
  std::erase(sockets_, socket);
}

}  // namespace cistern::net
