#include "server/l2/redis_bulk.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "server/base/check.h"
#include "server/base/fresh_memory.h"
#include "server/base/log.h"
#include "server/l2/redis_protocol.h"

namespace cistern::l2 {
namespace {

using base::Status;

// What is moved in one turn of the loop before others get theirs.
constexpr std::size_t kTurnBytes = proto::kMiB;
// As much as one call brings, when the buffer is full.
constexpr std::size_t kPopulatedBytes = 512 * proto::kKiB;
constexpr std::size_t kMaxPieces = 48;
constexpr std::size_t kPiecesOfOp = 3;

std::size_t op_bytes(const RedisBulk::Op& op) {
  return op.head.size() + (op.chunk ? op.chunk->size() : 0) + op.tail.size();
}

// The pieces of `op` past its first `skip` bytes.
std::size_t add_pieces(const RedisBulk::Op& op, std::size_t skip, iovec* to) {
  const std::array<base::Bytes, kPiecesOfOp> pieces = {proto::as_bytes(op.head),
                                                       op.chunk ? op.chunk->bytes() : base::Bytes(),
                                                       proto::as_bytes(op.tail)};
  std::size_t count = 0;
  for (base::Bytes piece : pieces) {
    const std::size_t gone = std::min(skip, piece.size());
    skip -= gone;
    piece = piece.subspan(gone);
    if (!piece.empty()) to[count++] = {const_cast<std::byte*>(piece.data()), piece.size()};
  }
  return count;
}

}  // namespace

RedisBulk::RedisBulk(std::shared_ptr<const RedisOptions> options, std::shared_ptr<Breaker> breaker,
                     asio::io_context& io, base::Loop& loop, base::WorkerMetrics& metrics)
    : options_(std::move(options)),
      breaker_(std::move(breaker)),
      io_(io),
      loop_(loop),
      metrics_(metrics) {}

RedisBulk::~RedisBulk() { DCHECK(ops_.empty() && waiting_.empty()); }

base::Error RedisBulk::describe(Status status, std::string_view what) const {
  return {status, fmt::format("Redis at {}: {}", display(options_->url), what)};
}

void RedisBulk::start() {
  if (state_ == State::kNew) attempt();
}

base::Result<void> RedisBulk::usable() const {
  if (state_ == State::kClosed) {
    return base::fail(Status::kShuttingDown, "the second tier is being closed");
  }
  const bool is_up = state_ == State::kReady;
  if (auto allowed = breaker_->allows(loop_.now(), is_up); !allowed) return allowed;
  if (is_up || waiting_allowed_) return {};
  return tl::unexpected(last_error_);
}

// -- the way up ----------------------------------------------------------------------------------

void RedisBulk::attempt() {
  state_ = State::kConnecting;
  const std::uint64_t attempt = ++attempt_;
  const auto weak = weak_from_this();
  attempt_timer_ = loop_.after(options_->connect_timeout, [weak] {
    if (const auto self = weak.lock()) {
      self->attempt_timer_ = base::Loop::TimerId::kNone;
      self->cut(
          self->describe(Status::kL2Unavailable, "no connection within l2.redis.connect_timeout"));
    }
  });
  resolve(io_, options_->url,
          [self = shared_from_this(), attempt](base::Result<std::vector<RedisAddress>> found) {
            if (attempt != self->attempt_ || self->state_ != State::kConnecting) return;
            if (!found) return self->cut(found.error());
            self->connect_to(std::move(*found), 0);
          });
}

void RedisBulk::connect_to(std::vector<RedisAddress> addresses, std::size_t index) {
  socket_ = std::make_shared<Socket>(io_);
  asio::error_code error;
  const auto endpoint = addresses[index].endpoint;
  socket_->open(endpoint.protocol(), error);
  if (error) return cut(describe(Status::kL2Unavailable, error.message()));
  const int fd = socket_->native_handle();
  set_socket_buffers(fd);
  if (!options_->url.is_unix()) {
    set_int_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_int_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  }
  socket_->async_connect(
      endpoint, [self = shared_from_this(), socket = socket_, addresses = std::move(addresses),
                 index](const asio::error_code& failed) mutable {
        if (socket != self->socket_) return;
        if (!failed) return self->connected();
        if (index + 1 < addresses.size()) return self->connect_to(std::move(addresses), index + 1);
        self->cut(self->describe(Status::kL2Unavailable, failed.message()));
      });
}

void RedisBulk::connected() {
  asio::error_code error;
  socket_->native_non_blocking(true, error);
  if (error) return cut(describe(Status::kL2Unavailable, error.message()));
  state_ = State::kHandshake;
  receiver_ = ReplyReceiver();
  handshake();
  wait_readable();
  flush();
}

void RedisBulk::handshake() {
  const RedisUrl& url = options_->url;
  if (!url.password.empty()) {
    if (url.user.empty()) {
      handshake_command({"AUTH", url.password}, false);
    } else {
      handshake_command({"AUTH", url.user, url.password}, false);
    }
  }
  if (url.db != 0) handshake_command({"SELECT", std::to_string(url.db)}, false);
  // The kernel accepts connections for a Redis that is stopped; only an answer says that it lives.
  handshake_command({"PING"}, true);
}

void RedisBulk::handshake_command(std::initializer_list<std::string_view> words, bool last) {
  auto op = std::make_shared<Op>();
  op->is_handshake = true;
  append_command(op->head, words);
  op->done = [this, last](base::Result<StoredChunk> reply) {
    if (!reply) {
      cut(describe(reply.error().status, reply.error().message));
    } else if (last) {
      ready();
    }
  };
  ops_.push_back(std::move(op));
}

void RedisBulk::ready() {
  loop_.cancel(std::exchange(attempt_timer_, base::Loop::TimerId::kNone));
  state_ = State::kReady;
  waiting_allowed_ = true;
  if (probe_) {
    probe_.succeeded(loop_.now());
  } else {
    breaker_->connected(loop_.now());
  }
  ready_since_ = last_progress_ = loop_.now();
  if (std::exchange(was_ready_, true)) metrics_.l2_reconnects.add();
  base::log::info("connected to Redis", {{"endpoint", display(options_->url)}, {"for", "chunks"}});
  while (!waiting_.empty()) {
    ops_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
  watch_progress();
  flush();
}

// -- the way down --------------------------------------------------------------------------------

void RedisBulk::cut(const base::Error& why) {
  if (state_ == State::kClosed || state_ == State::kBackoff) return;
  const bool was_up = state_ == State::kReady;
  ++attempt_;
  loop_.cancel(std::exchange(attempt_timer_, base::Loop::TimerId::kNone));
  loop_.cancel(std::exchange(progress_timer_, base::Loop::TimerId::kNone));
  if (socket_) {
    asio::error_code ignored;  // there is nothing to do about a close that fails
    socket_->close(ignored);
    socket_.reset();
  }
  is_writing_ = false;
  receiver_ = ReplyReceiver();
  sent_ops_ = sent_bytes_ = 0;
  last_error_ = {Status::kL2Unavailable, why.message};
  static base::log::Limit limit(5);
  base::log::warn(limit, was_up ? "lost the connection to Redis" : "cannot connect to Redis",
                  {{"endpoint", display(options_->url)}, {"for", "chunks"}, {"why", why.message}});
  tell_breaker(why, was_up);
  const bool was_stable = was_up && loop_.now() - ready_since_ >= kStableAfter;
  if (was_stable) backoff_.reset();
  waiting_allowed_ = was_stable;
  state_ = State::kBackoff;
  fail_all(ops_, why);
  fail_all(waiting_, why);
  schedule_attempt();
}

void RedisBulk::tell_breaker(const base::Error& why, bool was_up) {
  if (probe_) {
    probe_.failed(loop_.now(), why.message);
  } else if (!was_up) {
    breaker_->connect_failed(loop_.now(), why.message);
  } else if (why.status == Status::kL2Timeout) {
    breaker_->timed_out(loop_.now(), why.message);
  }
}

void RedisBulk::schedule_attempt() {
  const auto weak = weak_from_this();
  if (!breaker_->is_closed()) {
    turn_ = breaker_->wait(loop_, [weak](Breaker::Probe probe) {
      const auto self = weak.lock();
      if (!self) return;
      self->turn_.reset();
      self->probe_ = std::move(probe);
      self->waiting_allowed_ = true;
      self->attempt();
    });
    return;
  }
  const base::Duration delay = waiting_allowed_ ? base::Duration::zero() : backoff_.next();
  attempt_timer_ = loop_.after(delay, [weak] {
    const auto self = weak.lock();
    if (!self) return;
    self->attempt_timer_ = base::Loop::TimerId::kNone;
    if (!self->breaker_->is_closed()) return self->schedule_attempt();
    self->attempt();
  });
}

void RedisBulk::close() {
  if (state_ == State::kClosed) return;
  const base::Error why{Status::kShuttingDown, "the second tier is being closed"};
  ++attempt_;
  state_ = State::kClosed;
  turn_.reset();
  probe_.give_back();
  loop_.cancel(std::exchange(attempt_timer_, base::Loop::TimerId::kNone));
  loop_.cancel(std::exchange(progress_timer_, base::Loop::TimerId::kNone));
  if (socket_) {
    asio::error_code ignored;
    socket_->close(ignored);
    socket_.reset();
  }
  fail_all(ops_, why);
  fail_all(waiting_, why);
}

void RedisBulk::fail_all(std::deque<OpPtr>& ops, const base::Error& why) {
  for (const OpPtr& op : std::exchange(ops, {})) {
    if (!op->is_handshake) complete(op, tl::unexpected(why));
  }
}

void RedisBulk::complete(const OpPtr& op, base::Result<StoredChunk> result) {
  op->chunk.reset();
  if (!op->done) return;  // cancelled
  // Posted, so that whoever is called finds no one of this class further up the stack.
  loop_.post([op, result = std::move(result)]() mutable {
    if (auto done = std::exchange(op->done, nullptr)) done(std::move(result));
  });
}

// -- operations ----------------------------------------------------------------------------------

void RedisBulk::submit(OpPtr op) {
  if (const auto ok = usable(); !ok) return complete(op, tl::unexpected(ok.error()));
  if (state_ != State::kReady) {
    waiting_.push_back(std::move(op));
    return;
  }
  if (ops_.empty()) last_progress_ = loop_.now();
  ops_.push_back(std::move(op));
  watch_progress();
  flush();
}

void RedisBulk::cancel(const OpPtr& op) {
  op->done = nullptr;
  op->expected.wanted = false;
  if (std::erase(waiting_, op) > 0) return;
  const auto found = std::find(ops_.begin(), ops_.end(), op);
  if (found == ops_.end()) return;
  const auto place = static_cast<std::size_t>(found - ops_.begin());
  if (place > sent_ops_ || (place == sent_ops_ && sent_bytes_ == 0)) {
    ops_.erase(found);
  } else if (place == 0) {
    receiver_.abandon();
  }
}

void RedisBulk::watch_progress() {
  if (progress_timer_ != base::Loop::TimerId::kNone || ops_.empty()) return;
  const auto weak = weak_from_this();
  const base::Duration quiet = loop_.now() - last_progress_;
  progress_timer_ =
      loop_.after(std::max(base::Duration::zero(), options_->op_timeout - quiet), [weak] {
        const auto self = weak.lock();
        if (!self) return;
        self->progress_timer_ = base::Loop::TimerId::kNone;
        if (self->ops_.empty()) return;
        if (self->loop_.now() - self->last_progress_ < self->options_->op_timeout) {
          return self->watch_progress();
        }
        self->cut(self->describe(Status::kL2Timeout, "nothing moved for l2.redis.op_timeout"));
      });
}

// -- bytes out -----------------------------------------------------------------------------------

void RedisBulk::flush() {
  if (is_writing_ || !socket_) return;
  std::size_t left = kTurnBytes;
  while (sent_ops_ < ops_.size()) {
    std::array<iovec, kMaxPieces> pieces;
    std::size_t count = 0;
    std::size_t skip = sent_bytes_;
    for (std::size_t i = sent_ops_; i < ops_.size() && count + kPiecesOfOp <= kMaxPieces; ++i) {
      count += add_pieces(*ops_[i], std::exchange(skip, 0), &pieces[count]);
    }
    msghdr message{};
    message.msg_iov = pieces.data();
    message.msg_iovlen = count;
    const ssize_t n = ::sendmsg(socket_->native_handle(), &message, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return wait_writable();
    if (n < 0) return cut(describe(Status::kL2Unavailable, std::strerror(errno)));
    sent(static_cast<std::size_t>(n));
    if (static_cast<std::size_t>(n) >= left) return wait_writable();
    left -= static_cast<std::size_t>(n);
  }
}

void RedisBulk::sent(std::size_t bytes) {
  last_progress_ = loop_.now();
  while (bytes > 0) {
    const std::size_t rest = op_bytes(*ops_[sent_ops_]) - sent_bytes_;
    if (bytes < rest) {
      sent_bytes_ += bytes;
      return;
    }
    bytes -= rest;
    sent_bytes_ = 0;
    ++sent_ops_;
  }
}

void RedisBulk::wait_writable() {
  is_writing_ = true;
  socket_->async_wait(Socket::wait_write,
                      [self = shared_from_this(), socket = socket_](const asio::error_code& error) {
                        if (socket != self->socket_) return;
                        self->is_writing_ = false;
                        if (error)
                          return self->cut(self->describe(Status::kL2Unavailable, error.message()));
                        self->flush();
                      });
}

// -- bytes in ------------------------------------------------------------------------------------

void RedisBulk::wait_readable() {
  socket_->async_wait(Socket::wait_read,
                      [self = shared_from_this(), socket = socket_](const asio::error_code& error) {
                        if (socket != self->socket_) return;
                        if (error)
                          return self->cut(self->describe(Status::kL2Unavailable, error.message()));
                        self->on_readable();
                      });
}

void RedisBulk::on_readable() {
  std::size_t left = kTurnBytes;
  const SocketPtr socket = socket_;
  while (socket == socket_) {
    const auto space = receiver_.space();
    base::populate_fresh(space[0].first(std::min(space[0].size(), kPopulatedBytes)));
    const std::array<iovec, 2> pieces = {iovec{space[0].data(), space[0].size()},
                                         iovec{space[1].data(), space[1].size()}};
    const ssize_t n = ::readv(socket_->native_handle(), pieces.data(), pieces.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return wait_readable();
    if (n < 0) return cut(describe(Status::kL2Unavailable, std::strerror(errno)));
    if (n == 0) return cut(describe(Status::kL2Unavailable, "it closed the connection"));
    const auto bytes = static_cast<std::size_t>(n);
    last_progress_ = loop_.now();
    receiver_.received(bytes);
    if (!deliver()) return;
    if (bytes >= left) return wait_readable();
    left -= bytes;
  }
}

// False when the connection was cut.
bool RedisBulk::deliver() {
  const SocketPtr socket = socket_;
  for (;;) {
    using Kind = ReplyReceiver::Event::Kind;
    auto event = receiver_.next(ops_.empty() ? nullptr : &ops_.front()->expected);
    if (event.kind == Kind::kNone) return true;
    if (event.kind == Kind::kReply && sent_ops_ == 0) {
      // Redis answers before it has the whole command only to say that it won't go on.
      event.kind = Kind::kBroken;
      if (event.reply) event.reply = base::fail(Status::kL2Error, "Redis answered too early");
    }
    if (event.kind == Kind::kBroken) {
      cut(describe(event.reply.error().status, event.reply.error().message));
      return false;
    }
    const OpPtr op = std::move(ops_.front());
    ops_.pop_front();
    --sent_ops_;
    if (op->is_handshake) {
      op->done(std::move(event.reply));
      if (socket != socket_) return false;
      continue;
    }
    breaker_->answered();
    // A replica, a Redis that is loading, a login that was revoked: true of all that comes after
    // it, and a new connection may find another Redis behind the name.
    const bool is_useless = !event.reply && event.reply.error().status == Status::kL2Unavailable;
    const base::Error why = is_useless ? event.reply.error() : base::Error();
    complete(op, std::move(event.reply));
    if (is_useless) {
      cut(why);
      return false;
    }
  }
}

}  // namespace cistern::l2
