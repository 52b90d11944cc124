#include "server/base/ledger.h"

#include <utility>

#include "server/base/check.h"

namespace cistern::base {

std::string_view name(Account account) {
  switch (account) {
    case Account::kL1:
      return "l1";
    case Account::kTransfers:
      return "transfers";
    case Account::kHeld:
      return "held";
    case Account::kConnections:
      return "connections";
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
  Ticket(Ledger& ledger, Loop& loop, std::uint64_t bytes, Granted granted)
      : ledger_(ledger), loop_(loop), bytes_(bytes), granted_(std::move(granted)) {}
  Ticket(const Ticket&) = delete;
  Ticket& operator=(const Ticket&) = delete;

  ~Ticket() {
    std::vector<Delivery> deliveries;
    {
      const std::lock_guard lock(ledger_.mutex_);
      if (state_ == State::kWaiting) ledger_.queue_.erase(place_);
      if (state_ == State::kGranted) ledger_.used_locked(Account::kTransfers) -= bytes_;
      if (state_ != State::kDelivered) deliveries = ledger_.serve_locked();
    }
    Ledger::deliver(std::move(deliveries));
  }

  void run() {
    {
      const std::lock_guard lock(ledger_.mutex_);
      CHECK(state_ == State::kGranted);
      state_ = State::kDelivered;
    }
    const Granted granted = std::move(granted_);
    granted(Reservation(&ledger_, Account::kTransfers, bytes_));
  }

 private:
  friend class Ledger;
  enum class State : std::uint8_t { kWaiting, kGranted, kDelivered };

  Ledger& ledger_;
  Loop& loop_;
  const std::uint64_t bytes_;
  Granted granted_;  // its loop's thread only; all below under the ledger's mutex
  State state_ = State::kWaiting;
  std::list<Ticket*>::iterator place_;
  std::weak_ptr<Ticket> self_;
};

Ledger::Ledger(const Budgets& budgets) : budgets_(budgets) {}

Ledger::~Ledger() { CHECK(queue_.empty()); }

bool Ledger::has_room_locked(Account account, std::uint64_t bytes) const {
  const auto fits = [bytes](std::uint64_t used, std::uint64_t budget) {
    return used <= budget && bytes <= budget - used;
  };
  const std::uint64_t used = used_[static_cast<std::size_t>(account)];
  const std::uint64_t shared = used_[static_cast<std::size_t>(Account::kTransfers)] +
                               used_[static_cast<std::size_t>(Account::kHeld)];
  switch (account) {
    case Account::kL1:
      return fits(used, budgets_.l1);
    case Account::kTransfers:
      return fits(shared, budgets_.transfers);
    case Account::kHeld:
      return fits(used, budgets_.held) && fits(shared, budgets_.transfers);
    case Account::kConnections:
      return fits(used, budgets_.connections);
  }
  return false;
}

bool Ledger::take(Account account, std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  // Else a stream of small requests would starve the large one that waits.
  if (account == Account::kTransfers && !queue_.empty() && bytes != 0) return false;
  if (!has_room_locked(account, bytes)) return false;
  used_locked(account) += bytes;
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
    used_locked(account) -= bytes;
    deliveries = serve_locked();
  }
  deliver(std::move(deliveries));
}

std::vector<Ledger::Delivery> Ledger::serve_locked() {
  std::vector<Delivery> deliveries;
  while (!queue_.empty() && has_room_locked(Account::kTransfers, queue_.front()->bytes_)) {
    Ticket& ticket = *queue_.front();
    queue_.pop_front();
    used_locked(Account::kTransfers) += ticket.bytes_;
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

std::shared_ptr<Ledger::Ticket> Ledger::wait(std::uint64_t bytes, Loop& loop, Granted granted) {
  if (bytes > budgets_.transfers) return nullptr;
  auto ticket = std::make_shared<Ticket>(*this, loop, bytes, std::move(granted));
  std::vector<Delivery> deliveries;
  {
    const std::lock_guard lock(mutex_);
    ticket->self_ = ticket;
    ticket->place_ = queue_.insert(queue_.end(), ticket.get());
    deliveries = serve_locked();
    if (ticket->state_ == Ticket::State::kWaiting) ++waits_total_;
  }
  deliver(std::move(deliveries));
  return ticket;
}

std::uint64_t Ledger::used(Account account) const {
  const std::lock_guard lock(mutex_);
  return used_[static_cast<std::size_t>(account)];
}

std::uint64_t Ledger::waiting() const {
  const std::lock_guard lock(mutex_);
  return queue_.size();
}

std::uint64_t Ledger::waits_total() const {
  const std::lock_guard lock(mutex_);
  return waits_total_;
}

}  // namespace cistern::base
