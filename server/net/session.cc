#include "server/net/session.h"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include <fmt/format.h>

#include "server/base/fresh_memory.h"
#include "server/base/log.h"

namespace cistern::net {
namespace {

// What a session reads and writes before the others of its worker have their turn: as much as a
// pipeline of small requests and their answers takes, and in a bulk turn as much as one system call
// is worth. Every small request may have to wait for a bulk turn of another session, which is
// therefore not longer than 0.2 ms or so; what is read is hashed as well.
constexpr std::size_t kSmallTurnBytes = 64 * proto::kKiB;
constexpr std::size_t kReadTurnBytes = 256 * proto::kKiB;
constexpr std::size_t kWriteTurnBytes = 512 * proto::kKiB;
// One gathered write. A small answer waits for at most so much, and a frame, of other streams of
// its connection.
constexpr std::size_t kBatchBytes = kWriteTurnBytes;
// While value bytes are received into their chunk, what may be read past their end: the next
// frame's head, and little that would have to be copied.
constexpr std::size_t kReadPastTargetBytes = 4 * proto::kKiB;
// Requests that were sent before GOAWAY was read are refused, not lost, for so long.
constexpr std::chrono::milliseconds kGoAwayGrace{250};

log::Limit close_log_limit(10);

}  // namespace

// While it lives, output is written by the one who began the turn.
class Session::Turn {
 public:
  explicit Turn(Session& session, bool bulk = false) : session_(session), outer_(session.in_turn_) {
    session_.in_turn_ = true;
    if (outer_) return;
    session_.in_bulk_turn_ = bulk;
    session_.written_before_turn_ = session_.writer_.written();
  }
  ~Turn() { session_.in_turn_ = outer_; }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  Session& session_;
  const bool outer_;
};

Session::Session(const SessionContext& context, Accepted accepted, Owner& owner)
    : context_(context),
      owner_(owner),
      socket_(std::move(accepted.socket)),
      is_tcp_(accepted.is_tcp),
      budget_(std::move(accepted.place)),
      requests_(context, budget_, *this),
      conn_(context.options.limits, requests_),
      opened_at_(context.loop.now()),
      active_at_(opened_at_),
      output_{.acknowledged_bytes = 0, .moved_at = opened_at_},
      written_at_(opened_at_) {
  requests_.attach(conn_);
}

Session::~Session() = default;

void Session::start() {
  const int fd = socket_.get();
  if (is_tcp_) {
    const int on = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  set_buffer(fd, Direction::kSend, kSmallBufferBytes);
  set_buffer(fd, Direction::kReceive, kSmallBufferBytes);
  short_ = budget_.is_short_of(kRoomyFramesBytes);
  context_.metrics.connections_opened.add();
  timer_ = context_.loop.after(tick(), [this] { on_tick(); });
  try {
    watched_as_ = context_.readiness.add(fd, *this);
  } catch (const std::system_error& error) {
    log::warn("connection_not_watched", {{"error", error.what()}});
    close(CloseReason::kNoMemory);
  }
}

// ------------------------------------------------------------------------------------------ Input

void Session::on_ready(const Readiness::Events& events) {
  const auto self = shared_from_this();
  if (events.readable || events.ended || events.broken) readable_ = true;
  if (events.ended || events.broken) peer_ended_ = true;
  if (events.writable || events.broken) blocked_ = false;
  // While it's read, the next receive tells what has become of it.
  if (events.broken && !reads()) return close(CloseReason::kPeerFailed);
  const Turn turn(*this);
  take_turn();
}

void Session::on_bulk_turn() {
  const auto self = shared_from_this();
  const Turn turn(*this, true);
  take_turn();
}

void Session::take_turn() {
  if (readable_ && reads()) receive();
  advance();
}

// The kernel takes less time for a plain receive than for one into a list.
ssize_t Session::receive_into(std::span<iovec> areas) {
  if (areas.size() == 1) {
    return ::recv(socket_.get(), areas[0].iov_base, areas[0].iov_len, MSG_DONTWAIT);
  }
  msghdr message{};
  message.msg_iov = areas.data();
  message.msg_iovlen = areas.size();
  return ::recvmsg(socket_.get(), &message, MSG_DONTWAIT);
}

void Session::receive() {
  const std::size_t turn_bytes = in_bulk_turn_ ? kReadTurnBytes : kSmallTurnBytes;
  std::size_t received = 0;
  bool ended = false;
  bool broken = false;
  while (received < turn_bytes && !paused_ && !conn_.failed()) {
    const auto areas = conn_.prepare(context_.scratch);
    // The rest of a large frame isn't begun with a small read.
    if (!in_bulk_turn_ && areas[0].size() > turn_bytes) break;
    iovec iovecs[2];
    std::size_t count = 0;
    std::size_t room = 0;
    for (const proto::MutableBytes area : areas) {
      std::size_t most = count == 0 ? turn_bytes - received : kReadPastTargetBytes;
      if (short_ && area.data() == areas[1].data()) most = std::min(most, kShortReadBytes);
      const std::size_t size = std::min(area.size(), most);
      if (size == 0) continue;
      iovecs[count++] = {area.data(), size};
      room += size;
      if (size < area.size()) break;  // what comes next belongs behind it, not into the other
    }
    base::populate_fresh({static_cast<std::byte*>(iovecs[0].iov_base), iovecs[0].iov_len});
    const ssize_t got = receive_into({iovecs, count});
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      readable_ = false;
      ended = got == 0;
      broken = got < 0 && errno != EAGAIN && errno != EWOULDBLOCK;
      break;
    }
    const auto bytes = static_cast<std::size_t>(got);
    context_.metrics.bytes_in.add(bytes);
    received += bytes;
    // What was asked is judged by a time after it was sent.
    context_.loop.forget_now();
    conn_.commit(bytes);
    process();
    if (bytes < room && !peer_ended_) {  // that was all
      readable_ = false;
      break;
    }
  }
  conn_.finish();
  if (received > 0) active_at_ = context_.loop.now();
  if (ended) return close(CloseReason::kPeerClosed);
  if (broken) return close(CloseReason::kPeerFailed);
}

void Session::go_on() {
  conn_.prepare(context_.scratch);
  process();
  conn_.finish();
}

// ----------------------------------------------------------------------------------------- Output

void Session::on_output() {
  if (!in_turn_) advance_later();
}

void Session::advance_later() {
  if (closed_ || std::exchange(advance_posted_, true)) return;
  context_.loop.post([self = shared_from_this()] {
    self->advance_posted_ = false;
    if (self->closed_) return;
    const Turn turn(*self);
    self->take_turn();
  });
}

Session::Flow Session::write() {
  if (blocked_) return Flow::kBlocked;
  const std::uint64_t before = writer_.written();
  const std::uint64_t until =
      written_before_turn_ + (in_bulk_turn_ ? kWriteTurnBytes : kSmallTurnBytes);
  Flow flow = Flow::kYield;
  for (;;) {
    if (writer_.idle() && !conn_.has_output()) {
      flow = Flow::kDrained;
      break;
    }
    if (writer_.written() >= until) break;
    const auto most = static_cast<std::size_t>(until - writer_.written());
    if (writer_.idle()) {
      // Late in a bulk turn what is small still goes, but better fewer calls than a small part of
      // the next large frame.
      const bool late = in_bulk_turn_ && most <= kWriteTurnBytes / 2;
      // What a socket then doesn't take is little enough to be copied.
      const bool little = slow_ || context_.ledger.transfers_past_half();
      conn_.set_small_frames(little);
      conn_.collect(writer_.batch(), late ? 1 : little ? kSmallTurnBytes : kBatchBytes);
      requests_.collected(writer_.written() + writer_.batch().bytes);
      if (writer_.idle()) continue;  // the sources have nothing yet
      if (late && writer_.left_bytes() > most) break;
    }
    // Not cut in two, for what a bulk turn sends with one call.
    if (!in_bulk_turn_ && writer_.left_bytes() > most) break;
    const Writer::Outcome outcome = writer_.write(socket_.get(), most);
    if (outcome == Writer::Outcome::kDone || outcome == Writer::Outcome::kMore) continue;
    if (outcome == Writer::Outcome::kBlocked && resize(Direction::kSend, true)) continue;
    flow = outcome == Writer::Outcome::kBlocked ? Flow::kBlocked : Flow::kFailed;
    break;
  }
  const std::uint64_t taken = writer_.written() - before;
  context_.metrics.bytes_out.add(taken);
  if (taken > 0 || flow == Flow::kDrained) written_at_ = context_.loop.now();
  if (flow == Flow::kDrained) slow_ = false;
  return flow;
}

void Session::advance() {
  if (closed_) return;
  Flow flow = write();
  while (flow == Flow::kDrained && paused_ && !conn_.failed()) {
    go_on();  // the client has taken what was owed
    flow = write();
  }
  requests_.sweep();
  if (flow == Flow::kFailed) return close(CloseReason::kPeerFailed);
  if (flow == Flow::kDrained) {
    // A sweep may have let a source speak.
    if (conn_.has_output()) return advance_later();
    if (conn_.failed()) return close(failed_as_);
    if (has_left()) return close(*leaving_);
  }
  // What was owed went before the streams' bytes: frames that wait for it need not wait for them.
  if (flow == Flow::kYield && paused_ && !conn_.failed()) go_on();
  settle_frames();
  if (flow == Flow::kBlocked) blocked_ = true;
  if (flow == Flow::kYield || (readable_ && reads())) context_.readiness.later(*watched_as_);
}

// ------------------------------------------------------------------------------------------- Time

base::Duration Session::tick() const {
  const SessionOptions& options = context_.options;
  const base::Duration least =
      std::min({options.request_timeout, options.stall_timeout, options.idle_timeout}) / 4;
  return std::clamp<base::Duration>(least, std::chrono::milliseconds(5), std::chrono::seconds(1));
}

// The kernel takes at once what a slow line needs minutes for, and isn't writable again before a
// third of that has gone: whether the peer takes anything is seen in what it has acknowledged.
void Session::note_acknowledged() {
  int queued = 0;
  if (::ioctl(socket_.get(), SIOCOUTQ, &queued) != 0) return;
  // Of a unix socket it counts the buffers, which are more than their bytes.
  const auto waiting = std::min(static_cast<std::uint64_t>(std::max(queued, 0)), writer_.written());
  const std::uint64_t acknowledged = writer_.written() - waiting;
  if (acknowledged <= output_.acknowledged_bytes) return;
  output_ = {.acknowledged_bytes = acknowledged, .moved_at = context_.loop.now()};
}

void Session::on_tick() {
  const auto self = shared_from_this();
  const Turn turn(*this);
  timer_ = context_.loop.after(tick(), [this] { on_tick(); });
  const SessionOptions& options = context_.options;
  const base::TimePoint now = context_.loop.now();
  const bool idle = requests_.none_open() && conn_.open_streams() == 0;
  // A client that is told of its end has less time to take that in.
  const base::Duration patience = conn_.failed()
                                      ? std::min(options.request_timeout, options.stall_timeout)
                                      : options.stall_timeout;
  if (blocked_ || !requests_.none_open()) note_acknowledged();
  const base::TimePoint taken_at = std::max(written_at_, output_.moved_at);
  if (blocked_ && now - taken_at >= patience) return close(CloseReason::kOutputStalled);
  if (blocked_ && now - written_at_ >= tick()) relieve();
  if (!conn_.greeted() && now - opened_at_ >= options.request_timeout) {
    return close(CloseReason::kHelloTimeout);
  }
  requests_.check_deadlines(output_);
  if (!idle) {
    active_at_ = now;
  } else if (!leaving_ && now - active_at_ >= options.idle_timeout) {
    go_away(
        CloseReason::kIdle,
        proto::Error{
            proto::Status::kTimeout,
            fmt::format("no request for {} ms (limits.idle_timeout); the connection "
                        "is closed",
                        std::chrono::duration_cast<std::chrono::milliseconds>(options.idle_timeout)
                            .count())});
  } else {
    if (send_buffer_bytes_ > kSmallBufferBytes && !blocked_) resize(Direction::kSend, false);
    if (receive_buffer_bytes_ > kSmallBufferBytes) resize(Direction::kReceive, false);
  }
  budget_.trim();
  short_ = budget_.is_short_of(kRoomyFramesBytes);
  advance();
}

// -------------------------------------------------------------------------------------------- End

void Session::go_away(CloseReason reason, const proto::Error& error) {
  if (closed_ || leaving_) return;
  leaving_ = reason;
  left_at_ = context_.loop.now();
  conn_.go_away(error);
  context_.loop.after(kGoAwayGrace, [self = shared_from_this()] { self->advance_later(); });
  on_output();
}

bool Session::has_left() const {
  return leaving_ && conn_.open_streams() == 0 && context_.loop.now() - left_at_ >= kGoAwayGrace;
}

void Session::close(CloseReason reason) {
  if (closed_) return;
  const auto self = shared_from_this();
  const Turn turn(*this);
  closed_ = true;
  log_close(reason);
  conn_.drop(proto::Error{proto::Status::kCancelled, std::string(info(reason).text)});
  requests_.sweep();
  context_.loop.cancel(timer_);
  if (watched_as_) context_.readiness.remove(*watched_as_, socket_.get());
  const bool peer_is_gone =
      reason == CloseReason::kPeerClosed || reason == CloseReason::kPeerFailed;
  if (peer_is_gone) {
    socket_.reset();
  } else {
    context_.lingering.close(std::move(socket_));
  }
  context_.metrics.connections_closed.add();
  context_.closes[static_cast<std::size_t>(reason)].add();
  owner_.on_session_closed(*this);
}

void Session::log_close(CloseReason reason) const {
  const CloseInfo& what = info(reason);
  if (!log::enabled(what.severity)) return;
  const std::string detail = conn_.failure() ? conn_.failure()->message : std::string();
  log::event(close_log_limit, what.severity, "connection_closed",
             {{"reason", what.label},
              {"text", what.text},
              {"detail", detail},
              {"transport", is_tcp_ ? "tcp" : "unix"}});
}

}  // namespace cistern::net
