// The window of a passing fill: its memory, who sets the pace, and who is let go of.
#include <algorithm>
#include <utility>

#include "server/base/check.h"
#include "server/service/fill.h"
#include "server/service/fill_shown.h"
#include "server/service/flight.h"

namespace cistern::service {
namespace {

constexpr std::uint64_t kLeastShown = 2;

// How long a window may stand still before it is given to others who wait for memory.
constexpr std::chrono::seconds kMostIdle{1};

}  // namespace

std::uint64_t window_bytes(const base::ValueMeta& meta, std::uint64_t first, std::uint64_t end) {
  std::uint64_t bytes = 0;
  for (std::uint64_t index = first; index < std::min(end, first + kLeastShown); ++index) {
    bytes += base::Chunk::allocated_for(meta.size_of_chunk(index));
  }
  return bytes;
}

// -------------------------------------------------------------------------------------- Admission

void Fill::enter_queue() {
  std::uint64_t bytes = 0;
  {
    const std::lock_guard lock(mutex_);
    open_ = false;
    bytes = window_bytes(*meta_, next_fetch_, std::max(wanted_end(), next_fetch_ + 1));
  }
  ticket_ =
      ledger_.wait(account(), bytes, loop_, [weak = weak_from_this()](base::Reservation granted) {
        if (const auto self = weak.lock()) self->admitted(std::move(granted));
      });
  if (ticket_ == nullptr) fail(worker_.never_fits(bytes));
}

void Fill::admitted(base::Reservation granted) {
  const auto self = shared_from_this();
  ticket_.reset();
  Wakes wakes;
  {
    const std::lock_guard lock(mutex_);
    if (over_locked()) return;
    minimum_bytes_ = granted.bytes();
    spare_ = std::move(granted);
    open_ = true;
    // Who has not begun waits for just this; others ask again.
    for (Follower* const follower : followers_) {
      if (!std::exchange(follower->waiting, false)) continue;
      wakes.emplace_back(follower->loop, follower->waker);
    }
  }
  fetch();
  wake(std::move(wakes));
}

// ------------------------------------------------------------------------------------ Its memory

// Room for the next chunk, with its slot; with the lock.
bool Fill::take_share() {
  const std::uint64_t leading = lead();
  if (next_fetch_ > leading && next_fetch_ - leading >= width_) return false;
  if (followers_.size() > 1) {
    const std::uint64_t most = ledger_.transfers_past_half() ? kLeastShown : kMostShown;
    if (next_fetch_ - base_ >= most) return false;
  }
  const std::uint64_t need = base::Chunk::allocated_for(meta_->size_of_chunk(next_fetch_));
  if (spare_.bytes() < need && !spare_.try_grow(need - spare_.bytes())) return false;
  slots_.emplace_back().share = spare_.split(need);
  out_bytes_ += need;
  if (next_fetch_ + 1 == wanted_end()) spare_.shrink_to(0);
  return true;
}

void Fill::given_back(base::Reservation share) {
  {
    const std::lock_guard lock(mutex_);
    out_bytes_ -= share.bytes();
    if (over_locked() || !open_ || next_fetch_ >= wanted_end()) return;
    spare_.merge(std::move(share));
    // What was taken beyond the minimum is for others as soon as they wait.
    const std::uint64_t total = spare_.bytes() + out_bytes_;
    if (total > minimum_bytes_ && ledger_.waiting() > 0) {
      spare_.shrink_to(spare_.bytes() - std::min(spare_.bytes(), total - minimum_bytes_));
    }
    if (std::exchange(prodded_, true)) return;
  }
  // Later: this is the destructor of a segment's owner.
  loop_.post([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->tend();
  });
}

// ----------------------------------------------------------------------------------- Who lags

// The one that is furthest waits, and nothing is on its way to it; with the lock.
bool Fill::starving() const {
  if (over_locked() || !open_ || in_flight_ > 0 || next_fetch_ >= wanted_end()) return false;
  return std::ranges::any_of(followers_, [this](const Follower* follower) {
    return follower->waiting && !follower->let_go && follower->position >= next_fetch_;
  });
}

// Nobody asks for anything; with the lock.
bool Fill::idle() const {
  if (over_locked() || !open_ || in_flight_ > 0) return false;
  if (spare_.bytes() == 0 && slots_.empty()) return false;
  return std::ranges::none_of(followers_,
                              [](const Follower* follower) { return follower->waiting; });
}

void Fill::watch() {
  bool is_starving = false;
  bool is_idle = false;
  bool asked = false;
  std::shared_ptr<Flight> left;
  {
    const std::lock_guard lock(mutex_);
    if (over_locked()) return;
    is_starving = starving();
    is_idle = idle();
    asked = !open_ && ticket_ == nullptr && std::ranges::any_of(followers_, [](const Follower* f) {
      return f->waiting && !f->let_go;
    });
    progress_seen_ = idleness_ == base::Loop::TimerId::kNone ? progress_ : progress_seen_;
    // Who comes now has to begin elsewhere.
    if (base_ > 0) left = std::exchange(flight_, nullptr);
  }
  if (asked) return enter_queue();
  if (is_starving && impatience_ == base::Loop::TimerId::kNone) {
    impatience_ = loop_.after(worker_.options.fill_patience, [weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->on_impatient();
    });
  } else if (!is_starving && impatience_ != base::Loop::TimerId::kNone) {
    loop_.cancel(std::exchange(impatience_, base::Loop::TimerId::kNone));
  }
  if (is_idle && idleness_ == base::Loop::TimerId::kNone) {
    idleness_ = loop_.after(kMostIdle, [weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->on_idle();
    });
  }
}

// Those whose chunk is before `until`; with the lock.
bool Fill::let_go_before(std::uint64_t until, Dropped& dropped) {
  bool any = false;
  for (Follower* const follower : followers_) {
    if (follower->let_go || follower->position >= until) continue;
    follower->let_go = true;
    worker_.metrics.readers_let_go.add();
    any = true;
  }
  if (any) drop_passed(dropped);
  return any;
}

void Fill::on_impatient() {
  const auto self = shared_from_this();
  impatience_ = base::Loop::TimerId::kNone;
  Dropped dropped;
  bool stuck = false;
  {
    const std::lock_guard lock(mutex_);
    if (!starving()) return;
    // The older half of the window. When that is empty the memory is in the hands of those who were
    // let go of, or of sockets that take nothing: then the fill is admitted anew, holding nothing.
    stuck = !let_go_before(base_ + (next_fetch_ - base_ + 1) / 2, dropped);
    if (stuck) {
      let_go_before(next_fetch_, dropped);
      spare_.shrink_to(0);
    }
  }
  dropped.clear();
  guide();
  if (stuck) {
    enter_queue();
  } else {
    tend();
  }
}

// Those who were let go of get their places elsewhere, the last of them first: a new fill begins
// where it is. One that has not come since it got its place here finds the next by itself.
void Fill::guide() {
  std::vector<std::pair<Follower*, Reading>> lost;
  {
    const std::lock_guard lock(mutex_);
    for (Follower* const follower : followers_) {
      if (!follower->let_go || follower->stand_in != nullptr || follower->is_stand_in) continue;
      lost.emplace_back(follower, *follower->reading);
      lost.back().second.first = follower->position;
    }
  }
  std::ranges::sort(lost, {}, [](const auto& each) { return each.second.first; });
  for (auto& [follower, reading] : lost) {
    if (reading.first == reading.end) continue;
    Passing::Found found = worker_.shared.passing->find_or_make(reading, worker_, true);
    if (found.made != nullptr) found.made->begin(Admission::kOnDemand);
    {
      const std::lock_guard lock(mutex_);
      const auto here = std::ranges::find(followers_, follower);
      // One that isn't here any more has gone by itself.
      if (here != followers_.end() && (*here)->waker == reading.waker) {
        (*here)->stand_in = std::move(found.source);
      }
    }
    if (found.source == nullptr) continue;
    // On its reader's loop, as everything that a follower does.
    reading.worker->loop.post([unused = std::shared_ptr(std::move(found.source))] {});
  }
}

void Fill::on_idle() {
  const auto self = shared_from_this();
  idleness_ = base::Loop::TimerId::kNone;
  Dropped dropped;
  {
    const std::lock_guard lock(mutex_);
    if (idle() && progress_ == progress_seen_ && ledger_.waiting() > 0) {
      // Admitted anew when it is asked again. The chunks that it shows are read again.
      const std::uint64_t last = last_position(false);
      drop_all(dropped);
      base_ = next_fetch_ = last;
      for (Follower* const follower : followers_) {
        follower->next = std::min(follower->next, follower->position);
      }
      spare_.shrink_to(0);
      open_ = false;
      worker_.metrics.windows_given_back.add();
    }
  }
  dropped.clear();
  tend();
}

// ---------------------------------------------------------------------------------------- Passing

Passing::Found Passing::find_or_make(const Reading& reading, Worker& owner, bool is_stand_in) {
  Found found;
  const base::Version version = reading.meta->version;
  const std::lock_guard lock(mutex_);
  const auto [first, last] = fills_.equal_range(version);
  for (auto each = first; each != last; ++each) {
    const std::shared_ptr<Fill> fill = each->second.lock();
    if (fill == nullptr || fill->key().text != reading.key->text) continue;
    found.source = follow(fill, reading, is_stand_in);
    if (found.source != nullptr) return found;
  }
  found.made = std::make_shared<Fill>(owner, reading.key, reading.meta, nullptr, std::nullopt,
                                      reading.first);
  found.source = follow(found.made, reading, is_stand_in);
  fills_.emplace(version, found.made);
  return found;
}

void Passing::add(const std::shared_ptr<Fill>& fill) {
  const std::lock_guard lock(mutex_);
  fills_.emplace(fill->meta().version, fill);
}

void Passing::remove(const Fill& fill) {
  const std::lock_guard lock(mutex_);
  const auto [first, last] = fills_.equal_range(fill.meta().version);
  for (auto each = first; each != last; ++each) {
    // Not lock(): it may be the last one to let go of another fill, under the lock.
    if (!each->second.owner_before(fill.weak_from_this()) &&
        !fill.weak_from_this().owner_before(each->second)) {
      fills_.erase(each);
      return;
    }
  }
}

std::size_t Passing::size() const {
  const std::lock_guard lock(mutex_);
  return fills_.size();
}

}  // namespace cistern::service
