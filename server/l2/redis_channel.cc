#include "server/l2/redis_channel.h"

#include <charconv>
#include <chrono>
#include <utility>

#include <fmt/format.h>

#include "server/base/log.h"
#include "server/base/rng.h"
#include "server/l2/redis_control.h"

namespace cistern::l2 {
namespace {

constexpr char kChannel[] = "__redis__:invalidate";
// A heartbeat's key is of no use once its message has come.
constexpr base::Duration kLeastBeatTtl = std::chrono::seconds(2);

std::string ms_text(base::Duration time) {
  return std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(time).count());
}

base::log::Limit log_limit(2);

}  // namespace

RedisChannel::RedisChannel(std::shared_ptr<const RedisOptions> options, Invalidations& to,
                           asio::io_context& io, base::Loop& loop, base::WorkerMetrics& metrics)
    : options_(std::move(options)),
      to_(to),
      io_(io),
      loop_(loop),
      metrics_(metrics),
      manifests_(options_->key_prefix + "m:"),
      beats_(fmt::format("{}t:{:016x}:", options_->key_prefix, base::random_seed())) {}

void RedisChannel::start() { attempt(); }

// -- the way up ----------------------------------------------------------------------------------

void RedisChannel::attempt() {
  if (is_closing_) return;
  const std::uint64_t attempt = ++attempt_;
  step_ = "connecting";
  watch(options_->connect_timeout + options_->op_timeout, "no answer in time");
  resolve(io_, options_->url,
          [weak = weak_from_this(), attempt](base::Result<std::vector<RedisAddress>> found) {
            const auto self = weak.lock();
            if (!self || attempt != self->attempt_) return;
            if (!found) return self->lost(found.error().message);
            // A name's addresses take turns.
            self->open_subscriber((*found)[attempt % found->size()]);
          });
}

std::shared_ptr<RedisLink> RedisChannel::open(const RedisAddress& address,
                                              std::function<void()> connected) {
  RedisLink::Events events;
  events.connected = [weak = weak_from_this(), attempt = attempt_,
                      connected = std::move(connected)] {
    const auto self = weak.lock();
    if (self && attempt == self->attempt_) connected();
  };
  events.closed = [self = shared_from_this(), attempt = attempt_](const std::string& why) {
    --self->open_links_;
    if (attempt == self->attempt_) self->lost(why);
    if (self->is_closing_) self->finish_close();
  };
  ++open_links_;
  return RedisLink::open(io_, address, options_->url, std::move(events));
}

void RedisChannel::demand(RedisLink& link, RedisLink::Args command,
                          std::function<void(const redisReply&)> then) {
  std::string what = command[0] == "CLIENT" ? "CLIENT " + command[1] : command[0];
  link.send(command, [weak = weak_from_this(), attempt = attempt_, what = std::move(what),
                      then = std::move(then)](const redisReply* reply) {
    const auto self = weak.lock();
    if (!self || attempt != self->attempt_ || reply == nullptr) return;
    if (const auto error = reply_error(*reply)) {
      self->step_ = what;
      return self->lost(error->message);
    }
    if (then) then(*reply);
  });
}

void RedisChannel::log_in(RedisLink& link) {
  const RedisUrl& url = options_->url;
  if (url.password.empty()) return;
  RedisLink::Args login = {"AUTH"};
  if (!url.user.empty()) login.push_back(url.user);
  login.push_back(url.password);
  demand(link, std::move(login), nullptr);
}

void RedisChannel::open_subscriber(const RedisAddress& address) {
  address_ = address;
  subscriber_ = open(address, [this] {
    log_in(*subscriber_);
    demand(*subscriber_, {"CLIENT", "ID"}, [this](const redisReply& reply) {
      subscriber_id_ = reply.integer;
      subscribe();
    });
  });
}

void RedisChannel::subscribe() {
  step_ = "SUBSCRIBE";
  const bool sent = subscriber_->subscribe(
      kChannel, [weak = weak_from_this(), attempt = attempt_](const redisReply& reply) {
        const auto self = weak.lock();
        if (self && attempt == self->attempt_) self->on_message(reply);
      });
  if (!sent) lost("the connection has ended");
}

void RedisChannel::open_tracker(const RedisAddress& address) {
  step_ = "connecting";
  tracker_ = open(address, [this] { track(); });
}

void RedisChannel::track() {
  step_ = "CLIENT TRACKING";
  log_in(*tracker_);
  if (options_->url.db != 0) {
    demand(*tracker_, {"SELECT", std::to_string(options_->url.db)}, nullptr);
  }
  demand(*tracker_,
         {"CLIENT", "TRACKING", "ON", "REDIRECT", std::to_string(subscriber_id_), "BCAST", "PREFIX",
          manifests_, "PREFIX", beats_},
         [this](const redisReply&) {
           step_ = "heartbeat";
           beat();
         });
}

// -- heartbeats ----------------------------------------------------------------------------------

void RedisChannel::beat() {
  is_beat_out_ = true;
  beat_sent_at_ = loop_.now();
  watch(options_->op_timeout, "no heartbeat came through within l2.redis.op_timeout");
  const base::Duration ttl = std::max(kLeastBeatTtl, 4 * options_->heartbeat);
  demand(*tracker_, {"SET", beats_ + std::to_string(++beat_), "", "PX", ms_text(ttl)}, nullptr);
}

void RedisChannel::beat_came(TimePoint now) {
  is_beat_out_ = false;
  loop_.cancel(std::exchange(patience_, base::Loop::TimerId::kNone));
  to_.complete_until(beat_sent_at_, !is_up_);
  if (!std::exchange(is_up_, true)) {
    up_since_ = now;
    metrics_.l2_channel_up.add(1);
    base::log::info("invalidations from Redis arrive", {{"endpoint", display(options_->url)}});
  }
  if (now - up_since_ >= kStableAfter) backoff_.reset();
  const base::Duration wait = beat_sent_at_ + options_->heartbeat - now;
  timer_ =
      loop_.after(std::max(base::Duration{0}, wait), [weak = weak_from_this(), attempt = attempt_] {
        const auto self = weak.lock();
        if (self && attempt == self->attempt_) self->beat();
      });
}

// -- messages ------------------------------------------------------------------------------------

void RedisChannel::on_message(const redisReply& reply) {
  // The clock itself, not the loop's: what is read from Redis from now on, and not from the
  // beginning of this turn, knows of what this message tells.
  const TimePoint now = std::chrono::steady_clock::now();
  if (reply.type != REDIS_REPLY_ARRAY || reply.elements != 3) return;
  const std::string_view kind = reply_text(*reply.element[0]);
  if (kind == "subscribe") return open_tracker(*address_);
  if (kind != "message") return;
  const redisReply& names = *reply.element[2];
  if (names.type == REDIS_REPLY_NIL) {
    metrics_.l2_invalidations.add();
    return to_.all_arrived(now);
  }
  if (names.type != REDIS_REPLY_ARRAY) return;
  for (std::size_t i = 0; i < names.elements; ++i) {
    invalidated(reply_text(*names.element[i]), now);
  }
}

void RedisChannel::invalidated(std::string_view name, TimePoint now) {
  if (name.starts_with(manifests_)) {
    metrics_.l2_invalidations.add();
    return to_.arrived(name.substr(manifests_.size()), now);
  }
  if (!name.starts_with(beats_) || !is_beat_out_) return;
  name.remove_prefix(beats_.size());
  std::uint64_t number = 0;
  const auto parsed = std::from_chars(name.data(), name.data() + name.size(), number);
  // Older ones come again when they expire.
  if (parsed.ec == std::errc() && number == beat_) beat_came(now);
}

// -- the way down --------------------------------------------------------------------------------

void RedisChannel::watch(base::Duration patience, const char* what) {
  loop_.cancel(patience_);
  patience_ = loop_.after(patience, [weak = weak_from_this(), attempt = attempt_, what] {
    const auto self = weak.lock();
    if (!self || attempt != self->attempt_) return;
    self->patience_ = base::Loop::TimerId::kNone;
    self->lost(what);
  });
}

void RedisChannel::lost(const std::string& why) {
  ++attempt_;
  loop_.cancel(std::exchange(patience_, base::Loop::TimerId::kNone));
  loop_.cancel(std::exchange(timer_, base::Loop::TimerId::kNone));
  for (const auto& link : {std::exchange(subscriber_, nullptr), std::exchange(tracker_, nullptr)}) {
    if (link != nullptr) link->cut();
  }
  is_beat_out_ = false;
  if (is_closing_) return;
  if (std::exchange(is_up_, false)) {
    metrics_.l2_channel_up.add(-1);
    metrics_.l2_channel_losses.add();
  }
  const bool forbidden = why.find("NOPERM") != std::string::npos;
  base::log::event(
      log_limit, forbidden ? base::log::Level::kError : base::log::Level::kWarn,
      "no invalidations from Redis",
      {{"endpoint", display(options_->url)},
       {"step", step_},
       {"why", why},
       {"text", forbidden
                    ? "until this is mended, what memory holds is proven by a read every "
                      "l1.max_staleness: grant the user in l2.redis.url the commands CLIENT|ID, "
                      "CLIENT|TRACKING, SUBSCRIBE and SET, the keys of l2.redis.key_prefix and the "
                      "channel &__redis__:invalidate, or set l2.redis.invalidation to none"
                    : "until they arrive again, what memory holds is proven by a read every "
                      "l1.max_staleness"}});
  timer_ = loop_.after(backoff_.next(), [weak = weak_from_this(), attempt = attempt_] {
    const auto self = weak.lock();
    if (self && attempt == self->attempt_) self->attempt();
  });
}

void RedisChannel::close(std::function<void()> closed) {
  closed_ = std::move(closed);
  is_closing_ = true;
  if (std::exchange(is_up_, false)) metrics_.l2_channel_up.add(-1);
  lost("closed");
  finish_close();
}

void RedisChannel::finish_close() {
  if (open_links_ == 0 && closed_) loop_.post(std::exchange(closed_, nullptr));
}

}  // namespace cistern::l2
