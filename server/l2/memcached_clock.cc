#include "server/l2/memcached_clock.h"

#include <algorithm>
#include <chrono>

#include "server/base/check.h"

namespace cistern::l2 {
namespace {

using std::chrono::duration_cast;
using std::chrono::microseconds;
using std::chrono::seconds;

// Two clocks drift apart by less than this part, more than any that is disciplined.
constexpr std::int64_t kDriftDivisor = 1000;
// A whole second is shown, and it is looked at once a second.
constexpr base::Duration kCoarseness = seconds(2);
constexpr base::Duration kFreshFor = seconds(60);
// The count is read into 32 bits with a sign: nothing expires later than in January 2038.
constexpr std::uint64_t kLastSecond = 0x7fffffff;

base::Duration widened(base::Duration passed) { return passed + passed / kDriftDivisor; }

std::uint64_t whole_seconds(base::Duration duration) {
  const auto us = std::max<std::int64_t>(0, duration_cast<microseconds>(duration).count());
  return static_cast<std::uint64_t>((us + 999'999) / 1'000'000);
}

}  // namespace

void MemcachedClock::measured(base::TimePoint asked, base::TimePoint answered,
                              std::uint64_t server_s) {
  const std::lock_guard lock(mutex_);
  sample_ = Sample{asked, answered, server_s};
  is_doubtful_ = false;
}

void MemcachedClock::doubt() {
  const std::lock_guard lock(mutex_);
  is_doubtful_ = true;
}

bool MemcachedClock::is_fresh(base::TimePoint now) const {
  const std::lock_guard lock(mutex_);
  return sample_ && !is_doubtful_ && now - sample_->answered < kFreshFor;
}

std::uint64_t MemcachedClock::seconds(base::TimePoint now) const {
  const std::lock_guard lock(mutex_);
  if (!sample_) return 0;
  const base::Duration passed = std::max(base::Duration::zero(), now - sample_->answered);
  return sample_->server_s +
         static_cast<std::uint64_t>(duration_cast<std::chrono::seconds>(passed).count());
}

std::uint64_t MemcachedClock::expiry_in(base::TimePoint now, base::Duration ttl) const {
  const std::lock_guard lock(mutex_);
  CHECK(sample_);  // else what is stored would be over at once, and said to be there
  const base::Duration passed = std::max(base::Duration::zero(), now - sample_->asked);
  const std::uint64_t at = sample_->server_s + whole_seconds(widened(passed) + ttl) + 1;
  return std::min(at, kLastSecond);
}

MemcachedClock::Limit MemcachedClock::limit(base::TimePoint now, base::Duration window) const {
  const std::lock_guard lock(mutex_);
  CHECK(sample_);
  const base::Duration passed = std::max(base::Duration::zero(), now - sample_->asked);
  const std::uint64_t ahead = whole_seconds(widened(passed + window)) + 1;
  const base::Duration until = std::chrono::seconds(ahead) + kCoarseness;
  return {sample_->server_s + ahead, sample_->answered + widened(widened(until))};
}

}  // namespace cistern::l2
