#include "server/service/proof.h"

#include <utility>
#include <vector>

#include <fmt/format.h>

#include "server/base/check.h"

namespace cistern::service {
namespace {

std::int64_t in_ms(Duration time) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(time).count();
}

Error too_late(Duration patience) {
  return {Status::kL2Timeout,
          fmt::format("the second tier did not answer within {} ms (l2.revalidate_timeout)",
                      in_ms(patience))};
}

}  // namespace

// As the gate's: the list holds plain pointers that leave by themselves, what is posted a weak
// reference.
class Proofs::Waiter : public std::enable_shared_from_this<Waiter> {
 public:
  Waiter(std::shared_ptr<Worker> worker, Done done)
      : worker_(std::move(worker)), done_(std::move(done)) {}
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;
  ~Waiter();

  void wait_for(Duration patience);
  void end(std::optional<Error> why_not) {
    worker_->loop.cancel(std::exchange(timer_, base::Loop::TimerId::kNone));
    if (const Done done = std::exchange(done_, nullptr)) done(std::move(why_not));
  }

 private:
  friend class Proofs;
  friend class service::Proof;
  const std::shared_ptr<Worker> worker_;
  Done done_;
  base::Loop::TimerId timer_ = base::Loop::TimerId::kNone;
  std::shared_ptr<Proof> proof_;
  std::list<Waiter*>::iterator place_;
  bool aboard_ = false;  // with the proof's lock
};

class Proof : public std::enable_shared_from_this<Proof> {
 public:
  Proof(Proofs& all, Worker& worker, const Key& key, base::Version version)
      : all_(all),
        key_(key),
        version_(version),
        asked_at_(worker.loop.now()),
        token_(worker.gate.watch(key.bytes(), key.hash)),
        worker_(worker) {}
  ~Proof() {
    CHECK(waiters_.empty());
    all_.over(*this);
    if (ahead_) all_.ahead_.fetch_sub(1, std::memory_order_relaxed);
  }
  Proof(const Proof&) = delete;
  Proof& operator=(const Proof&) = delete;

  // The loop of the worker that made it, once.
  void begin(bool ahead);
  // Any thread.
  bool is_of(const Key& key, base::Version version) const {
    return version_ == version && key_.text == key.text;
  }
  const Key& key() const { return key_; }
  base::TimePoint asked_at() const { return asked_at_; }
  bool join(Proofs::Waiter& waiter);
  void leave(Proofs::Waiter& waiter);

 private:
  void answered(const Result<std::optional<l2::Stamp>>& stamp);
  void apply(const std::optional<l2::Stamp>& stamp);
  bool set_expiry(const l2::Stamp& stamp);
  void tell(const std::optional<Error>& why_not);

  Proofs& all_;
  const Key key_;
  const base::Version version_;  // what L1 has
  const base::TimePoint asked_at_;
  WriteGate::MissToken token_;
  std::mutex mutex_;
  std::list<Proofs::Waiter*> waiters_;
  bool over_ = false;

  Worker& worker_;  // its loop alone, as all below
  bool ahead_ = false;
  Worker::Work work_{};
};

// ----------------------------------------------------------------------------------------- Waiters

Proofs::Waiter::~Waiter() {
  if (proof_ != nullptr) proof_->leave(*this);
  worker_->loop.cancel(timer_);
}

void Proofs::Waiter::wait_for(Duration patience) {
  timer_ = worker_->loop.after(patience, [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (!self) return;
    self->timer_ = base::Loop::TimerId::kNone;
    self->proof_->leave(*self);
    self->end(too_late(self->worker_->shared.freshness.options().revalidate_timeout));
  });
}

bool Proof::join(Proofs::Waiter& waiter) {
  const std::lock_guard lock(mutex_);
  if (over_) return false;
  waiter.place_ = waiters_.insert(waiters_.end(), &waiter);
  waiter.aboard_ = true;
  waiter.proof_ = shared_from_this();
  return true;
}

void Proof::leave(Proofs::Waiter& waiter) {
  const std::lock_guard lock(mutex_);
  if (std::exchange(waiter.aboard_, false)) waiters_.erase(waiter.place_);
}

// ------------------------------------------------------------------------------------ The question

void Proof::begin(bool ahead) {
  ahead_ = ahead;
  work_ = worker_.begin_work(shared_from_this());
  worker_.store->get_stamp(
      key_.text, [weak = weak_from_this()](const Result<std::optional<l2::Stamp>>& stamp) {
        if (const auto self = weak.lock()) self->answered(stamp);
      });
}

void Proof::answered(const Result<std::optional<l2::Stamp>>& stamp) {
  const auto self = shared_from_this();
  std::optional<Error> why_not;
  if (stamp) {
    apply(*stamp);
  } else if (stamp.error().status == Status::kValueLost) {
    apply(std::nullopt);  // what lies there is no manifest: the miss that follows says so
  } else {
    worker_.metrics.proofs_failed.add();
    why_not = stamp.error();
  }
  token_.release();
  all_.over(*this);
  tell(why_not);
  worker_.end_work(work_);
}

void Proof::apply(const std::optional<l2::Stamp>& stamp) {
  const bool same = stamp && stamp->version == version_;
  if (same && (worker_.cache.set_proven(key_.bytes(), key_.hash, version_, stamp->expires_at_ms,
                                        asked_at_, worker_.loop.now()) ||
               set_expiry(*stamp))) {
    worker_.metrics.proofs_current.add();
    return;
  }
  worker_.metrics.proofs_changed.add();
  worker_.gate.change(key_.bytes(), key_.hash, [this] {
    worker_.cache.erase(key_.bytes(), key_.hash, {base::Condition::Kind::kIfVersion, version_},
                        l1::Removal::kInvalidated, worker_.loop.now());
  });
}

// Another daemon has touched it. False when it has to go: a write through this daemon may have set
// a later expiry than the one that was read; or it has none any more, and must leave L1 in time for
// a read to renew it in L2 (Worker::stay).
bool Proof::set_expiry(const l2::Stamp& stamp) {
  if (stamp.expires_at_ms == 0) return false;
  bool set = false;
  worker_.gate.publish_if_allowed(token_, [&] {
    const base::TimePoint now = worker_.loop.now();
    set = worker_.cache.set_expiry(key_.bytes(), key_.hash, version_, stamp.expires_at_ms, now,
                                   worker_.loop.unix_ms()) &&
          worker_.cache.set_proven(key_.bytes(), key_.hash, version_, stamp.expires_at_ms,
                                   asked_at_, now);
  });
  return set;
}

void Proof::tell(const std::optional<Error>& why_not) {
  struct Told {
    std::weak_ptr<Proofs::Waiter> waiter;
    base::Loop* loop;
  };
  std::vector<Told> told;
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
    for (Proofs::Waiter* const waiter : waiters_) {
      waiter->aboard_ = false;
      told.push_back({waiter->weak_from_this(), &waiter->worker_->loop});
    }
    waiters_.clear();
  }
  for (Told& each : told) {
    if (each.loop == &worker_.loop) {
      if (const auto waiter = each.waiter.lock()) waiter->end(why_not);
      continue;
    }
    each.loop->post([weak = std::move(each.waiter), why_not] {
      if (const auto waiter = weak.lock()) waiter->end(why_not);
    });
  }
}

// ------------------------------------------------------------------------------------------ Proofs

Proofs::Proofs() = default;
Proofs::~Proofs() = default;

std::size_t Proofs::size() const {
  std::size_t size = 0;
  for (const Shard& shard : shards_) {
    const std::lock_guard lock(shard.mutex);
    size += shard.places.size();
  }
  return size;
}

void Proofs::over(const Proof& proof) {
  Shard& shard = shard_of(proof.key().hash);
  const std::lock_guard lock(shard.mutex);
  const auto found = shard.places.find(proof.key().hash);
  if (found != shard.places.end() && found->second.proof == &proof) shard.places.erase(found);
}

std::shared_ptr<Proof> Proofs::join_or_make(const std::shared_ptr<Worker>& worker, const Key& key,
                                            base::Version version, bool& is_new) {
  std::shared_ptr<Proof> proof;  // let go of after the lock, which its end takes
  Shard& shard = shard_of(key.hash);
  const std::lock_guard lock(shard.mutex);
  Shard::Place& place = shard.places[key.hash];
  proof = place.owner.lock();
  // One that was asked before something happened proves nothing to who comes after it.
  is_new =
      proof == nullptr || !proof->is_of(key, version) ||
      worker->shared.freshness.judge(key.bytes(), key.hash, proof->asked_at(), worker->loop.now())
          .marked;
  if (!is_new) return proof;
  const auto made = std::make_shared<Proof>(*this, *worker, key, version);
  place = {made.get(), made};
  return made;
}

Result<std::shared_ptr<Proofs::Waiter>> Proofs::ask(const std::shared_ptr<Worker>& worker,
                                                    const Key& key, base::Version version,
                                                    Duration patience, Done done) {
  if (const Result<void> available = worker->store->available(); !available) {
    return tl::unexpected(available.error());
  }
  for (;;) {
    bool is_new = false;
    const std::shared_ptr<Proof> proof = join_or_make(worker, key, version, is_new);
    const Duration longest = worker->shared.freshness.options().revalidate_timeout;
    if (!is_new && worker->loop.now() - proof->asked_at() >= longest) {
      return tl::unexpected(too_late(longest));
    }
    auto waiter = std::make_shared<Waiter>(worker, std::move(done));
    if (!proof->join(*waiter)) {
      done = std::move(waiter->done_);
      over(*proof);  // it is just being answered
      continue;
    }
    waiter->wait_for(patience);
    if (is_new) proof->begin(false);
    return waiter;
  }
}

void Proofs::ask_ahead(const std::shared_ptr<Worker>& worker, Bytes bytes, std::uint64_t hash,
                       base::Version version) {
  if (ahead_.load(std::memory_order_relaxed) >= kMostAhead) return;
  if (worker->draining() || !worker->store->available()) return;
  bool is_new = false;
  const std::shared_ptr<Proof> proof = join_or_make(worker, Key(bytes, hash), version, is_new);
  if (!is_new) return;
  ahead_.fetch_add(1, std::memory_order_relaxed);
  proof->begin(true);
}

// ------------------------------------------------------------------------------------------- Doubt

std::optional<Error> Doubt::ask(const Key& key, base::Version version, Proofs::Done done) {
  waiter_.reset();
  const base::TimePoint now = worker_->loop.now();
  const Duration longest = worker_->shared.freshness.options().revalidate_timeout;
  if (!until_) until_ = now + longest;
  if (now >= *until_) return too_late(longest);
  auto waiter = worker_->shared.proofs->ask(worker_, key, version, *until_ - now, std::move(done));
  if (!waiter) return waiter.error();
  waiter_ = std::move(*waiter);
  return std::nullopt;
}

Error too_stale(const Freshness& freshness, Duration age, const Error& cause) {
  return {cause.status,
          fmt::format("what memory holds was last known to be current {} ms ago, l1.max_staleness "
                      "is {} ms, l2.on_stale is error, and the second tier cannot be asked: {}",
                      in_ms(age), in_ms(freshness.options().max_staleness), cause.message)};
}

}  // namespace cistern::service
