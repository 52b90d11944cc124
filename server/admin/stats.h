// The statistics in JSON: for /stats, for the wire's STATS and for `cistern stats`, made in one
// place.
#pragma once

#include <string>

#include "server/admin/sources.h"

namespace cistern::admin {

// Any thread; at most proto::kMaxStatsBytes. Sizes in bytes, times in seconds.
std::string stats_json(const Sources& sources);

}  // namespace cistern::admin
