#include "server/service/flight.h"

#include <utility>

#include "server/base/check.h"
#include "server/service/edit.h"
#include "server/service/l1_only.h"
#include "server/service/room.h"
#include "server/service/values.h"

namespace cistern::service {

namespace {

// Since it was asked for: somebody may have come later than that.
bool has_expired(const base::ValueMeta& meta, const base::Loop& loop) {
  return meta.expires_at_ms != 0 && meta.expires_at_ms <= loop.unix_ms();
}

}  // namespace

std::optional<Reading> Flight::Passenger::reading_of(const base::ValueMeta& meta) const {
  if (if_changed_ == meta.version) return std::nullopt;
  const Result<std::optional<proto::Range>> cover = cover_of(range_, meta);
  if (!cover) return std::nullopt;
  Reading reading = make_reading(worker_, key_, meta, *cover);
  if (reading.first == reading.end) return std::nullopt;
  return reading;
}

Flight::Flight(Worker& worker, std::shared_ptr<const Key> key, WriteGate::MissToken token)
    : key_(std::move(key)),
      token_(std::move(token)),
      loop_(worker.loop),
      cache_(worker.cache),
      worker_(worker) {}

Flight::~Flight() { CHECK(passengers_.empty()); }

void Flight::begin() {
  work_ = worker_.begin_work(shared_from_this());
  if (!worker_.shared.l1_only->has(key_->text)) return ask();
  make_settling(worker_.shared_from_this(), *key_, [weak = weak_from_this()](Result<void> settled) {
    const auto self = weak.lock();
    if (!self || self->is_over()) return;
    if (settled) return self->ask();
    self->land_all({.error = std::move(settled.error())});
  })->begin();
}

bool Flight::is_over() {
  const std::lock_guard lock(mutex_);
  return state_ == State::kOver;
}

void Flight::ask() {
  asked_at_ = worker_.loop.now();
  worker_.store->get_manifest(
      key_->text, [weak = weak_from_this()](Result<std::optional<l2::Manifest>> manifest) {
        if (const auto self = weak.lock()) self->on_manifest(std::move(manifest));
      });
}

// ------------------------------------------------------------------------------------- Passengers

// Nobody who asks now may have it.
bool Flight::is_past(const base::Loop& loop) const {
  const Duration max_age = cache_.max_age();
  return has_expired(*meta_, loop) || (max_age > Duration{0} && loop.now() - asked_at_ >= max_age);
}

Flight::Boarding Flight::join(const std::shared_ptr<Passenger>& passenger) {
  const std::lock_guard lock(mutex_);
  if (state_ == State::kOver) return {};
  if (state_ == State::kFilling) {
    const std::shared_ptr<Fill> fill = fill_.lock();
    if (fill == nullptr || is_past(passenger->worker_->loop)) return {};
    Boarding boarding{Boarding::Kind::kLanded, {.meta = meta_}};
    std::optional<Reading> reading = passenger->reading_of(*meta_);
    if (!reading) return boarding;
    boarding.landing.source = follow(fill, *reading);
    if (boarding.landing.source == nullptr && reading->whole()) return {};
    boarding.landing.reading = std::move(reading);
    return boarding;
  }
  passenger->self_ = passenger;
  passenger->place_ = passengers_.insert(passengers_.end(), passenger.get());
  passenger->aboard_ = true;
  return {Boarding::Kind::kAboard, {}};
}

void Flight::leave(Passenger& passenger) {
  {
    const std::lock_guard lock(mutex_);
    if (!std::exchange(passenger.aboard_, false)) return;
    passengers_.erase(passenger.place_);
    if (!passengers_.empty()) return;
  }
  loop_.post([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->end_if_unused();
  });
}

std::vector<Flight::Landed> Flight::disembark(const Landing& landing,
                                              const std::shared_ptr<Fill>& fill) {
  std::vector<Landed> landed;
  for (Passenger* const passenger : passengers_) {
    passenger->aboard_ = false;
    Landed& each = landed.emplace_back();
    each.passenger = passenger->self_;
    each.loop = &passenger->worker_->loop;
    each.landing = {.error = landing.error, .manifest = landing.manifest, .meta = landing.meta};
    if (fill == nullptr) continue;
    each.landing.reading = passenger->reading_of(*landing.meta);
    if (each.landing.reading) each.landing.source = follow(fill, *each.landing.reading);
  }
  passengers_.clear();
  return landed;
}

void Flight::deliver(std::vector<Landed> landed) {
  for (Landed& each : landed) {
    if (each.loop == &loop_) {
      if (const auto passenger = each.passenger.lock()) passenger->land(std::move(each.landing));
      continue;
    }
    // std::function wants to be able to copy what it holds.
    each.loop->post([weak = std::move(each.passenger),
                     landing = std::make_shared<Landing>(std::move(each.landing))] {
      if (const auto passenger = weak.lock()) passenger->land(std::move(*landing));
    });
  }
}

// ---------------------------------------------------------------------------------------- Its way

void Flight::on_manifest(Result<std::optional<l2::Manifest>> manifest) {
  {
    const std::lock_guard lock(mutex_);
    if (state_ != State::kAsking) return;
  }
  if (!manifest) return land_all({.error = std::move(manifest.error())});
  if (!manifest->has_value()) {
    worker_.gate.remember_absent(token_, worker_.loop.now());
    return land_all({.error = Error{Status::kNotFound, {}}});
  }
  if (has_expired((*manifest)->meta, loop_))
    return land_all({.error = Error{Status::kNotFound, {}}});
  if ((*manifest)->meta.size <= l2::kInlineBytes) return on_inline(std::move(**manifest));
  on_chunked((*manifest)->meta);
}

void Flight::on_inline(l2::Manifest manifest) {
  worker_.gate.publish_if_allowed(token_, [&] {
    insert_bytes(worker_, key_->bytes(), key_->hash, manifest.meta, manifest.inline_bytes,
                 manifest.inline_digest, {}, l1::Source::kFill, asked_at_);
  });
  const auto shared = std::make_shared<const l2::Manifest>(std::move(manifest));
  land_all({.manifest = shared});
}

void Flight::on_chunked(const base::ValueMeta& meta) {
  worker_.renew_idle(*key_, meta, [self = shared_from_this()] {
    return self->worker_.gate.may_publish(self->token_);
  });
  bool wanted = false;
  {
    const std::lock_guard lock(mutex_);
    meta_ = std::make_shared<const base::ValueMeta>(meta);
    for (const Passenger* const passenger : passengers_) {
      const std::optional<Reading> reading = passenger->reading_of(meta);
      wanted = wanted || (reading && reading->whole());
    }
    if (wanted) state_ = State::kOpening;
  }
  if (!wanted) return land_all({.meta = meta_});
  const std::uint64_t cost =
      base::ChunkedValue::cost_for(meta.size, meta.chunk_bytes, meta.metadata.size()) +
      worker_.cache.entry_overhead(key_->text.size());
  make_room(worker_.shared_from_this(), *key_, cost, weak_from_this(),
            [this](l1::Room room) { open(std::move(room)); });
}

void Flight::open(l1::Room room) {
  const auto self = shared_from_this();
  bool expired = false;
  std::shared_ptr<Fill> fill;
  std::vector<Landed> landed;
  {
    const std::lock_guard lock(mutex_);
    if (state_ != State::kOpening) return;
    expired = has_expired(*meta_, loop_);
  }
  if (expired) return land_all({.error = Error{Status::kNotFound, {}}});
  {
    const std::lock_guard lock(mutex_);
    std::optional<Fill::Kept> kept;
    if (room) kept = Fill::Kept{std::move(room), asked_at_};
    fill = std::make_shared<Fill>(worker_, key_, meta_, self, std::move(kept), 0);
    landed = disembark({.meta = meta_}, fill);
    fill_ = fill;
    state_ = State::kFilling;
  }
  if (!fill->keeps()) worker_.shared.passing->add(fill);
  fill->begin();
  worker_.end_work(work_);
  deliver(std::move(landed));
}

void Flight::land_all(const Landing& landing) {
  const auto self = shared_from_this();
  std::vector<Landed> landed;
  {
    const std::lock_guard lock(mutex_);
    state_ = State::kOver;
    landed = disembark(landing, nullptr);
  }
  worker_.end_work(work_);
  deliver(std::move(landed));
}

void Flight::end_if_unused() {
  const auto self = shared_from_this();
  {
    const std::lock_guard lock(mutex_);
    if (!passengers_.empty() || (state_ != State::kAsking && state_ != State::kOpening)) return;
    state_ = State::kOver;
  }
  worker_.end_work(work_);
}

}  // namespace cistern::service
