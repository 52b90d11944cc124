#include "server/base/spare_pool.h"

#include <sys/mman.h>

#include <algorithm>

namespace cistern::base {
namespace {

constexpr std::chrono::seconds kSpareAge{5};
// Unmapping takes about 0.1 ms for each MiB, on a thread that serves.
constexpr std::uint64_t kReleasedAtOnce = 16 * proto::kMiB;

}  // namespace

std::byte* SparePool::take(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (const auto found = by_size_.find(bytes); found != by_size_.end()) {
    const Order::iterator newest = found->second.back();
    std::byte* const data = newest->data;
    found->second.pop_back();
    if (found->second.empty()) by_size_.erase(found);
    order_.erase(newest);
    kept_.fetch_sub(bytes, std::memory_order_relaxed);
    return data;
  }
  const auto cold = std::ranges::find(cold_, bytes, &Spare::bytes);
  if (cold == cold_.end()) return nullptr;
  std::byte* const data = cold->data;
  cold_.erase(cold);
  return data;
}

void SparePool::give(std::byte* data, std::size_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    order_.push_back({data, bytes, std::chrono::steady_clock::now()});
    by_size_[bytes].push_back(std::prev(order_.end()));
    kept_.fetch_add(bytes, std::memory_order_relaxed);
  }
  trim();
}

void SparePool::add_live(std::int64_t bytes) {
  live_.fetch_add(static_cast<std::uint64_t>(bytes), std::memory_order_relaxed);
  if (bytes > 0) trim();
}

void SparePool::add_other(std::int64_t bytes) {
  other_.fetch_add(static_cast<std::uint64_t>(bytes), std::memory_order_relaxed);
  if (bytes > 0) trim();
}

void SparePool::set_limit(std::uint64_t bytes) {
  limit_ = bytes;
  trim();
}

void SparePool::set_budget(std::uint64_t bytes) {
  budget_ = bytes;
  trim();
}

bool SparePool::too_many() const {
  const std::uint64_t kept = kept_.load(std::memory_order_relaxed);
  if (kept <= limit_.load(std::memory_order_relaxed)) return false;
  return live_.load(std::memory_order_relaxed) + other_.load(std::memory_order_relaxed) + kept >
         budget_.load(std::memory_order_relaxed);
}

void SparePool::trim() {
  if (!too_many()) return;
  std::vector<Spare> dropped;
  {
    const std::lock_guard lock(mutex_);
    // The oldest go first, so that a size that is no longer asked for doesn't stay.
    while (!order_.empty() && too_many()) drop_oldest_locked(dropped);
  }
  unmap(dropped);
}

std::uint64_t SparePool::release(std::uint64_t bytes_wanted) {
  std::vector<Spare> dropped;
  std::uint64_t released = 0;
  {
    const std::lock_guard lock(mutex_);
    for (; !order_.empty() && released < bytes_wanted; released += dropped.back().bytes) {
      drop_oldest_locked(dropped);
    }
  }
  unmap(dropped);
  return released;
}

void SparePool::release_old(TimePoint now) {
  std::vector<Spare> dropped;
  {
    const std::lock_guard lock(mutex_);
    const std::uint64_t before = bytes();
    while (!order_.empty() && bytes() > limit_.load(std::memory_order_relaxed) &&
           now - order_.front().given_at >= kSpareAge && before - bytes() < kReleasedAtOnce) {
      drop_oldest_locked(dropped);
    }
  }
  unmap(dropped);
}

void SparePool::drop_oldest_locked(std::vector<Spare>& dropped) {
  const Spare oldest = order_.front();
  const auto same = by_size_.find(oldest.bytes);
  same->second.pop_front();
  if (same->second.empty()) by_size_.erase(same);
  order_.pop_front();
  kept_.fetch_sub(oldest.bytes, std::memory_order_relaxed);
  dropped.push_back(oldest);
}

void SparePool::unmap(const std::vector<Spare>& dropped) {
  for (const Spare& spare : dropped) {
    if (::munmap(spare.data, spare.bytes) == 0) continue;
    // The kernel has no room for one more hole (vm.max_map_count): the memory goes back, the
    // addresses stay and are used again.
    ::madvise(spare.data, spare.bytes, MADV_DONTNEED);
    const std::lock_guard lock(mutex_);
    cold_.push_back(spare);
  }
}

}  // namespace cistern::base
