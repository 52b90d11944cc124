// A memcached server's own clock, as far as it can be known from here.
//
// memcached counts whole seconds from its start, looks at the time once a second, and reads an
// expiry above 30 days as a Unix time by that count; `stats` shows the same count as "time". So an
// absolute expiry means what this clock shows, whatever the machines' own clocks say. Every expiry
// that we send is absolute: a relative one would begin when the server gets to it, however late.
//
// Any thread.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>

#include "server/base/types.h"

namespace cistern::l2 {

class MemcachedClock {
 public:
  // The server answered `stats` with `server_s` to a question that left at `asked` and was answered
  // at `answered`. The newest counts.
  void measured(base::TimePoint asked, base::TimePoint answered, std::uint64_t server_s);
  // The newest measurement seems to be wrong: it isn't fresh any more. Others who go by it still
  // do.
  void doubt();
  // Whether a measurement is there, young enough for what follows and not in doubt.
  bool is_fresh(base::TimePoint now) const;

  // All below go by the newest measurement, fresh or not. There must be one, but for seconds().

  // What it shows at `now`, to within two seconds. 0 when nothing was measured.
  std::uint64_t seconds(base::TimePoint now) const;
  // The expiry of something that shall live for `ttl` from `now`, and for up to two seconds more.
  std::uint64_t expiry_in(base::TimePoint now, base::Duration ttl) const;

  // For what may happen until then and never later.
  struct Limit {
    std::uint64_t expiry_s = 0;  // not before `window` has passed, by any reading of the clock
    base::TimePoint over;        // when it has surely passed there
  };
  Limit limit(base::TimePoint now, base::Duration window) const;

 private:
  struct Sample {
    base::TimePoint asked;
    base::TimePoint answered;
    std::uint64_t server_s = 0;
  };
  mutable std::mutex mutex_;
  std::optional<Sample> sample_;
  bool is_doubtful_ = false;
};

// An expiry at which every item is over when it is stored: beyond what memcached takes for
// relative, and before any server's start.
inline constexpr std::uint64_t kLongPastSeconds = 30ull * 24 * 3600 + 1;

}  // namespace cistern::l2
