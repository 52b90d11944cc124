// The bytes of L1, one account for all shards. Nothing is allocated that was not taken here before,
// so that the sum of costs never passes the budget.
//
// The ceiling is what may be taken at present: the budget, or less while the process is near
// memory.limit. Lowering it takes nothing away: what is above it is for the cache to evict, and
// claims that were granted before are served all the same.
#pragma once

#include <atomic>
#include <cstdint>

namespace cistern::l1 {

// Any thread.
class Budget {
 public:
  explicit Budget(std::uint64_t total_bytes) : total_(total_bytes), ceiling_(total_bytes) {}

  std::uint64_t total() const { return total_; }
  std::uint64_t ceiling() const { return ceiling_.load(std::memory_order_relaxed); }
  // At most total().
  void set_ceiling(std::uint64_t bytes) {
    ceiling_.store(bytes < total_ ? bytes : total_, std::memory_order_relaxed);
  }
  // What is to be evicted for the ceiling's sake.
  std::uint64_t above_ceiling() const { return above(used(), ceiling()); }
  std::uint64_t used() const { return used_.load(std::memory_order_relaxed); }

  bool try_take(std::uint64_t bytes) { return add(used_, bytes, takeable()); }
  // As much of `bytes` as there is.
  std::uint64_t take_up_to(std::uint64_t bytes) {
    std::uint64_t used = used_.load(std::memory_order_relaxed);
    for (;;) {
      const std::uint64_t free = above(takeable(), used);
      const std::uint64_t taken = bytes < free ? bytes : free;
      if (taken == 0 || used_.compare_exchange_weak(used, used + taken)) return taken;
    }
  }
  void give(std::uint64_t bytes) {
    if (bytes != 0) used_.fetch_sub(bytes);
  }

  // Claims are rooms: taken, or being taken by evicting, and not to be evicted themselves. While
  // they fit the ceiling together, each can be served; one that does not is refused before it has
  // evicted anything.
  bool claim(std::uint64_t bytes) { return add(claimed_, bytes, ceiling()); }
  void unclaim(std::uint64_t bytes) {
    if (bytes != 0) claimed_.fetch_sub(bytes);
  }

  std::uint64_t claimed() const { return claimed_.load(std::memory_order_relaxed); }

  // Large values that were taken out and are still counted in used(): about to be given.
  void begin_leaving() { leaving_.fetch_add(1); }
  void end_leaving() { leaving_.fetch_sub(1); }
  bool anything_leaving() const { return leaving_.load() != 0; }

 private:
  static std::uint64_t above(std::uint64_t a, std::uint64_t b) { return a > b ? a - b : 0; }
  // Claims that were granted under a higher ceiling may be all that there is.
  std::uint64_t takeable() const {
    const std::uint64_t now = ceiling();
    const std::uint64_t promised = claimed();
    return now > promised ? now : promised;
  }
  static bool add(std::atomic<std::uint64_t>& to, std::uint64_t bytes, std::uint64_t limit) {
    std::uint64_t sum = to.load(std::memory_order_relaxed);
    do {
      if (bytes > above(limit, sum)) return false;
    } while (!to.compare_exchange_weak(sum, sum + bytes));
    return true;
  }

  const std::uint64_t total_;
  std::atomic<std::uint64_t> ceiling_;
  alignas(64) std::atomic<std::uint64_t> used_{0};
  std::atomic<std::uint64_t> claimed_{0};
  std::atomic<std::uint64_t> leaving_{0};
};

// Bytes that one operation may spend: what it brought (counted in used() already) before what is
// free.
struct Purse {
  Budget& budget;
  std::uint64_t brought = 0;

  bool spend(std::uint64_t bytes) {
    if (brought < bytes) return budget.try_take(bytes);
    brought -= bytes;
    return true;
  }
};

}  // namespace cistern::l1
