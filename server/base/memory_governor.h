// What to do when memory used comes near memory.limit. Fed with samples and time; does nothing by
// itself.
//
// What is accounted stays within its budgets, but the allocator keeps more than it gives out, the
// kernel counts in pages, and a cgroup may have other processes in it. So the kernel has the last
// word: above the high mark (31/32 of the limit) the spare chunks go, and if they are too few L1's
// ceiling is lowered, so that the low mark (15/16) is reached. What was asked for takes a while to
// show; until then only what is used in addition lowers the ceiling further. Below the low mark the
// ceiling rises by 1 % of L1's budget in a second, up to the budget; between the marks it stays.
#pragma once

#include <cstdint>

#include "server/base/types.h"

namespace cistern::base {

class MemoryGovernor {
 public:
  MemoryGovernor(std::uint64_t limit_bytes, std::uint64_t l1_budget_bytes);

  struct Sample {
    std::uint64_t used_bytes = 0;   // memory used
    std::uint64_t spare_bytes = 0;  // of it, what nobody needs
    std::uint64_t l1_bytes = 0;     // what L1 takes
    TimePoint now;
  };
  struct Orders {
    std::uint64_t release_spare_bytes = 0;
    std::uint64_t l1_ceiling_bytes = 0;  // never above L1's budget
    bool shrunk = false;                 // the ceiling was lowered by this sample
  };
  Orders update(const Sample& sample);

 private:
  void lower(std::uint64_t excess, const Sample& sample);

  const std::uint64_t high_mark_;
  const std::uint64_t low_mark_;
  const std::uint64_t budget_;
  const std::uint64_t floor_;  // L1 goes on, whatever others use: a 16th of its budget
  std::uint64_t ceiling_;
  bool settling_ = false;       // lowered, and not yet shown
  std::uint64_t expected_ = 0;  // highest memory used that the last lowering has answered
  TimePoint lowered_at_;
  TimePoint last_;
};

}  // namespace cistern::base
