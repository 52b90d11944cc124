// The account of the bytes that the process may use. Bytes are reserved before they are accepted.
//
// `limit` is one number. What is always there (the fixed base), L1's budget and what connections to
// clients and to L2 may take are parted from it once, at the start; the rest is what transfers
// share: fills, windows of readers and uploads, and what readers hold of values that L1 has
// evicted.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

#include "server/base/loop.h"
#include "server/base/types.h"

namespace cistern::base {

enum class Account : std::uint8_t {
  kL1,           // what resident entries cost; moved only by L1, never past its budget
  kFills,        // chunks of fills, which all their readers share
  kReaders,      // windows of readers that read from L2 by themselves
  kUploads,      // windows of uploads
  kHeld,         // evicted from L1 and still being read
  kConnections,  // kernel socket buffers and session state
  kL2Buffers,    // small values on their way to L2
  kCodec,        // contexts and second buffers of chunks that are being compressed or decoded
  kBase,         // the program itself, and what idle connections to L2 may hold
};
inline constexpr std::size_t kAccountCount = 9;
std::string_view name(Account account);
// Fills, readers and uploads: they share one budget (with kHeld) and one queue.
constexpr bool is_transfer(Account account) {
  return account == Account::kFills || account == Account::kReaders || account == Account::kUploads;
}

class Ledger;

// Bytes of an account, given back when it goes out of scope. Movable; any thread.
class Reservation {
 public:
  Reservation() = default;
  Reservation(Reservation&& other) noexcept;
  Reservation& operator=(Reservation&& other) noexcept;
  ~Reservation();

  std::uint64_t bytes() const { return bytes_; }
  // Whether it was granted; stays so after shrink_to, not after a move or release.
  explicit operator bool() const { return ledger_ != nullptr; }
  // Gives back all but `bytes`, which must not be more than what is held.
  void shrink_to(std::uint64_t bytes);
  // Adds without waiting; false, and nothing changed, when there is no room.
  bool try_grow(std::uint64_t bytes);
  // A part of it, to be given back by itself; `bytes` must not be more than what is held.
  Reservation split(std::uint64_t bytes);
  // Takes over what `other` holds, which must be of the same ledger and account, or nothing.
  void merge(Reservation other);
  void release();

 private:
  friend class Ledger;
  Reservation(Ledger* ledger, Account account, std::uint64_t bytes)
      : ledger_(ledger), account_(account), bytes_(bytes) {}

  Ledger* ledger_ = nullptr;
  Account account_ = Account::kFills;
  std::uint64_t bytes_ = 0;
};

class Ledger {
 public:
  struct Budgets {
    std::uint64_t limit = 0;  // of the process
    std::uint64_t l1 = 0;
    std::uint64_t transfers = 0;  // kFills, kReaders, kUploads and kHeld together
    std::uint64_t held = 0;       // of which kHeld may take at most this
    std::uint64_t connections = 0;
    std::uint64_t l2_buffers = 0;
    std::uint64_t codec = 0;
    std::uint64_t base = 0;
  };

  explicit Ledger(const Budgets& budgets);
  ~Ledger();
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;

  // Never waits; empty when there is no room, or when others wait and is_transfer(account). Any
  // thread.
  Reservation try_reserve(Account account, std::uint64_t bytes);

  // A place in the one queue of all transfers. Destroying it leaves the queue; if the bytes were
  // granted and the callback has not yet run, they go back. To be destroyed on its loop's thread,
  // so that the callback is neither run nor destroyed on another.
  class Ticket;
  using Granted = std::function<void(Reservation)>;
  // For a transfer's whole minimum window, is_transfer(account): calls `granted` on `loop`, later,
  // first come first served. The caller must hold no other reservation. Null, and `granted` is
  // never called, when `bytes` is more than the account could ever give. The loop's thread only;
  // `loop` must live as long as any thread uses the ledger.
  std::shared_ptr<Ticket> wait(Account account, std::uint64_t bytes, Loop& loop, Granted granted);

  // What the base takes, as it was measured; it isn't reserved, and may be more than its budget.
  void set_base(std::uint64_t bytes);

  const Budgets& budgets() const { return budgets_; }
  std::uint64_t used(Account account) const;
  // Of what it may take; the transfers' is the one that they share.
  std::uint64_t budget(Account account) const;
  std::uint64_t transferring() const;  // fills, readers and uploads together
  // Whether transfers, and what readers hold, take more than half of what they share. As of a
  // moment ago; takes no lock.
  bool transfers_past_half() const { return past_half_.load(std::memory_order_relaxed); }

  std::uint64_t waiting() const;      // tickets in the queue now
  std::uint64_t waits_total() const;  // tickets that ever had to wait
  Duration waited_total() const;      // how long, those of them that no longer do

 private:
  friend class Reservation;
  // What has to be posted once the mutex is free: no lock is held while calling out.
  struct Delivery {
    Loop* loop;
    std::weak_ptr<Ticket> ticket;
  };
  static void deliver(std::vector<Delivery> deliveries);

  bool take(Account account, std::uint64_t bytes);
  bool has_room_locked(Account account, std::uint64_t bytes) const;
  void give_back(Account account, std::uint64_t bytes);
  std::uint64_t transferring_locked() const;
  // Grants to the head of the queue for as long as there is room.
  std::vector<Delivery> serve_locked();
  void set_used_locked(Account account, std::uint64_t bytes);
  std::uint64_t used_locked(Account account) const {
    return used_[static_cast<std::size_t>(account)];
  }

  const Budgets budgets_;
  mutable std::mutex mutex_;
  std::array<std::uint64_t, kAccountCount> used_{};
  std::atomic<bool> past_half_{false};
  std::list<Ticket*> queue_;  // a ticket takes itself out before it dies
  std::uint64_t waits_total_ = 0;
  Duration waited_total_{0};
};

}  // namespace cistern::base
