#include "server/service/fill.h"

#include <algorithm>
#include <utility>

#include "server/base/check.h"
#include "server/service/fill_shown.h"
#include "server/service/flight.h"

namespace cistern::service {
namespace {

// How many reads may be in flight after the first answer, and after every later one.
unsigned wider(unsigned width, const Options& options) {
  const unsigned most = std::max(1u, options.prefetch_chunks);
  return width == 1 ? std::min(2u, most) : most;
}

}  // namespace

Fill::Fill(Worker& worker, std::shared_ptr<const Key> key,
           std::shared_ptr<const base::ValueMeta> meta, std::shared_ptr<Flight> flight,
           std::optional<Kept> kept, std::uint64_t first, l2::Form form)
    : key_(std::move(key)),
      meta_(std::move(meta)),
      ledger_(worker.ledger),
      loop_(worker.loop),
      keeps_(kept.has_value()),
      flight_began_(flight != nullptr),
      asked_at_(kept ? kept->asked_at : base::TimePoint{}),
      base_(first),
      next_fetch_(first),
      form_(form),
      open_(keeps_),
      room_(kept ? std::make_shared<l1::Room>(std::move(kept->room)) : nullptr),
      worker_(worker),
      flight_(std::move(flight)) {
  CHECK(!keeps_ || (first == 0 && flight_ != nullptr));
}

Fill::~Fill() { CHECK(followers_.empty()); }

void Fill::begin(Admission admission) {
  work_ = worker_.begin_work(shared_from_this());
  (keeps_ ? worker_.metrics.fills_kept : worker_.metrics.fills_passing).add();
  renew();
  if (!keeps_ && admission == Admission::kNow) enter_queue();
  tend();
}

// -------------------------------------------------------------------------------------- Followers

bool Fill::attach(Follower& follower) {
  const std::lock_guard lock(mutex_);
  if (over_locked() || follower.position < base_) return false;
  // Else it would wait for many chunks that it doesn't need.
  const std::uint64_t soon = follower.is_stand_in ? base_ + kMostShown : next_fetch_ + width_;
  if (value_ == nullptr && follower.position > soon) return false;
  follower.next = follower.position;
  follower.place = followers_.insert(followers_.end(), &follower);
  return true;
}

void Fill::leave(Follower& follower) {
  Dropped dropped;
  {
    const std::lock_guard lock(mutex_);
    followers_.erase(follower.place);
    drop_passed(dropped);
  }
  dropped.clear();
  prod(*follower.loop);
}

Taken Fill::take(Follower& follower, std::uint64_t index) {
  Dropped dropped;
  Taken taken;
  bool moved = false;
  {
    const std::lock_guard lock(mutex_);
    if (error_) return {.kind = Taken::Kind::kFailed};
    if (value_ != nullptr || follower.let_go) return {.kind = Taken::Kind::kGone};
    follower.is_stand_in = false;
    moved = index != follower.position;
    follower.position = index;
    follower.next = std::max(follower.next, index);
    drop_passed(dropped);
    if (has(index)) {
      if (index == follower.next) {
        moved = true;
        ++follower.next;
      }
      ++progress_;
      const auto& shown = slot_at(index)->shown;
      taken = {.kind = Taken::Kind::kChunk,
               .chunk = shown->chunk,
               .compressed = shown->compressed,
               .owner = shown};
    } else {
      moved = true;
      follower.waiting = true;
    }
  }
  dropped.clear();
  if (moved) prod(*follower.loop);
  // It may have failed just now, and woken nobody: its reader does not wait yet.
  if (taken.kind == Taken::Kind::kWait && error() != nullptr) return {.kind = Taken::Kind::kFailed};
  return taken;
}

void Fill::passed(Follower& follower, std::uint64_t index) {
  Dropped dropped;
  {
    const std::lock_guard lock(mutex_);
    follower.position = std::max(follower.position, index + 1);
    follower.next = std::max(follower.next, follower.position);
    drop_passed(dropped);
  }
  dropped.clear();
  if (!keeps_) prod(*follower.loop);
}

std::unique_ptr<ChunkSource> Fill::stand_in_of(Follower& follower) {
  const std::lock_guard lock(mutex_);
  return std::move(follower.stand_in);
}

bool Fill::opened(Follower& follower) {
  {
    const std::lock_guard lock(mutex_);
    if (open_ || error_) return true;
    follower.waiting = true;
  }
  // One that gave its window back, or never had one, is admitted when it is asked.
  prod(*follower.loop);
  const std::lock_guard lock(mutex_);
  return open_ || error_.has_value();
}

const Error* Fill::error() const {
  const std::lock_guard lock(mutex_);
  return error_ ? &*error_ : nullptr;
}

base::ValuePtr Fill::value() const {
  const std::lock_guard lock(mutex_);
  return value_;
}

void Fill::prod(const base::Loop& from) {
  if (&from == &loop_) return tend();
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(prodded_, true)) return;
  }
  loop_.post([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->tend();
  });
}

// ------------------------------------------------------------------------------- The owner's loop

void Fill::tend() {
  const auto self = shared_from_this();
  {
    const std::lock_guard lock(mutex_);
    prodded_ = false;
    if (over_) return;
  }
  end_if_unused();
  fetch();
  if (!keeps_) watch();
}

void Fill::fetch() {
  for (;;) {
    std::uint64_t index = 0;
    {
      const std::lock_guard lock(mutex_);
      if (!may_fetch()) return;
      index = next_fetch_++;
      ++in_flight_;
    }
    reads_[index] =
        worker_.store->read_chunk(key_->text, *meta_, index, form_,
                                  [weak = weak_from_this(), index](Result<l2::StoredChunk> chunk) {
                                    if (const auto self = weak.lock())
                                      self->arrived(index, std::move(chunk));
                                  });
  }
}

void Fill::arrived(std::uint64_t index, Result<l2::StoredChunk> chunk) {
  if (reads_.erase(index) == 0) return;
  if (!chunk) return fail(std::move(chunk.error()));
  Wakes wakes;
  Dropped dropped;
  bool complete_now = false;
  {
    const std::lock_guard lock(mutex_);
    --in_flight_;
    ++arrived_;
    width_ = wider(width_, worker_.options);
    Slot* const slot = slot_at(index);
    CHECK(slot != nullptr && slot->shown == nullptr);
    slot->shown = std::make_shared<const Shown>(std::move(*chunk), std::move(slot->share), room_,
                                                weak_from_this());
    drop_passed(dropped);
    complete_now = keeps_ && arrived_ == meta_->chunk_count();
    if (!complete_now) collect(wakes);
  }
  dropped.clear();
  if (complete_now) return complete();
  tend();
  wake(std::move(wakes));
}

void Fill::fail(Error error) {
  const auto self = shared_from_this();
  if (error.status == Status::kValueLost) {
    worker_.value_lost(*key_, meta_->version, base::loss_of(error));
  }
  Wakes wakes;
  {
    const std::lock_guard lock(mutex_);
    if (over_locked()) return;
    error_ = std::move(error);
    collect(wakes);
  }
  close();
  wake(std::move(wakes));
}

void Fill::end_if_unused() {
  {
    const std::lock_guard lock(mutex_);
    if (over_ || !followers_.empty()) return;
    if (keeps_ && value_ == nullptr && worth_finishing()) return;
    over_ = true;  // nobody joins from here on
    if (keeps_ && value_ == nullptr) worker_.metrics.fills_dropped.add();
  }
  close();
}

void Fill::close() {
  const auto self = shared_from_this();
  Dropped dropped;
  std::shared_ptr<l1::Room> room;
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
    drop_all(dropped);
    in_flight_ = 0;
    room = std::exchange(room_, nullptr);
    if (room != nullptr) room->shrink_to(shown_elsewhere(dropped));
    spare_.release();
  }
  for (const auto& [index, read] : reads_) worker_.store->cancel_read(read);
  reads_.clear();
  ticket_.reset();
  for (base::Loop::TimerId* const timer : {&renewal_, &impatience_, &idleness_}) {
    loop_.cancel(std::exchange(*timer, base::Loop::TimerId::kNone));
  }
  if (!keeps_) worker_.shared.passing->remove(*this);
  flight_.reset();
  worker_.end_work(work_);
}

// The value may be replaced while it is read, and its chunks released after a grace: whoever still
// reads them renews that, also for those who were let go of and have not gone yet.
void Fill::renew() {
  const Duration grace = worker_.options.replace_grace;
  renewal_ = loop_.after(grace / 3, [weak = weak_from_this(), grace] {
    const auto self = weak.lock();
    if (!self) return;
    std::uint64_t from = 0;
    {
      const std::lock_guard lock(self->mutex_);
      if (self->over_locked()) return;
      from = self->value_ != nullptr && !self->value_->revoked() ? self->meta_->chunk_count()
                                                                 : self->last_position(true);
    }
    self->worker_.upkeep.expire(
        {self->key_->text, self->meta_->version, self->meta_->chunk_count()}, from, grace, true);
    self->renew();
  });
}

void Fill::wake(Wakes wakes) {
  // Those of other loops together, each loop's in one task.
  std::unordered_map<base::Loop*, std::vector<std::shared_ptr<Waker>>> elsewhere;
  for (auto& [loop, waker] : wakes) {
    if (loop != &loop_) elsewhere[loop].push_back(std::move(waker));
  }
  for (auto& [loop, wakers] : elsewhere) {
    loop->post([wakers = std::move(wakers)] {
      for (const auto& waker : wakers) waker->wake();
    });
  }
  for (auto& [loop, waker] : wakes) {
    if (loop == &loop_) waker->wake();
  }
}

// ---------------------------------------------------------------------------------- With the lock

Fill::Slot* Fill::slot_at(std::uint64_t index) {
  if (index < base_ || index >= next_fetch_) return nullptr;
  return &slots_[static_cast<std::size_t>(index - base_)];
}

bool Fill::has(std::uint64_t index) {
  const Slot* const slot = slot_at(index);
  return slot != nullptr && slot->shown != nullptr;
}

std::uint64_t Fill::wanted_end() const {
  if (keeps_) return meta_->chunk_count();
  std::uint64_t end = 0;
  for (const Follower* const follower : followers_) {
    if (!follower->let_go) end = std::max(end, follower->end);
  }
  return end;
}

std::uint64_t Fill::lead() const {
  std::uint64_t lead = base_;
  for (const Follower* const follower : followers_) {
    if (!follower->let_go) lead = std::max(lead, follower->next);
  }
  return lead;
}

std::uint64_t Fill::last_position(bool with_let_go) const {
  std::uint64_t last = next_fetch_;
  for (const Follower* const follower : followers_) {
    if (with_let_go || !follower->let_go) last = std::min(last, follower->position);
  }
  return last;
}

bool Fill::may_fetch() {
  if (over_locked() || !open_ || value_ != nullptr) return false;
  if (next_fetch_ >= wanted_end() || in_flight_ >= width_) return false;
  if (keeps_) {
    slots_.emplace_back();
    return true;
  }
  return take_share();
}

void Fill::drop_passed(Dropped& dropped) {
  if (keeps_) return;
  const std::uint64_t last = last_position(false);
  while (base_ < last && !slots_.empty()) {
    // One that is in flight is waited for: its read can't be told from a later one's.
    if (slots_.front().shown == nullptr) break;
    dropped.push_back(std::move(slots_.front().shown));
    slots_.pop_front();
    ++base_;
  }
}

void Fill::drop_all(Dropped& dropped) {
  for (Slot& slot : slots_) {
    if (slot.shown != nullptr) dropped.push_back(std::move(slot.shown));
    out_bytes_ -= slot.share.bytes();
    slot.share.release();
  }
  slots_.clear();
  base_ = next_fetch_;
}

std::uint64_t Fill::shown_elsewhere(const Dropped& dropped) {
  std::uint64_t bytes = 0;
  for (const auto& shown : dropped) {
    if (shown.use_count() > 1) bytes += shown->chunk->allocated_bytes();
  }
  return bytes;
}

// Those who wait for what is there now, or for nothing more.
void Fill::collect(Wakes& wakes) {
  for (Follower* const follower : followers_) {
    if (!follower->waiting) continue;
    if (!error_ && value_ == nullptr && !has(follower->position)) continue;
    follower->waiting = false;
    wakes.emplace_back(follower->loop, follower->waker);
  }
}

}  // namespace cistern::service
