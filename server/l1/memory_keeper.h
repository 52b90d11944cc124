// Keeps memory used under memory.limit: samples it, and has spare chunks and L1 give way.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>

#include "server/base/memory_governor.h"
#include "server/base/memory_probe.h"
#include "server/l1/cache.h"

namespace cistern::l1 {

class MemoryKeeper {
 public:
  // `cache` and `ledger` outlive it.
  MemoryKeeper(Cache& cache, base::Ledger& ledger, base::MemoryProbe probe);

  // Samples ten times a second on `loop`, and does what is to be done there, in turns of about
  // 0.1 ms. Any thread; it must outlive the loop's run.
  void run(base::Loop& loop);

  // Takes what is used now as the base's account. Once, when nothing has been stored yet.
  void measure_base();

  // As run() does by itself, on its loop: a sample, after which step() is to be called until it
  // says false.
  void sample(TimePoint now);
  bool step(TimePoint now);

  // Any thread. Of the last sample; how often L1's ceiling was lowered.
  std::uint64_t used_bytes() const { return used_.load(std::memory_order_relaxed); }
  std::uint64_t shrinks_total() const { return shrinks_.load(std::memory_order_relaxed); }
  std::string_view source() const { return probe_.source(); }

 private:
  void on_timer(base::Loop& loop);
  void on_turn(base::Loop& loop);

  Cache& cache_;
  base::Ledger& ledger_;
  const base::MemoryProbe probe_;
  base::MemoryGovernor governor_;
  std::uint64_t spares_to_go_ = 0;
  bool turning_ = false;  // a turn is posted
  std::atomic<std::uint64_t> used_{0};
  std::atomic<std::uint64_t> shrinks_{0};
};

}  // namespace cistern::l1
