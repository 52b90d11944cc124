#include "server/l2/redis_link.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include <asio/post.hpp>

#include "server/base/check.h"
#include "server/l2/envelope.h"

namespace cistern::l2 {
namespace {

// No reply to a command of ours is longer than a manifest; hiredis would buffer any length.
constexpr std::size_t kMaxReplyBytes = 2 * kMaxManifestBytes;

// redisBufferRead() reads so much at once.
constexpr std::size_t kHiredisReadBytes = 16 * proto::kKiB;

// hiredis 0.14 writes with write(2), which raises SIGPIPE where Redis has gone away.
void ignore_sigpipe() {
  struct sigaction current {};
  if (::sigaction(SIGPIPE, nullptr, &current) == 0 && current.sa_handler == SIG_DFL) {
    std::signal(SIGPIPE, SIG_IGN);
  }
}

RedisLink& link_of(void* self) { return *static_cast<RedisLink*>(self); }

}  // namespace

std::shared_ptr<RedisLink> RedisLink::open(asio::io_context& io, const RedisAddress& address,
                                           const RedisUrl& url, Events events) {
  static const bool once = (ignore_sigpipe(), true);
  static_cast<void>(once);
  std::shared_ptr<RedisLink> link(new RedisLink(io));
  link->events_ = std::move(events);
  link->start(address, url);
  return link;
}

RedisLink::~RedisLink() { DCHECK(context_ == nullptr); }

void RedisLink::start(const RedisAddress& address, const RedisUrl& url) {
  redisAsyncContext* const context =
      url.is_unix() ? redisAsyncConnectUnix(url.unix_path.c_str())
                    : redisAsyncConnect(address.ip.c_str(), static_cast<int>(url.port));
  if (context == nullptr) return end("out of memory");
  const int fd = context->err == 0 ? ::fcntl(context->c.fd, F_DUPFD_CLOEXEC, 0) : -1;
  if (fd < 0) {
    std::string why = context->err != 0 ? context->errstr : std::strerror(errno);
    redisAsyncFree(context);
    return end(std::move(why));
  }
  set_socket_buffers(fd);
  asio::error_code error;
  descriptor_.assign(fd, error);
  if (error) {
    ::close(fd);
    redisAsyncFree(context);
    return end(error.message());
  }
  context_ = context;
  self_ = shared_from_this();
  context->data = this;
  context->ev.data = this;
  context->ev.addRead = &RedisLink::add_read;
  context->ev.delRead = &RedisLink::del_read;
  context->ev.addWrite = &RedisLink::add_write;
  context->ev.delWrite = &RedisLink::del_write;
  context->ev.cleanup = &RedisLink::cleanup;
  redisAsyncSetConnectCallback(context, &RedisLink::on_connect);
}

void RedisLink::end(std::string why) {
  asio::post(io_, [self = shared_from_this(), why = std::move(why)]() mutable {
    self->events_.connected = nullptr;
    if (auto closed = std::exchange(self->events_.closed, nullptr)) closed(std::move(why));
  });
}

bool RedisLink::send(const Args& args, OnReply on_reply) {
  if (context_ == nullptr) return false;
  std::vector<const char*> words;
  std::vector<std::size_t> lengths;
  for (const std::string& arg : args) {
    words.push_back(arg.data());
    lengths.push_back(arg.size());
  }
  auto held = std::make_unique<OnReply>(std::move(on_reply));
  const int status =
      redisAsyncCommandArgv(context_, &RedisLink::on_command_reply, held.get(),
                            static_cast<int>(words.size()), words.data(), lengths.data());
  if (status != REDIS_OK) return false;
  static_cast<void>(held.release());  // on_command_reply takes it
  return true;
}

bool RedisLink::subscribe(const std::string& channel, OnMessage on_message) {
  if (context_ == nullptr) return false;
  on_message_ = std::move(on_message);
  return redisAsyncCommand(context_, &RedisLink::on_channel_reply, this, "SUBSCRIBE %b",
                           channel.data(), channel.size()) == REDIS_OK;
}

void RedisLink::on_channel_reply(redisAsyncContext*, void* reply, void* self) {
  if (reply == nullptr) return;  // the connection has ended: `closed` says so
  RedisLink& link = link_of(self);
  link.message_bytes_ = 0;
  link.on_message_(*static_cast<const redisReply*>(reply));
}

bool RedisLink::is_message_bounded() {
  if (!on_message_) return true;
  int waiting = 0;
  if (::ioctl(context_->c.fd, FIONREAD, &waiting) != 0 || waiting < 0) return true;
  message_bytes_ += std::min(static_cast<std::size_t>(waiting), kHiredisReadBytes);
  return message_bytes_ <= kMaxMessageBytes;
}

void RedisLink::cut() {
  if (context_ != nullptr) redisAsyncFree(context_);
}

void RedisLink::on_command_reply(redisAsyncContext*, void* reply, void* on_reply) {
  const std::unique_ptr<OnReply> held(static_cast<OnReply*>(on_reply));
  (*held)(static_cast<const redisReply*>(reply));
}

void RedisLink::on_connect(const redisAsyncContext* context, int status) {
  // On failure hiredis frees the context next; cleanup() reports it.
  if (status != REDIS_OK) return;
  RedisLink& link = link_of(context->data);
  link.is_connected_ = true;
  // Posted: a cut from here would free the context under hiredis' feet.
  asio::post(link.io_, [self = link.shared_from_this()] {
    if (self->context_ == nullptr) return;
    if (auto connected = std::exchange(self->events_.connected, nullptr)) connected();
  });
}

void RedisLink::cleanup(void* self) {
  RedisLink& link = link_of(self);
  std::string why = link.context_->err != 0 ? link.context_->errstr : link.cut_why_;
  link.context_ = nullptr;
  link.wants_read_ = link.wants_write_ = false;
  asio::error_code ignored;  // there is nothing to do about a close that fails
  link.descriptor_.close(ignored);
  link.end(std::move(why));
  // The posted call holds the link beyond this one.
  link.self_.reset();
}

void RedisLink::add_read(void* self) {
  link_of(self).wants_read_ = true;
  link_of(self).wait_read();
}
void RedisLink::del_read(void* self) { link_of(self).wants_read_ = false; }
void RedisLink::add_write(void* self) { link_of(self).want_write(); }
void RedisLink::del_write(void* self) { link_of(self).wants_write_ = false; }

void RedisLink::wait_read() {
  if (std::exchange(is_waiting_read_, true)) return;
  descriptor_.async_wait(asio::posix::stream_descriptor::wait_read,
                         [self = shared_from_this()](const asio::error_code& error) {
                           self->is_waiting_read_ = false;
                           if (!error && self->context_ != nullptr) self->on_readable();
                         });
}

void RedisLink::on_readable() {
  if (!wants_read_) return;
  if (context_->c.reader->len > kMaxReplyBytes) return cut();
  if (!is_message_bounded()) {
    cut_why_ = "a message of more than 1 MiB";
    return cut();
  }
  redisAsyncHandleRead(context_);
}

// Commands of one turn of the loop leave with one system call. The socket is waited for only when
// it doesn't take them.
void RedisLink::want_write() {
  wants_write_ = true;
  if (!is_connected_ || is_writing_) {
    wait_write();
  } else {
    write_soon();
  }
}

void RedisLink::write_soon() {
  if (is_waiting_write_ || std::exchange(is_write_posted_, true)) return;
  asio::post(io_, [self = shared_from_this()] {
    self->is_write_posted_ = false;
    self->on_writable();
  });
}

void RedisLink::wait_write() {
  if (std::exchange(is_waiting_write_, true)) return;
  descriptor_.async_wait(asio::posix::stream_descriptor::wait_write,
                         [self = shared_from_this()](const asio::error_code& error) {
                           self->is_waiting_write_ = false;
                           if (!error) self->on_writable();
                         });
}

void RedisLink::on_writable() {
  if (context_ == nullptr || !wants_write_) return;
  is_writing_ = true;
  redisAsyncHandleWrite(context_);
  is_writing_ = false;
}

}  // namespace cistern::l2
