#include "client/cpp/channel.h"

#include <algorithm>
#include <utility>

#include <cistern/version.h>
#include <fmt/format.h>

namespace cistern::detail {
namespace {

using proto::Error;
using proto::Status;

Error cancelled() { return {Status::kCancelled, "the client was closed"}; }

// What a lost connection means for one request.
Error what_was_lost(const Error& error, const Request& request, bool left) {
  if (error.status != Status::kConnectionLost || !left || request.may_repeat(true)) return error;
  return {error.status, error.message + "; whether the request took effect is not known"};
}

}  // namespace

Channel::Channel(asio::any_io_executor executor, ClientOptions options, proto::Endpoint endpoint)
    : executor_(executor),
      options_(std::move(options)),
      endpoint_(std::move(endpoint)),
      timer_(executor) {}

Channel::~Channel() = default;

void Channel::start(const std::shared_ptr<Request>& request) {
  if (closed_) return request->on_failed(cancelled());
  queue_.push_back(request);
  watch(*request);
  pump();
}

void Channel::forget(Request& request) {
  if (request.connection_ != nullptr) return request.connection_->give_up(request);
  std::erase_if(queue_, [&](const auto& waiting) { return waiting.get() == &request; });
}

void Channel::close() {
  if (closed_) return;
  closed_ = true;
  timer_.cancel();
  std::deque<std::shared_ptr<Request>> waiting;
  waiting.swap(queue_);
  std::vector<std::shared_ptr<Connection>> connections = std::move(leaving_);
  if (current_ != nullptr) connections.push_back(current_);
  for (const auto& connection : connections) connection->close(cancelled());
  for (const auto& request : waiting) request->on_failed(cancelled());
}

// ---------------------------------------------------------------------------------- Connections

void Channel::pump() {
  while (!queue_.empty() && !closed_) {
    if (current_ == nullptr) return connect();
    if (!current_->ready() || !current_->has_room()) return;
    const std::shared_ptr<Request> request = std::move(queue_.front());
    queue_.pop_front();
    if (const std::optional<Error> refused = current_->open(request)) request->on_failed(*refused);
  }
}

void Channel::connect() {
  const std::shared_ptr<Connection::Owner> owner(shared_from_this(), this);
  current_ = std::make_shared<Connection>(executor_, owner);
  current_was_ready_ = false;
  const std::string name =
      options_.name.empty() ? std::string("libcistern/" CISTERN_VERSION) : options_.name;
  // What fails at once is told before this returns and clears current_.
  const std::shared_ptr<Connection> connection = current_;
  connection->connect(endpoint_, name, options_.connect_timeout);
}

void Channel::on_ready(Connection& connection) {
  if (&connection != current_.get()) return;
  current_was_ready_ = true;
  pump();
}

void Channel::on_going_away(Connection& connection) {
  if (&connection != current_.get()) return;
  // Requests that are open there go on; it's closed when the last one has ended.
  leaving_.push_back(std::move(current_));
  current_ = nullptr;
  pump();
}

bool Channel::on_refused(const std::shared_ptr<Request>& request) {
  if (closed_ || request->repeated_ || !request->may_repeat(false)) return false;
  request->repeated_ = true;
  queue_.push_front(request);
  pump();
  return true;
}

void Channel::on_room(Connection& connection) {
  if (&connection != current_.get() && connection.idle()) {
    return connection.close({Status::kConnectionLost, "the daemon is going away"});
  }
  pump();
}

void Channel::on_lost(Connection& connection, const Error& error,
                      std::vector<std::shared_ptr<Request>> requests) {
  std::deque<std::shared_ptr<Request>> failed;
  if (&connection == current_.get()) {
    current_ = nullptr;
    // Nobody is waiting for anything but this connection; trying again is the callers' choice.
    if (!current_was_ready_) failed.swap(queue_);
  } else {
    std::erase_if(leaving_, [&](const auto& other) { return other.get() == &connection; });
  }
  std::deque<std::shared_ptr<Request>> again;
  for (auto& request : requests) {
    const bool left = connection.has_left(*request);
    if (error.status == Status::kConnectionLost && !request->repeated_ && !closed_ &&
        request->may_repeat(left)) {
      request->repeated_ = true;
      again.push_back(std::move(request));
    } else {
      request->on_failed(what_was_lost(error, *request, left));
    }
  }
  queue_.insert(queue_.begin(), again.begin(), again.end());
  for (const auto& request : failed) request->on_failed(error);
  pump();
}

// ------------------------------------------------------------------------------------- Deadlines

void Channel::watch(const Request& request) { arm(request.due()); }

void Channel::arm(TimePoint due) {
  // A timer that fires too early only looks around; so one that is armed for earlier stays as it
  // is, and a request that ends leaves it alone.
  if (due >= armed_ || closed_) return;
  armed_ = due;
  timer_.expires_at(due);
  timer_.async_wait([weak = weak_from_this()](const std::error_code& error) {
    if (error) return;
    if (const auto self = weak.lock()) self->on_timer();
  });
}

void Channel::on_timer() {
  if (closed_) return;
  armed_ = TimePoint::max();
  const TimePoint now = Clock::now();
  TimePoint next = TimePoint::max();
  std::vector<std::shared_ptr<Request>> overdue;
  for (const auto& request : queue_) {
    if (request->due() <= now) {
      overdue.push_back(request);
    } else {
      next = std::min(next, request->due());
    }
  }
  if (current_ != nullptr) current_->collect_overdue(now, overdue, next);
  for (const auto& connection : leaving_) connection->collect_overdue(now, overdue, next);
  for (const auto& request : overdue) {
    // The one before may have ended this one, too.
    if (request->due() <= now) expire(*request, now);
  }
  arm(next);
}

void Channel::expire(Request& request, TimePoint now) {
  Connection* const connection = request.connection_;
  // A peer that vanished without a word leaves a connection that looks alive: one that has been
  // silent for longer than a handshake may take is replaced.
  const bool silent = connection != nullptr &&
                      connection->last_input() + options_.connect_timeout < now &&
                      request.sent_at_ + options_.connect_timeout < now;
  const std::shared_ptr<Connection> keep =
      silent ? connection->shared_from_this() : std::shared_ptr<Connection>();
  const Error error = request.late(now);
  forget(request);
  request.on_failed(error);
  if (silent) keep->close({Status::kConnectionLost, "the daemon has been silent for too long"});
}

}  // namespace cistern::detail
