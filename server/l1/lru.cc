#include "server/l1/lru.h"

#include <algorithm>

namespace cistern::l1 {
namespace {

constexpr std::uint64_t kProtectedPercent = 80;
constexpr std::int32_t kMoveAfter = 2 * kStampsPerSecond;
// Probation may be short; but a move costs two neighbours' cache lines.
constexpr std::int32_t kRenewAfter = kStampsPerSecond / 16;
// A large value that enters protected may push out many; what is left over falls back later.
constexpr unsigned kDemotionsPerUse = 8;

}  // namespace

void Lru::push(Handle handle) {
  Block& block = arena_.at(handle);
  List& list = list_of(block);
  block.newer = kNoHandle;
  block.older = list.newest;
  (list.newest != kNoHandle ? arena_.at(list.newest).newer : list.oldest) = handle;
  list.newest = handle;
  list.bytes += weight(block);
}

void Lru::unlink(Handle handle) {
  Block& block = arena_.at(handle);
  List& list = list_of(block);
  (block.newer != kNoHandle ? arena_.at(block.newer).older : list.newest) = block.older;
  (block.older != kNoHandle ? arena_.at(block.older).newer : list.oldest) = block.newer;
  list.bytes -= weight(block);
}

void Lru::insert(Handle handle, bool to_protected, Stamp now) {
  Block& block = arena_.at(handle);
  block.stamp = now;
  if (to_protected) block.set(kProtected);
  push(handle);
  balance();
}

void Lru::remove(Handle handle) { unlink(handle); }

bool Lru::touch(Handle handle, Stamp now) {
  Block& block = arena_.at(handle);
  if (block.has(kProtected) && later_by(now, block.stamp) < kMoveAfter) return false;
  unlink(handle);
  block.set(kProtected);
  block.stamp = now;
  push(handle);
  balance();
  return true;
}

void Lru::renew(Handle handle, Stamp now) {
  Block& block = arena_.at(handle);
  const std::int32_t tolerated = block.has(kProtected) ? kMoveAfter : kRenewAfter;
  if (later_by(now, block.stamp) < tolerated) return;
  unlink(handle);
  block.stamp = now;
  push(handle);
}

void Lru::balance() {
  List& kept = lists_[1];
  const std::uint64_t most = std::max(bytes(), share_bytes_) / 100 * kProtectedPercent;
  for (unsigned i = 0; i < kDemotionsPerUse; ++i) {
    if (kept.oldest == kNoHandle || kept.bytes <= most) return;
    const Handle handle = kept.oldest;
    unlink(handle);
    arena_.at(handle).clear(kProtected);
    push(handle);
  }
}

void Lru::relink(Handle to) {
  Block& block = arena_.at(to);
  List& list = list_of(block);
  (block.newer != kNoHandle ? arena_.at(block.newer).older : list.newest) = to;
  (block.older != kNoHandle ? arena_.at(block.older).newer : list.oldest) = to;
}

Handle Lru::victim(Handle spared) const {
  for (const List& list : lists_) {
    Handle handle = list.oldest;
    if (handle != kNoHandle && handle == spared) handle = arena_.at(handle).newer;
    if (handle != kNoHandle) return handle;
  }
  return kNoHandle;
}

}  // namespace cistern::l1
