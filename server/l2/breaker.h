// The circuit breaker of one endpoint of the second tier, shared by all who talk to it: what one of
// them has found out by waiting, the others don't wait for again.
//
//   closed   everybody connects and asks.
//   open     nobody connects. Who is connected goes on, unless it was opened because those who were
//            connected got no answer: then nobody asks, either.
//   probing  the same, and one attempt is under way. It is the only one in this process.
//
// It opens when an attempt to connect fails, and when operations of connections that are up have
// timed out kTimeouts times in a row, with no operation answered in between. (A connection that
// breaks is no reason yet: the attempt to make another is the question.) A probe that succeeds
// closes it, on trial: until an operation has been answered a single timeout opens it again. Delays
// between probes are Backoff's, and begin anew only after the trial.
//
// Any thread. Time is given, in every call, as of a monotonic clock.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>

#include "server/base/loop.h"
#include "server/base/types.h"
#include "server/l2/backoff.h"

namespace cistern::l2 {

class Breaker {
 public:
  static constexpr unsigned kTimeouts = 3;

  enum class State : std::uint8_t { kClosed, kOpen, kProbing };

  // The right to make the one attempt. Its outcome is told once; destroyed without one, the right
  // passes to the next who asks. Movable.
  class Probe {
   public:
    Probe() = default;
    Probe(Probe&& other) noexcept : breaker_(std::move(other.breaker_)) {}
    Probe& operator=(Probe&& other) noexcept;
    ~Probe() { give_back(); }
    explicit operator bool() const { return breaker_ != nullptr; }

    void succeeded(base::TimePoint now);
    void failed(base::TimePoint now, const std::string& why);
    void give_back();

   private:
    friend class Breaker;
    explicit Probe(std::shared_ptr<Breaker> breaker) : breaker_(std::move(breaker)) {}
    std::shared_ptr<Breaker> breaker_;
  };

  // Who waits for a turn to connect. Destroying it ends the wait; on its loop's thread.
  class Waiter;
  using Go = std::function<void(Probe)>;

  struct Figures {
    State state = State::kClosed;
    std::uint64_t opens = 0;
    std::uint64_t probes = 0;
  };

  // `endpoint` is for metrics and logs: without secrets.
  static std::shared_ptr<Breaker> make(std::string endpoint);
  ~Breaker();
  Breaker(const Breaker&) = delete;
  Breaker& operator=(const Breaker&) = delete;

  // Whether to ask now; `connected`: over a connection that is up. The error is kL2Unavailable and
  // says since when it isn't asked, why, and when the next probe is due.
  base::Result<void> allows(base::TimePoint now, bool connected) const;
  bool is_closed() const { return state_.load(std::memory_order_acquire) == State::kClosed; }

  // An attempt to connect has ended that was made while it was closed, and had no probe. `why`
  // names the endpoint.
  void connected(base::TimePoint now);
  void connect_failed(base::TimePoint now, const std::string& why);
  // An operation on a connection that was up had no answer in its time.
  void timed_out(base::TimePoint now, const std::string& why);
  // An operation was answered in time. Costs one load where nothing has failed.
  void answered();

  // Empty while it's closed, while another probe runs, and before the next one is due.
  Probe try_probe(base::TimePoint now);
  // Calls `go` once, later, on `loop`: with the probe when it is this one's turn, or without one
  // when the breaker is closed. The loop's thread only.
  std::shared_ptr<Waiter> wait(base::Loop& loop, Go go);

  const std::string& endpoint() const { return endpoint_; }
  Figures figures() const;

 private:
  friend class Waiter;

  explicit Breaker(std::string endpoint);
  // With the lock, all below.
  void open(base::TimePoint now, const std::string& why, bool for_connected);
  void close(base::TimePoint now);
  void schedule(base::TimePoint now);
  void wake_waiters();

  const std::string endpoint_;
  std::weak_ptr<Breaker> self_;

  mutable std::mutex mutex_;
  std::atomic<State> state_{State::kClosed};  // written with the lock
  std::atomic<bool> awaits_answer_{false};    // the same: answered() has something to reset
  bool for_connected_ = false;                // while open: also for who is connected
  bool on_trial_ = false;
  unsigned timeouts_ = 0;  // in a row
  base::TimePoint since_{};
  base::TimePoint due_{};
  std::string why_;
  Backoff backoff_;
  std::list<Waiter*> waiters_;
  std::uint64_t opens_ = 0;
  std::uint64_t probes_ = 0;
};

}  // namespace cistern::l2
