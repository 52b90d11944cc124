// How long to wait before the next attempt at what has failed.
#pragma once

#include <random>

#include "server/base/types.h"

namespace cistern::l2 {

// Delays doubled from 50 ms up to 5 s, each with up to half of it taken off at random, so that
// daemons which lost the same server don't return all at once.
class Backoff {
 public:
  static constexpr base::Duration kLongest = std::chrono::seconds(5);

  Backoff();
  base::Duration next();
  void reset() { failures_ = 0; }

 private:
  std::minstd_rand random_;
  unsigned failures_ = 0;
};

}  // namespace cistern::l2
