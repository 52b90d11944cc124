#include "server/service/l1_only.h"

#include <utility>

#include <fmt/format.h>

namespace cistern::service {

base::Result<L1OnlyKeys::Mark> L1OnlyKeys::add(std::string_view key) {
  const std::lock_guard lock(mutex_);
  if (const auto found = by_key_.find(key); found != by_key_.end()) {
    entries_.splice(entries_.end(), entries_, found->second);
    return found->second->mark = ++last_mark_;
  }
  const std::uint64_t bytes = key.size() + kMarkBytes;
  const std::uint64_t most_bytes = ledger_.budgets().l2_buffers / 4;
  base::Reservation share;
  if (entries_.size() < kMost && bytes_ + bytes <= most_bytes) {
    share = ledger_.try_reserve(base::Account::kL2Buffers, bytes);
  }
  if (!share) {
    return base::fail(
        base::Status::kNoRoom,
        fmt::format("{} keys in {} bytes are stored in L1 alone already, until the second tier can "
                    "be told; at most {} keys in {} bytes may be (l2.on_failure.put: l1_only)",
                    entries_.size(), bytes_, kMost, most_bytes));
  }
  const Mark mark = ++last_mark_;
  entries_.push_back({std::string(key), mark, std::move(share)});
  by_key_.emplace(entries_.back().key, std::prev(entries_.end()));
  bytes_ += bytes;
  size_.store(entries_.size(), std::memory_order_relaxed);
  return mark;
}

std::optional<L1OnlyKeys::Mark> L1OnlyKeys::find(std::string_view key) const {
  if (size() == 0) return std::nullopt;
  const std::lock_guard lock(mutex_);
  const auto found = by_key_.find(key);
  return found == by_key_.end() ? std::nullopt : std::optional(found->second->mark);
}

void L1OnlyKeys::settle(std::string_view key, Mark mark) {
  const std::lock_guard lock(mutex_);
  const auto found = by_key_.find(key);
  if (found == by_key_.end() || found->second->mark != mark) return;
  const Entries::iterator entry = found->second;
  bytes_ -= key.size() + kMarkBytes;
  by_key_.erase(found);  // before what it views
  entries_.erase(entry);
  size_.store(entries_.size(), std::memory_order_relaxed);
}

std::vector<std::string> L1OnlyKeys::oldest(std::size_t most) const {
  std::vector<std::string> keys;
  const std::lock_guard lock(mutex_);
  for (const Entry& entry : entries_) {
    if (keys.size() == most) break;
    keys.push_back(entry.key);
  }
  return keys;
}

}  // namespace cistern::service
