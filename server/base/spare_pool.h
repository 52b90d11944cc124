// Memory of chunks that were used before. Fresh memory is expensive to fill (the kernel zeroes it,
// and finds a page for every 4 KiB), and most chunks of a daemon have one size.
//
// What may be kept is what storage leaves of its budget: live chunks, what others say they store,
// and the spare ones together stay within it. So a full L1 whose entries replace one another
// recycles their memory, and an L1 that grows takes it back. What nobody has asked for in a while
// goes to the kernel. Any thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "server/base/types.h"

namespace cistern::base {

class SparePool {
 public:
  // A private anonymous mapping of exactly `bytes` (whole pages), its content anything; null when
  // there is none of that size.
  std::byte* take(std::size_t bytes);
  // Takes such a mapping over.
  void give(std::byte* data, std::size_t bytes);

  // Live chunks, and other memory that counts against the budget.
  void add_live(std::int64_t bytes);
  void add_other(std::int64_t bytes);
  std::uint64_t live_bytes() const { return live_.load(std::memory_order_relaxed); }
  std::uint64_t bytes() const { return kept_.load(std::memory_order_relaxed); }

  // How much may be kept in any case, and the budget beside that.
  void set_limit(std::uint64_t bytes);
  void set_budget(std::uint64_t bytes);
  // Unmaps the oldest, at least `bytes` where there is so much; returns how much it was.
  std::uint64_t release(std::uint64_t bytes);
  // Unmaps what was given kSpareAge ago or earlier and not taken since; a bounded part of it.
  void release_old(TimePoint now);

 private:
  struct Spare {
    std::byte* data;
    std::size_t bytes;
    TimePoint given_at;
  };
  using Order = std::list<Spare>;  // the oldest first

  bool too_many() const;
  // Makes the rest fit.
  void trim();
  void drop_oldest_locked(std::vector<Spare>& dropped);
  void unmap(const std::vector<Spare>& dropped);

  std::atomic<std::uint64_t> limit_{8 * proto::kMiB};
  std::atomic<std::uint64_t> budget_{0};
  std::atomic<std::uint64_t> live_{0};
  std::atomic<std::uint64_t> other_{0};
  std::atomic<std::uint64_t> kept_{0};  // of order_
  std::mutex mutex_;
  Order order_;
  std::unordered_map<std::size_t, std::deque<Order::iterator>> by_size_;  // the oldest first
  std::vector<Spare> cold_;  // addresses without memory, which the kernel would not take back
};

}  // namespace cistern::base
