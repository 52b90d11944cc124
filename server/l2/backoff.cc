#include "server/l2/backoff.h"

#include <algorithm>

#include "server/base/rng.h"

namespace cistern::l2 {

Backoff::Backoff()
    : random_(static_cast<std::minstd_rand::result_type>(base::random_seed() & 0x7fffffff)) {}

base::Duration Backoff::next() {
  using std::chrono::milliseconds;
  constexpr std::int64_t kFirstMs = 50;
  constexpr std::int64_t kLastMs = std::chrono::duration_cast<milliseconds>(kLongest).count();
  constexpr unsigned kDoublings = 7;
  static_assert(kFirstMs << kDoublings >= kLastMs);
  const std::int64_t whole = std::min(kLastMs, kFirstMs << std::min(failures_, kDoublings));
  ++failures_;
  std::uniform_int_distribution<std::int64_t> off(0, whole / 2);
  return milliseconds(whole - off(random_));
}

}  // namespace cistern::l2
