#include "server/base/memory_governor.h"

#include <algorithm>

namespace cistern::base {
namespace {

// Evicting, and the allocator's decay.
constexpr std::chrono::milliseconds kSettlingTime{1500};
constexpr std::uint64_t kRegrowthShare = 100;  // of the budget, in a second
constexpr std::chrono::seconds kLongestStep{1};

}  // namespace

MemoryGovernor::MemoryGovernor(std::uint64_t limit_bytes, std::uint64_t l1_budget_bytes)
    : high_mark_(limit_bytes - limit_bytes / 32),
      low_mark_(limit_bytes - limit_bytes / 16),
      budget_(l1_budget_bytes),
      floor_(l1_budget_bytes / 16),
      ceiling_(l1_budget_bytes) {}

MemoryGovernor::Orders MemoryGovernor::update(const Sample& sample) {
  Orders orders;
  const std::uint64_t before = ceiling_;
  const bool is_first = last_ == TimePoint();
  const Duration step =
      is_first ? Duration::zero() : std::min<Duration>(sample.now - last_, kLongestStep);
  last_ = sample.now;
  // While L1 is still above its ceiling nothing can have shown.
  if (settling_ && sample.l1_bytes <= ceiling_ && sample.now - lowered_at_ >= kSettlingTime) {
    settling_ = false;
  }
  if (sample.used_bytes > high_mark_) {
    const std::uint64_t excess = sample.used_bytes - low_mark_;
    orders.release_spare_bytes = std::min(excess, sample.spare_bytes);
    lower(excess - orders.release_spare_bytes, sample);
  } else if (sample.used_bytes < low_mark_ && ceiling_ < budget_) {
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(step).count();
    const std::uint64_t more = budget_ / kRegrowthShare * static_cast<std::uint64_t>(ms) / 1000;
    ceiling_ += std::min(more, budget_ - ceiling_);
  }
  orders.l1_ceiling_bytes = ceiling_;
  orders.shrunk = ceiling_ < before;
  return orders;
}

void MemoryGovernor::lower(std::uint64_t excess, const Sample& sample) {
  if (settling_) {
    const std::uint64_t grown =
        sample.used_bytes > expected_ ? sample.used_bytes - expected_ : std::uint64_t{0};
    excess = std::min(excess, grown);
  }
  const std::uint64_t from = std::min(ceiling_, sample.l1_bytes);
  const std::uint64_t to = std::max(floor_, from - std::min(excess, from));
  if (excess == 0 || to >= ceiling_) return;
  ceiling_ = to;
  settling_ = true;
  expected_ = sample.used_bytes;
  lowered_at_ = sample.now;
}

}  // namespace cistern::base
