// Room in L1 for a large value, made in steps between which the loop turns: evicting small entries
// for hundreds of MiB takes as many microseconds as there are entries.
#pragma once

#include <functional>
#include <memory>

#include "server/service/worker.h"

namespace cistern::service {

// Calls `done` with the room, or with an empty one when there is none; at once if it can, else
// later on the loop, unless `owner` is gone by then. `cost_bytes` as of Cache::reserve.
void make_room(const std::shared_ptr<Worker>& worker, const Key& key, std::uint64_t cost_bytes,
               std::weak_ptr<const void> owner, std::function<void(l1::Room)> done);

}  // namespace cistern::service
