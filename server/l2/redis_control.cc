#include "server/l2/redis_control.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include <asio/post.hpp>
#include <fmt/format.h>

#include "server/base/check.h"
#include "server/base/log.h"
#include "server/l2/redis_protocol.h"

namespace cistern::l2 {
namespace {

using base::Status;

// Commands that hiredis may hold for a Redis that doesn't take them.
constexpr std::size_t kMaxInFlightBytes = 16 * proto::kMiB;
constexpr int kOldestMajorVersion = 7;  // PEXPIRE with GT, and SET with PXAT

std::optional<std::uint64_t> time_us(const redisReply& reply) {
  if (reply.type != REDIS_REPLY_ARRAY || reply.elements != 2) return std::nullopt;
  std::uint64_t parts[2] = {};
  for (std::size_t i = 0; i < 2; ++i) {
    const std::string_view text = reply_text(*reply.element[i]);
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), parts[i]);
    if (parsed.ec != std::errc() || parts[i] > std::uint64_t{1} << 42) return std::nullopt;
  }
  return parts[0] * 1'000'000 + parts[1];
}

}  // namespace

std::optional<base::Error> reply_error(const redisReply& reply) {
  if (reply.type != REDIS_REPLY_ERROR) return std::nullopt;
  return redis_error({reply.str, reply.len});
}

std::string_view reply_text(const redisReply& reply) {
  if (reply.type != REDIS_REPLY_STRING && reply.type != REDIS_REPLY_STATUS) return {};
  return {reply.str, reply.len};
}

RedisControl::RedisControl(std::shared_ptr<const RedisOptions> options,
                           std::shared_ptr<Breaker> breaker, std::string script,
                           asio::io_context& io, base::Loop& loop, base::WorkerMetrics& metrics)
    : options_(std::move(options)),
      breaker_(std::move(breaker)),
      script_(std::move(script)),
      io_(io),
      loop_(loop),
      metrics_(metrics) {}

RedisControl::~RedisControl() { DCHECK(in_flight_.empty() && waiting_.empty()); }

base::Error RedisControl::describe(Status status, std::string_view what) const {
  return {status, fmt::format("Redis at {}: {}", display(options_->url), what)};
}

void RedisControl::start() {
  if (state_ == State::kNew) attempt();
}

base::Result<void> RedisControl::usable() const {
  if (state_ == State::kClosing || state_ == State::kClosed) {
    return base::fail(Status::kShuttingDown, "the second tier is being closed");
  }
  const bool is_up = state_ == State::kReady;
  if (auto allowed = breaker_->allows(loop_.now(), is_up); !allowed) return allowed;
  if (is_up || waiting_allowed_) return {};
  return tl::unexpected(last_error_);
}

// -- the way up ----------------------------------------------------------------------------------

void RedisControl::attempt() {
  state_ = State::kConnecting;
  cut_reason_.reset();
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
            if (attempt != self->attempt_) return;
            if (!found) return self->went_down(found.error());
            self->connect_to(std::move(*found), 0);
          });
}

void RedisControl::connect_to(std::vector<RedisAddress> addresses, std::size_t index) {
  const RedisAddress address = addresses[index];
  const std::uint64_t attempt = attempt_;
  RedisLink::Events events;
  events.connected = [self = shared_from_this(), attempt] {
    if (attempt == self->attempt_) self->handshake();
  };
  events.closed = [self = shared_from_this(), attempt, index,
                   addresses = std::move(addresses)](std::string why) mutable {
    if (attempt != self->attempt_) return;
    const bool is_next_tried =
        self->state_ == State::kConnecting && !self->cut_reason_ && index + 1 < addresses.size();
    if (is_next_tried) return self->connect_to(std::move(addresses), index + 1);
    self->link_closed(why);
  };
  link_ = RedisLink::open(io_, address, options_->url, std::move(events));
}

std::vector<RedisControl::Args> RedisControl::handshake_commands() const {
  const RedisUrl& url = options_->url;
  std::vector<Args> commands;
  if (!url.password.empty()) {
    Args login = {"AUTH"};
    if (!url.user.empty()) login.push_back(url.user);
    login.push_back(url.password);
    commands.push_back(std::move(login));
  }
  if (url.db != 0) commands.push_back({"SELECT", std::to_string(url.db)});
  commands.push_back({"INFO", "server"});
  commands.push_back({"SCRIPT", "LOAD", script_});
  commands.push_back({"TIME"});
  return commands;
}

void RedisControl::handshake() {
  state_ = State::kHandshake;
  handshake_error_.reset();
  handshake_sent_ = loop_.now();
  const std::vector<Args> commands = handshake_commands();
  for (std::size_t i = 0; i < commands.size(); ++i) {
    const bool is_last = i + 1 == commands.size();
    link_->send(commands[i], [self = shared_from_this(), attempt = attempt_,
                              command = commands[i].front(), is_last](const redisReply* reply) {
      if (attempt != self->attempt_ || reply == nullptr) return;
      self->handshake_reply(command, *reply);
      if (!is_last) return;
      if (self->handshake_error_) return self->cut(*self->handshake_error_);
      self->ready();
    });
  }
}

void RedisControl::handshake_reply(const std::string& command, const redisReply& reply) {
  if (handshake_error_) return;
  if (const auto error = reply_error(reply)) {
    handshake_error_ = describe(error->status, fmt::format("{}: {}", command, error->message));
  } else if (command == "INFO") {
    check_version(reply_text(reply));
  } else if (command == "SCRIPT") {
    script_sha_ = reply_text(reply);
  } else if (command == "TIME") {
    const auto now_us = time_us(reply);
    if (now_us) {
      clock_.forget();
      clock_.measured(handshake_sent_, loop_.now(), *now_us);
    } else {
      handshake_error_ = describe(Status::kL2Error, "TIME: an answer that cannot be understood");
    }
  }
}

void RedisControl::check_version(std::string_view info) {
  constexpr std::string_view kField = "redis_version:";
  const std::size_t at = info.find(kField);
  const std::string_view text = at == std::string_view::npos ? "" : info.substr(at + kField.size());
  int major = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), major);
  if (parsed.ec == std::errc() && major >= kOldestMajorVersion) return;
  const std::string_view version = text.substr(0, text.find('\r'));
  handshake_error_ =
      describe(Status::kL2Unavailable,
               fmt::format("it has version {}; Cistern needs Redis {}.0 or later",
                           version.empty() ? "unknown" : version, kOldestMajorVersion));
}

void RedisControl::ready() {
  loop_.cancel(std::exchange(attempt_timer_, base::Loop::TimerId::kNone));
  state_ = State::kReady;
  waiting_allowed_ = true;
  if (probe_) {
    probe_.succeeded(loop_.now());
  } else {
    breaker_->connected(loop_.now());
  }
  ready_since_ = loop_.now();
  if (std::exchange(was_ready_, true)) metrics_.l2_reconnects.add();
  base::log::info("connected to Redis",
                  {{"endpoint", display(options_->url)}, {"for", "commands"}});
  for (Exchange& exchange : std::exchange(waiting_, {})) send(std::move(exchange));
}

// -- the way down --------------------------------------------------------------------------------

void RedisControl::cut(const base::Error& why) {
  if (!cut_reason_) cut_reason_ = why;
  if (link_) {
    link_->cut();  // link_closed() follows
  } else {
    went_down(why);
  }
}

void RedisControl::link_closed(const std::string& why) {
  link_.reset();
  went_down(cut_reason_.value_or(describe(Status::kL2Unavailable, why)));
}

void RedisControl::went_down(const base::Error& why) {
  DCHECK(in_flight_.empty());
  ++attempt_;
  loop_.cancel(std::exchange(attempt_timer_, base::Loop::TimerId::kNone));
  loop_.cancel(std::exchange(deadline_timer_, base::Loop::TimerId::kNone));
  if (state_ == State::kClosing) return finish_close();
  const bool was_up = state_ == State::kReady;
  last_error_ = {Status::kL2Unavailable, why.message};
  static base::log::Limit limit(5);
  base::log::warn(
      limit, was_up ? "lost the connection to Redis" : "cannot connect to Redis",
      {{"endpoint", display(options_->url)}, {"for", "commands"}, {"why", why.message}});
  tell_breaker(why, was_up);
  const bool was_stable = was_up && loop_.now() - ready_since_ >= kStableAfter;
  if (was_stable) backoff_.reset();
  waiting_allowed_ = was_stable;
  state_ = State::kBackoff;
  for (Exchange& exchange : std::exchange(waiting_, {})) exchange.on_end({why, false, {}});
  schedule_attempt();
}

void RedisControl::tell_breaker(const base::Error& why, bool was_up) {
  if (probe_) {
    probe_.failed(loop_.now(), why.message);
  } else if (!was_up) {
    breaker_->connect_failed(loop_.now(), why.message);
  } else if (why.status == Status::kL2Timeout) {
    breaker_->timed_out(loop_.now(), why.message);
  }
}

void RedisControl::schedule_attempt() {
  if (state_ != State::kBackoff) return;  // what was just told of the loss has closed us
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

void RedisControl::close(std::function<void()> closed) {
  closed_ = std::move(closed);
  const bool has_link = link_ != nullptr;
  state_ = State::kClosing;
  turn_.reset();
  probe_.give_back();
  loop_.cancel(std::exchange(attempt_timer_, base::Loop::TimerId::kNone));
  const base::Error why{Status::kShuttingDown, "the second tier is being closed"};
  for (Exchange& exchange : std::exchange(waiting_, {})) exchange.on_end({why, false, {}});
  if (!in_flight_.empty()) return;  // answered() goes on
  if (has_link) {
    cut(why);
  } else {
    ++attempt_;
    finish_close();
  }
}

void RedisControl::finish_close() {
  state_ = State::kClosed;
  loop_.cancel(std::exchange(deadline_timer_, base::Loop::TimerId::kNone));
  if (closed_) loop_.post(std::exchange(closed_, nullptr));
}

// -- exchanges -----------------------------------------------------------------------------------

void RedisControl::submit(Exchange exchange) {
  if (const auto ok = usable(); !ok) return exchange.on_end({ok.error(), false, {}});
  if (waiting_.size() + in_flight_.size() >= options_->max_queued ||
      in_flight_bytes_ > kMaxInFlightBytes) {
    const base::Error busy = describe(
        Status::kL2Busy,
        fmt::format("{} operations wait for it already", waiting_.size() + in_flight_.size()));
    return exchange.on_end({busy, false, {}});
  }
  // A link that is being cut still counts as ready until it has told so.
  if (state_ == State::kReady && !cut_reason_) {
    send(std::move(exchange));
  } else if (waiting_allowed_ && state_ != State::kReady) {
    waiting_.push_back(std::move(exchange));
  } else {
    exchange.on_end({describe(Status::kL2Unavailable, "the connection is being cut"), false, {}});
  }
}

void RedisControl::send(Exchange exchange) {
  auto pending = std::make_shared<Pending>();
  pending->deadline = loop_.now() + options_->op_timeout;
  const std::vector<Args> commands = exchange.commands(pending->deadline);
  pending->exchange = std::move(exchange);
  for (const Args& command : commands) {
    for (const std::string& arg : command) pending->bytes += arg.size();
  }
  std::size_t index = 0;
  for (const Args& command : commands) {
    const bool is_taken = link_ && link_->send(command, [self = shared_from_this(), pending,
                                                         index](const redisReply* reply) {
      self->answered(pending, index, reply);
    });
    if (!is_taken) break;
    ++index;
  }
  if (index == 0) {
    const Outcome outcome{describe(Status::kL2Unavailable, "the connection has ended"), false, {}};
    return pending->exchange.on_end(outcome);
  }
  pending->unanswered = index;  // all of them: a link that took one takes the next
  in_flight_bytes_ += pending->bytes;
  in_flight_.push_back(std::move(pending));
  watch_deadline();
}

void RedisControl::answered(const PendingPtr& pending, std::size_t index, const redisReply* reply) {
  if (reply != nullptr) {
    breaker_->answered();
    const auto error = reply_error(*reply);
    pending->exchange.on_reply(index, *reply);
    // A replica, a Redis that is loading, a login that was revoked: true of all that follows, and a
    // new connection may find another Redis behind the name.
    if (error && error->status == Status::kL2Unavailable)
      cut(describe(error->status, error->message));
  }
  if (--pending->unanswered > 0) return;
  DCHECK(!in_flight_.empty() && in_flight_.front() == pending);
  in_flight_.pop_front();
  in_flight_bytes_ -= pending->bytes;
  Outcome outcome{std::nullopt, true, pending->deadline};
  if (reply == nullptr) {
    outcome.error = cut_reason_.value_or(
        describe(Status::kL2Unavailable, "the connection was lost before the answer"));
  }
  const auto self = shared_from_this();
  pending->exchange.on_end(outcome);
  if (state_ == State::kClosing && in_flight_.empty() && !cut_reason_) {
    cut({Status::kShuttingDown, "the second tier is being closed"});
  }
}

void RedisControl::watch_deadline() {
  if (deadline_timer_ != base::Loop::TimerId::kNone || in_flight_.empty()) return;
  const auto weak = weak_from_this();
  const base::Duration left = in_flight_.front()->deadline - loop_.now();
  deadline_timer_ = loop_.after(std::max(base::Duration::zero(), left), [weak] {
    const auto self = weak.lock();
    if (!self) return;
    self->deadline_timer_ = base::Loop::TimerId::kNone;
    if (self->in_flight_.empty()) return;
    if (self->in_flight_.front()->deadline > self->loop_.now()) return self->watch_deadline();
    self->cut(self->describe(Status::kL2Timeout, "no answer within l2.redis.op_timeout"));
  });
}

void RedisControl::measure_clock(std::function<void()> done) {
  auto asked = std::make_shared<base::TimePoint>();
  Exchange exchange;
  exchange.commands = [this, asked](base::TimePoint) {
    *asked = loop_.now();
    return std::vector<Args>{{"TIME"}};
  };
  exchange.on_reply = [this, asked](std::size_t, const redisReply& reply) {
    if (const auto now_us = time_us(reply)) clock_.measured(*asked, loop_.now(), *now_us);
  };
  exchange.on_end = [done = std::move(done)](const Outcome&) {
    if (done) done();
  };
  submit(std::move(exchange));
}

}  // namespace cistern::l2
