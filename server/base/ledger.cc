#include "server/base/ledger.h"

#include <optional>
#include <utility>

#include "server/base/check.h"

namespace cistern::base {

std::string_view name(Account account) {
  switch (account) {
    case Account::kL1:
      return "l1";
    case Account::kFills:
      return "fills";
    case Account::kReaders:
      return "readers";
    case Account::kUploads:
      return "uploads";
    case Account::kHeld:
      return "held";
    case Account::kConnections:
      return "connections";
    case Account::kL2Buffers:
      return "l2_buffers";
    case Account::kCodec:
      return "codec";
    case Account::kBase:
      return "base";
  }
  return "unknown";
}

Reservation::Reservation(Reservation&& other) noexcept
    : ledger_(std::exchange(other.ledger_, nullptr)),
      account_(other.account_),
      bytes_(std::exchange(other.bytes_, 0)) {}

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  if (this != &other) {
    release();
    ledger_ = std::exchange(other.ledger_, nullptr);
    account_ = other.account_;
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

Reservation::~Reservation() { release(); }

void Reservation::shrink_to(std::uint64_t bytes) {
  CHECK(bytes <= bytes_);
  const std::uint64_t back = bytes_ - bytes;
  bytes_ = bytes;
  if (back != 0) ledger_->give_back(account_, back);
}

bool Reservation::try_grow(std::uint64_t bytes) {
  if (ledger_ == nullptr || !ledger_->take(account_, bytes)) return false;
  bytes_ += bytes;
  return true;
}

Reservation Reservation::split(std::uint64_t bytes) {
  CHECK(bytes <= bytes_);
  bytes_ -= bytes;
  return {ledger_, account_, bytes};
}

void Reservation::merge(Reservation other) {
  if (!other) return;
  if (ledger_ == nullptr) {
    *this = std::move(other);
    return;
  }
  CHECK(other.ledger_ == ledger_ && other.account_ == account_);
  bytes_ += std::exchange(other.bytes_, 0);
}

void Reservation::release() {
  shrink_to(0);
  ledger_ = nullptr;
}

// The queue holds plain pointers and the posted task a weak one: a granting thread never shares the
// ownership of a ticket, or it could be the last to let go of it and would run the destructor of a
// callback that belongs to another thread.
class Ledger::Ticket {
 public:
  Ticket(Ledger& ledger, Account account, std::uint64_t bytes, Loop& loop, Granted granted)
      : ledger_(ledger),
        loop_(loop),
        account_(account),
        bytes_(bytes),
        granted_(std::move(granted)) {}
  Ticket(const Ticket&) = delete;
  Ticket& operator=(const Ticket&) = delete;

  ~Ticket() {
    std::vector<Delivery> deliveries;
    {
      const std::lock_guard lock(ledger_.mutex_);
      if (state_ == State::kWaiting) ledger_.queue_.erase(place_);
      if (state_ == State::kGranted)
        ledger_.set_used_locked(account_, ledger_.used_locked(account_) - bytes_);
      if (state_ != State::kDelivered) {
        count_wait_locked();
        deliveries = ledger_.serve_locked();
      }
    }
    Ledger::deliver(std::move(deliveries));
  }

  void run() {
    {
      const std::lock_guard lock(ledger_.mutex_);
      CHECK(state_ == State::kGranted);
      state_ = State::kDelivered;
      count_wait_locked();
    }
    const Granted granted = std::move(granted_);
    granted(Reservation(&ledger_, account_, bytes_));
  }

 private:
  friend class Ledger;
  enum class State : std::uint8_t { kWaiting, kGranted, kDelivered };

  // On the loop's thread, whose clock it is.
  void count_wait_locked() {
    if (waiting_since_) ledger_.waited_total_ += loop_.now() - *waiting_since_;
  }

  Ledger& ledger_;
  Loop& loop_;
  const Account account_;
  const std::uint64_t bytes_;
  Granted granted_;  // its loop's thread only; all below under the ledger's mutex
  State state_ = State::kWaiting;
  std::optional<TimePoint> waiting_since_;  // empty: it was granted at once
  std::list<Ticket*>::iterator place_;
  std::weak_ptr<Ticket> self_;
};

Ledger::Ledger(const Budgets& budgets) : budgets_(budgets) {}

Ledger::~Ledger() { CHECK(queue_.empty()); }

bool Ledger::has_room_locked(Account account, std::uint64_t bytes) const {
  const auto fits = [bytes](std::uint64_t used, std::uint64_t budget) {
    return used <= budget && bytes <= budget - used;
  };
  const std::uint64_t used = used_locked(account);
  const std::uint64_t shared = transferring_locked() + used_locked(Account::kHeld);
  if (is_transfer(account)) return fits(shared, budgets_.transfers);
  return fits(used, budget(account)) &&
         (account != Account::kHeld || fits(shared, budgets_.transfers));
}

std::uint64_t Ledger::transferring_locked() const {
  return used_locked(Account::kFills) + used_locked(Account::kReaders) +
         used_locked(Account::kUploads);
}

void Ledger::set_used_locked(Account account, std::uint64_t bytes) {
  used_[static_cast<std::size_t>(account)] = bytes;
  const std::uint64_t shared = transferring_locked() + used_locked(Account::kHeld);
  past_half_.store(shared > budgets_.transfers / 2, std::memory_order_relaxed);
}

std::uint64_t Ledger::budget(Account account) const {
  switch (account) {
    case Account::kL1:
      return budgets_.l1;
    case Account::kFills:
    case Account::kReaders:
    case Account::kUploads:
      return budgets_.transfers;
    case Account::kHeld:
      return budgets_.held;
    case Account::kConnections:
      return budgets_.connections;
    case Account::kL2Buffers:
      return budgets_.l2_buffers;
    case Account::kCodec:
      return budgets_.codec;
    case Account::kBase:
      return budgets_.base;
  }
  return 0;
}

bool Ledger::take(Account account, std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  // Else a stream of small requests would starve the large one that waits.
  if (is_transfer(account) && !queue_.empty() && bytes != 0) return false;
  if (!has_room_locked(account, bytes)) return false;
  set_used_locked(account, used_locked(account) + bytes);
  return true;
}

Reservation Ledger::try_reserve(Account account, std::uint64_t bytes) {
  if (!take(account, bytes)) return {};
  return {this, account, bytes};
}

void Ledger::give_back(Account account, std::uint64_t bytes) {
  std::vector<Delivery> deliveries;
  {
    const std::lock_guard lock(mutex_);
    CHECK(used_locked(account) >= bytes);
    set_used_locked(account, used_locked(account) - bytes);
    deliveries = serve_locked();
  }
  deliver(std::move(deliveries));
}

std::vector<Ledger::Delivery> Ledger::serve_locked() {
  std::vector<Delivery> deliveries;
  while (!queue_.empty() && has_room_locked(queue_.front()->account_, queue_.front()->bytes_)) {
    Ticket& ticket = *queue_.front();
    queue_.pop_front();
    set_used_locked(ticket.account_, used_locked(ticket.account_) + ticket.bytes_);
    ticket.state_ = Ticket::State::kGranted;
    deliveries.push_back({&ticket.loop_, ticket.self_});
  }
  return deliveries;
}

void Ledger::deliver(std::vector<Delivery> deliveries) {
  for (Delivery& delivery : deliveries) {
    delivery.loop->post([weak = std::move(delivery.ticket)] {
      if (const auto ticket = weak.lock()) ticket->run();
    });
  }
}

std::shared_ptr<Ledger::Ticket> Ledger::wait(Account account, std::uint64_t bytes, Loop& loop,
                                             Granted granted) {
  CHECK(is_transfer(account));
  if (bytes > budgets_.transfers) return nullptr;
  auto ticket = std::make_shared<Ticket>(*this, account, bytes, loop, std::move(granted));
  std::vector<Delivery> deliveries;
  {
    const std::lock_guard lock(mutex_);
    ticket->self_ = ticket;
    ticket->place_ = queue_.insert(queue_.end(), ticket.get());
    deliveries = serve_locked();
    if (ticket->state_ == Ticket::State::kWaiting) {
      ++waits_total_;
      ticket->waiting_since_ = loop.now();
    }
  }
  deliver(std::move(deliveries));
  return ticket;
}

void Ledger::set_base(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  set_used_locked(Account::kBase, bytes);
}

std::uint64_t Ledger::used(Account account) const {
  const std::lock_guard lock(mutex_);
  return used_locked(account);
}

std::uint64_t Ledger::transferring() const {
  const std::lock_guard lock(mutex_);
  return transferring_locked();
}

std::uint64_t Ledger::waiting() const {
  const std::lock_guard lock(mutex_);
  return queue_.size();
}

std::uint64_t Ledger::waits_total() const {
  const std::lock_guard lock(mutex_);
  return waits_total_;
}

Duration Ledger::waited_total() const {
  const std::lock_guard lock(mutex_);
  return waited_total_;
}

}  // namespace cistern::base
