#include "server/net/listener.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "server/base/log.h"

namespace cistern::net {
namespace {

// What is accepted before others have their turn.
constexpr int kAcceptTurn = 64;
// While the process has no descriptor or memory left, waiting is all that helps.
constexpr std::chrono::milliseconds kPause{100};

log::Limit pause_log_limit(1);

}  // namespace

Listener::Listener(AsioLoop& loop, BoundSocket socket, OnAccepted on_accepted)
    : loop_(loop),
      socket_(std::make_unique<BoundSocket>(std::move(socket))),
      endpoint_(socket_->endpoint()),
      on_accepted_(std::move(on_accepted)),
      readable_(loop.context()) {}

Listener::~Listener() { stop(); }

void Listener::listen() {
  if (::listen(socket_->fd(), kBacklog) != 0) {
    throw std::system_error(errno, std::generic_category(), "listen on " + to_string(endpoint_));
  }
}

void Listener::start() {
  readable_.assign(socket_->fd());
  wait();
}

void Listener::stop() {
  loop_.cancel(resume_);
  // The descriptor is the socket's to close.
  if (readable_.is_open()) readable_.release();
  socket_.reset();
}

void Listener::wait() {
  readable_.async_wait(asio::posix::stream_descriptor::wait_read,
                       [this](const asio::error_code& error) {
                         if (!error) accept_some();
                       });
}

void Listener::accept_some() {
  for (int i = 0; i < kAcceptTurn; ++i) {
    UniqueFd socket(::accept4(socket_->fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (socket) {
      on_accepted_(std::move(socket), socket_->is_tcp());
      continue;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) break;
    // A client that went away before it was accepted, and what else concerns that one alone.
    const bool lasting = errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM;
    if (lasting) return pause(errno);
  }
  wait();
}

void Listener::pause(int error) {
  log::warn(pause_log_limit, "accept_paused",
            {{"endpoint", to_string(endpoint_)},
             {"text", std::strerror(error)},
             {"hint", "raise the limit of open files (ulimit -n) above limits.max_connections"}});
  resume_ = loop_.after(kPause, [this] { wait(); });
}

}  // namespace cistern::net
