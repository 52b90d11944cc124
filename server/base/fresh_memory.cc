#include "server/base/fresh_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace cistern::base {
namespace {

constexpr std::uintptr_t kPageBytes = 4 * proto::kKiB;
// At least so much at once, for who fills it with little.
constexpr std::uintptr_t kStepBytes = 64 * proto::kKiB;
// Chunks that a thread fills at the same time; of more, some are populated by writing.
constexpr std::size_t kMappings = 64;

struct Range {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  bool empty() const { return begin == end; }
};

struct Fresh {
  std::array<Range, kMappings> ranges;
  std::size_t next = 0;   // to be forgotten when all are in use
  std::size_t count = 0;  // in use
};

Fresh& of_thread() {
  static thread_local Fresh fresh;
  return fresh;
}

}  // namespace

void note_fresh(MutableBytes mapping) {
  Fresh& fresh = of_thread();
  if (fresh.count == kMappings) {
    fresh.ranges[fresh.next] = {};
    fresh.next = (fresh.next + 1) % kMappings;
    --fresh.count;
  }
  Range& range = *std::ranges::find_if(fresh.ranges, &Range::empty);
  ++fresh.count;
  range.begin = reinterpret_cast<std::uintptr_t>(mapping.data());
  range.end = range.begin + mapping.size();
}

void populate_fresh(MutableBytes area) {
  Fresh& fresh = of_thread();
  if (fresh.count == 0) return;
  const auto begin = reinterpret_cast<std::uintptr_t>(area.data());
  const std::uintptr_t end = (begin + area.size() + kPageBytes - 1) / kPageBytes * kPageBytes;
  for (Range& range : fresh.ranges) {
    if (range.empty() || begin >= range.end || end <= range.begin) continue;
    const std::uintptr_t from = std::max(range.begin, begin / kPageBytes * kPageBytes);
    const std::uintptr_t until = std::min(range.end, std::max(end, from + kStepBytes));
    ::madvise(reinterpret_cast<void*>(from), until - from, MADV_POPULATE_WRITE);
    // It is filled in order: what lies before was written.
    range.begin = until;
    if (range.empty()) --fresh.count;
  }
}

}  // namespace cistern::base
