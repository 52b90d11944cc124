// Keys whose newest value was put into L1 alone, because L2 could not be told of it (l2.on_failure:
// {put: l1_only}).
//
// What L2 has under such a key is older than what was acknowledged: if L1 evicts the newer value,
// the older one must not come back. So a marked key is settled before L2 is read for it, or
// compared with a condition: what L2 has is removed (edit.h). The mark stays until that, or another
// write of the key, has succeeded. The table is bounded; a key that it can't take can't be put into
// L1 alone. It doesn't outlive the process: after a restart in the middle of such a time L2's older
// values are found again.
//
// One for the process; any thread. A mark is made, and settled, by who holds the key's turn.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "server/base/ledger.h"
#include "server/base/types.h"

namespace cistern::service {

class L1OnlyKeys {
 public:
  static constexpr std::size_t kMost = 65536;
  // What a key costs beside its bytes, in Account::kL2Buffers, of which marks take a quarter at
  // most: the rest is for writes on their way.
  static constexpr std::uint64_t kMarkBytes = 256;

  // Numbered, so that what was removed from L2 for one mark doesn't settle a later one.
  using Mark = std::uint64_t;

  explicit L1OnlyKeys(base::Ledger& ledger) : ledger_(ledger) {}
  L1OnlyKeys(const L1OnlyKeys&) = delete;
  L1OnlyKeys& operator=(const L1OnlyKeys&) = delete;

  // The error (kNoRoom) says which bound is reached.
  base::Result<Mark> add(std::string_view key);
  // Costs one load where no key is marked.
  std::optional<Mark> find(std::string_view key) const;
  bool has(std::string_view key) const { return find(key).has_value(); }
  // L2 has nothing older any more. Nothing happens when the key was marked again since.
  void settle(std::string_view key, Mark mark);

  std::size_t size() const { return size_.load(std::memory_order_relaxed); }
  // Those that wait longest.
  std::vector<std::string> oldest(std::size_t most) const;

 private:
  struct Entry {
    std::string key;
    Mark mark = 0;
    base::Reservation share;
  };
  using Entries = std::list<Entry>;

  base::Ledger& ledger_;
  std::atomic<std::size_t> size_{0};
  mutable std::mutex mutex_;
  Entries entries_;  // in the order of their marks
  std::unordered_map<std::string_view, Entries::iterator> by_key_;
  Mark last_mark_ = 0;
  std::uint64_t bytes_ = 0;
};

}  // namespace cistern::service
