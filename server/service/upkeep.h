// Changes of chunks' expiry that nobody waits for: the release of replaced and abandoned chunk
// sets, renewals. In slices, a few at a time, in a bounded queue. What fails or doesn't fit is
// counted and logged: then chunks keep the expiry that they have, and a value may be lost early,
// never wrong.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>

#include "server/base/metrics.h"
#include "server/l2/store.h"

namespace cistern::service {

// One loop's.
class Upkeep {
 public:
  static constexpr std::size_t kMaxQueued = 256;
  static constexpr std::size_t kMaxRunning = 4;
  static constexpr std::uint64_t kSliceChunks = 1024;

  // `store` may be null when expire() is never called. `idle` is called whenever the last one ends.
  Upkeep(l2::Store* store, base::WorkerMetrics& metrics, std::function<void()> idle);
  ~Upkeep();
  Upkeep(const Upkeep&) = delete;
  Upkeep& operator=(const Upkeep&) = delete;

  // As Store::expire_chunks, for the chunks from `first` to the set's end. `wanted`, if there is
  // one, is asked when the change is about to be sent, which may be a while later, and before each
  // of its slices.
  void expire(l2::ChunkSet set, std::uint64_t first, base::Duration ttl, bool only_longer,
              std::function<bool()> wanted = {});

  bool idle() const;

 private:
  struct State;
  const std::shared_ptr<State> state_;
};

// One set, in slices, waited for: `done` gets how many of the chunks were there. Not counted among
// the upkeep.
void expire_all(l2::Store& store, l2::ChunkSet set, std::uint64_t first, base::Duration ttl,
                bool only_longer, l2::Callback<std::uint64_t> done,
                std::function<bool()> wanted = {});

}  // namespace cistern::service
