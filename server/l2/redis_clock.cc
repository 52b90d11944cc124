#include "server/l2/redis_clock.h"

#include <algorithm>
#include <chrono>

namespace cistern::l2 {
namespace {

constexpr std::int64_t kDriftDivisor = 1000;

std::int64_t us_between(base::TimePoint from, base::TimePoint to) {
  return std::max<std::int64_t>(
      0, std::chrono::duration_cast<std::chrono::microseconds>(to - from).count());
}

}  // namespace

std::uint64_t RedisClock::earliest_us(base::TimePoint now) const {
  const std::int64_t passed = us_between(sample_->answered, now);
  return sample_->redis_us + static_cast<std::uint64_t>(passed - passed / kDriftDivisor);
}

void RedisClock::measured(base::TimePoint asked, base::TimePoint answered, std::uint64_t redis_us) {
  const Sample fresh{answered, redis_us};
  if (!sample_) {
    sample_ = fresh;
    return;
  }
  const std::uint64_t known_earliest = earliest_us(answered);
  // The fresh bounds are [redis_us, redis_us + answered - asked] at `answered`.
  const bool says_more = redis_us >= known_earliest;
  const bool was_set_back =
      redis_us + static_cast<std::uint64_t>(us_between(asked, answered)) < known_earliest;
  constexpr base::Duration kWorthless = std::chrono::seconds(20);
  if (says_more || was_set_back || age(answered) > kWorthless) sample_ = fresh;
}

}  // namespace cistern::l2
