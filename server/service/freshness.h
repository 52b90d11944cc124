// Whether what L1 has may be served without asking L2, which other daemons write as well.
//
// Every entry that L2 has too carries when it was last proven: when the read or the commit that it
// comes from was sent, or a later question whether L2 still has the same. With invalidations
// (l2/invalidations.h) an entry to which nothing has happened is known to be current as of when
// their channel was last complete. Older than Options::max_staleness, or marked by an invalidation,
// it is proven again before it is served (proof.h).
#pragma once

#include <cstdint>

#include "server/base/types.h"
#include "server/l2/invalidations.h"

namespace cistern::service {

// As answers say it: never less than it is.
inline std::uint64_t age_ms(base::Duration age) {
  return static_cast<std::uint64_t>(std::chrono::ceil<std::chrono::milliseconds>(age).count());
}

enum class OnStale : std::uint8_t { kServe, kError };

struct FreshnessOptions {
  base::Duration max_staleness{0};     // 0: there is no L2
  OnStale on_stale = OnStale::kServe;  // past that, when L2 can't be asked
  base::Duration revalidate_timeout = std::chrono::milliseconds(20);  // how long it is asked
};

// One for the process; any thread.
class Freshness {
 public:
  // `invalidations` may be null, and outlives it.
  Freshness(const FreshnessOptions& options, const l2::Invalidations* invalidations)
      : options_(options), invalidations_(invalidations) {}

  bool applies() const { return options_.max_staleness > base::Duration{0}; }
  const FreshnessOptions& options() const { return options_; }
  // What L1 is to keep of a proof: nothing where there is no L2.
  base::TimePoint kept(base::TimePoint proven_at) const {
    return applies() ? proven_at : base::TimePoint{};
  }

  struct Verdict {
    bool marked = false;    // something may have happened to it
    bool in_bound = true;   // not older than max_staleness
    bool soon = false;      // it will be, in a fifth of that
    base::Duration age{0};  // since it is known to have been current

    bool trusted() const { return in_bound && !marked; }
  };
  // Of something that was read from L2, or proven, at `proven_at`. `hash` is base::hash_key(key).
  Verdict judge(base::Bytes key, std::uint64_t hash, base::TimePoint proven_at,
                base::TimePoint now) const {
    if (!applies()) return {};
    l2::Invalidations::Knowledge known{false, proven_at};
    if (invalidations_ != nullptr) known = invalidations_->of(key, hash, proven_at);
    const base::Duration age = now - known.known_at;
    return {known.marked, age <= options_.max_staleness, age > options_.max_staleness / 5 * 4, age};
  }
  bool trusts(base::Bytes key, std::uint64_t hash, base::TimePoint proven_at,
              base::TimePoint now) const {
    return judge(key, hash, proven_at, now).trusted();
  }
  void prefetch(std::uint64_t hash) const {
    if (invalidations_ != nullptr) invalidations_->prefetch(hash);
  }

 private:
  const FreshnessOptions options_;
  const l2::Invalidations* const invalidations_;
};

}  // namespace cistern::service
