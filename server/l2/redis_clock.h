// What Redis' clock shows, as far as it can be known from here: never more than it really does.
#pragma once

#include <optional>

#include "server/base/types.h"

namespace cistern::l2 {

// A commit carries the latest time, by Redis' own clock, at which it may still happen. The daemon
// calls its outcome unknown only when that time has surely passed, so it works with the earliest
// time that Redis' clock can show. Between two measurements the clocks may drift apart by one part
// in a thousand, more than any clock that is disciplined; a step backwards of Redis' clock is
// covered up to the commit margin.
class RedisClock {
 public:
  // Redis answered TIME with `redis_us` to a question that left at `asked` and was answered at
  // `answered`. Kept when it says more than what is known, or
  // that the clock was set back.
  void measured(base::TimePoint asked, base::TimePoint answered, std::uint64_t redis_us);
  void forget() { sample_.reset(); }

  bool is_known() const { return sample_.has_value(); }
  // Since the last measurement that was kept.
  base::Duration age(base::TimePoint now) const { return now - sample_->answered; }
  // Unix ms; is_known() must hold.
  std::uint64_t earliest_ms(base::TimePoint now) const { return earliest_us(now) / 1000; }

 private:
  struct Sample {
    base::TimePoint answered;
    std::uint64_t redis_us = 0;
  };
  std::uint64_t earliest_us(base::TimePoint now) const;

  std::optional<Sample> sample_;
};

}  // namespace cistern::l2
