#include "server/service/worker.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "server/base/log.h"
#include "server/base/rng.h"
#include "server/service/edit.h"
#include "server/service/l1_only.h"
#include "server/service/reasons.h"

namespace cistern::service {

using std::chrono::milliseconds;

// Of keys that are stored in L1 alone, once L2 is back: so many at a time, so that nobody else
// waits for long.
constexpr milliseconds kSettlePeriod{250};
constexpr std::size_t kSettleKeys = 64;

Worker::Worker(Shared& shared_state, base::Loop& the_loop, l2::Store* the_store,
               base::WorkerMetrics& the_metrics)
    : shared(shared_state),
      loop(the_loop),
      plain_store(the_store),
      noting_store(the_store == nullptr
                       ? nullptr
                       : std::make_unique<NotingStore>(*the_store, *shared_state.reasons, the_loop,
                                                       the_metrics)),
      store(noting_store.get()),
      metrics(the_metrics),
      options(shared_state.options),
      cache(shared_state.cache),
      ledger(shared_state.ledger),
      gate(*shared_state.gate),
      upkeep(the_store, the_metrics, [this] { check_idle(); }),
      renewed_(the_store == nullptr ? 0 : kRenewedSlots),
      jitter_(base::random_seed()) {}

Worker::Job& Worker::Job::operator=(Job&& other) noexcept {
  if (this != &other) {
    end();
    worker_ = std::move(other.worker_);
    place_ = other.place_;
  }
  return *this;
}

void Worker::Job::end() {
  if (worker_ == nullptr) return;
  const std::shared_ptr<Worker> worker = std::move(worker_);
  worker->end_work(place_);
}

Worker::Work Worker::begin_work(std::shared_ptr<void> work) {
  return jobs_.insert(jobs_.end(), std::move(work));
}

void Worker::end_work(Work place) {
  // Destroyed once the list is in order again: its end may be that of another job.
  const std::shared_ptr<void> work = std::move(*place);
  jobs_.erase(place);
  check_idle();
}

Worker::Job Worker::begin_job(std::shared_ptr<void> work) {
  Job job;
  job.worker_ = shared_from_this();
  job.place_ = begin_work(std::move(work));
  return job;
}

void Worker::stop() {
  draining_ = true;
  idle_ = nullptr;
  // A job that ends meanwhile finds its place still in the list.
  std::vector<std::shared_ptr<void>> dropped;
  for (std::shared_ptr<void>& work : jobs_) dropped.push_back(std::move(work));
}

void Worker::drain(std::function<void()> idle) {
  draining_ = true;
  idle_ = std::move(idle);
  check_idle();
}

void Worker::check_idle() {
  if (!idle_ || !jobs_.empty() || !upkeep.idle()) return;
  // Not within the call that has just ended something: it may go on.
  loop.post([weak = weak_from_this()] {
    const auto self = weak.lock();
    if (!self || !self->idle_ || !self->jobs_.empty() || !self->upkeep.idle()) return;
    const std::function<void()> idle = std::move(self->idle_);
    self->idle_ = nullptr;
    idle();
  });
}

Error Worker::shutting_down() const {
  return {Status::kShuttingDown, "the server is shutting down and takes no new requests"};
}

Error Worker::never_fits(std::uint64_t window_bytes) const {
  return {
      Status::kTransferTooLarge,
      fmt::format("the transfer needs {} bytes of memory at once, for chunks of the size that "
                  "the value has; of memory.limit at most {} are for transfers: raise "
                  "memory.limit, or lower l1.max_bytes or the storage.chunk_bytes of its writer",
                  window_bytes, ledger.budgets().transfers)};
}

std::uint64_t Worker::expires_at(std::uint64_t ttl_ms) const {
  if (ttl_ms == proto::kDefaultTtl) {
    ttl_ms = static_cast<std::uint64_t>(
        std::chrono::duration_cast<milliseconds>(options.default_ttl).count());
  }
  return ttl_ms == 0 ? 0 : loop.unix_ms() + ttl_ms;
}

Duration Worker::chunk_ttl(std::uint64_t expires_at_ms) const {
  if (expires_at_ms == 0) return options.max_idle;
  const std::uint64_t now_ms = loop.unix_ms();
  const std::uint64_t left_ms = expires_at_ms > now_ms ? expires_at_ms - now_ms : 0;
  return milliseconds(std::min(left_ms, proto::kMaxTtlMs)) + options.replace_grace;
}

Duration Worker::stay(std::uint64_t expires_at_ms, std::optional<base::TimePoint> since) const {
  if (store == nullptr) return Duration{0};
  Duration stay = expires_at_ms == 0 ? options.max_idle / 2 : Duration::max();
  if (const Duration max_age = cache.max_age(); max_age > Duration{0} && since) {
    stay = std::min(stay, std::max(Duration{1}, max_age - (loop.now() - *since)));
  }
  const std::uint64_t now_ms = loop.unix_ms();
  if (options.ttl_jitter > 0 && expires_at_ms > now_ms) {
    const auto left_ms = static_cast<double>(std::min(expires_at_ms - now_ms, proto::kMaxTtlMs));
    const double share = options.ttl_jitter * std::generate_canonical<double, 53>(jitter_);
    stay = std::min<Duration>(
        stay, std::chrono::duration_cast<Duration>(
                  std::chrono::duration<double, std::milli>(std::max(1.0, left_ms * (1 - share)))));
  }
  return stay == Duration::max() ? Duration{0} : stay;
}

void Worker::value_lost(const Key& key, base::Version version, base::Loss why) {
  metrics.count_lost(why);
  if (store != nullptr) store->discard(key.text, version);
  gate.change(key.bytes(), key.hash, [&] {
    cache.erase(key.bytes(), key.hash, {base::Condition::Kind::kIfVersion, version},
                l1::Removal::kInvalidated, loop.now());
  });
}

void Worker::settle_soon() {
  if (std::exchange(settling_, true)) return;
  loop.after(kSettlePeriod, [weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->settle_some();
  });
}

void Worker::settle_some() {
  settling_ = false;
  if (draining_ || shared.l1_only->size() == 0) return;
  if (store->available()) {
    for (const std::string& key : shared.l1_only->oldest(kSettleKeys)) {
      // What fails is tried again, by the next turn or by who asks for the key.
      make_settling(shared_from_this(), Key(proto::as_bytes(key)), [](const Result<void>&) {
      })->begin();
    }
  }
  settle_soon();
}

bool is_l2_failure(Status status) {
  return status == Status::kL2Unavailable || status == Status::kL2Timeout ||
         status == Status::kL2Busy || status == Status::kL2Error;
}

void Worker::invalidate(const Key& key) {
  gate.change(key.bytes(), key.hash, [&] {
    cache.erase(key.bytes(), key.hash, {}, l1::Removal::kInvalidated, loop.now());
  });
}

void Worker::renew_idle(const Key& key, const base::ValueMeta& meta,
                        std::function<bool()> current) {
  if (meta.expires_at_ms != 0 || meta.size <= l2::kInlineBytes) return;
  Renewed& slot = renewed_[meta.version % renewed_.size()];
  const base::TimePoint now = loop.now();
  if (slot.version == meta.version && now - slot.at < options.max_idle / 4) return;
  slot = {meta.version, now};
  upkeep.expire({key.text, meta.version, meta.chunk_count()}, 0, options.max_idle, true,
                std::move(current));
}

void Worker::note_renewed(base::Version version) {
  renewed_[version % renewed_.size()] = {version, loop.now()};
}

}  // namespace cistern::service
