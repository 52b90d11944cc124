// The open requests of one connection, by id. Most requests are answered before the next frame is
// looked at, and those never reach the table: the one that was opened last has a place of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace cistern::proto {

template <typename Stream>
class OpenStreams {
 public:
  // Null when it isn't open. Stands until settle() or until it is closed.
  Stream* find(std::uint32_t id) {
    if (has_latest_ && latest_id_ == id) return &latest_;
    if (settled_.empty()) return nullptr;
    const auto found = settled_.find(id);
    return found == settled_.end() ? nullptr : &found->second;
  }
  bool contains(std::uint32_t id) { return find(id) != nullptr; }

  // `id` isn't open.
  Stream& open(std::uint32_t id, const Stream& stream) {
    settle();
    has_latest_ = true;
    latest_id_ = id;
    return latest_ = stream;
  }
  // The latest one was not answered at once.
  void settle() {
    if (!has_latest_) return;
    has_latest_ = false;
    settled_.emplace(latest_id_, latest_);
  }
  void close(std::uint32_t id) {
    if (has_latest_ && latest_id_ == id) {
      has_latest_ = false;
    } else if (!settled_.empty()) {
      settled_.erase(id);
    }
  }

  std::size_t size() const { return settled_.size() + (has_latest_ ? 1 : 0); }
  std::vector<std::uint32_t> ids() const {
    std::vector<std::uint32_t> all;
    all.reserve(size());
    for (const auto& [id, stream] : settled_) all.push_back(id);
    if (has_latest_) all.push_back(latest_id_);
    return all;
  }

 private:
  bool has_latest_ = false;
  std::uint32_t latest_id_ = 0;
  Stream latest_{};
  std::unordered_map<std::uint32_t, Stream> settled_;
};

}  // namespace cistern::proto
