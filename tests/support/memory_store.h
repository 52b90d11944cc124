// A second tier in this process whose every operation a test can stop before it takes effect (the
// request is on its way) or after (the answer is), and let fail. It exists to force interleavings;
// that a real Redis behaves as it does is for the tests that start one.
#pragma once

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>

#include "server/base/loop.h"
#include "server/l2/store.h"

namespace cistern::testing {

enum class Step { kManifest, kStamp, kRead, kWrite, kExpire, kCommit, kRemove };
enum class Point { kBefore, kAfter };

// What the stores of all workers share; one thread.
struct MemoryL2 {
  using ChunkName = std::tuple<std::string, base::Version, std::uint64_t>;
  struct Stored {
    base::ChunkPtr chunk;
    base::TimePoint expires_at;
    l2::Codec codec = l2::Codec::kRaw;
    std::uint32_t raw_bytes = 0;
    proto::ChunkDigest raw_digest = 0;
  };
  std::map<std::string, l2::Manifest> manifests;
  std::map<ChunkName, Stored> chunks;

  std::size_t chunks_at(base::TimePoint now) const {
    return static_cast<std::size_t>(std::count_if(
        chunks.begin(), chunks.end(), [&](auto& each) { return each.second.expires_at > now; }));
  }
};

class MemoryStore : public l2::Store {
 public:
  MemoryStore(MemoryL2& l2, base::Loop& loop, base::Duration provisional_ttl)
      : l2_(l2), loop_(loop), provisional_ttl_(provisional_ttl) {}

  // ---- The script.
  void pause(Step step, Point point) { paused_.insert({step, point}); }
  void resume(Step step, Point point) {
    paused_.erase({step, point});
    auto held = std::exchange(held_[{step, point}], {});
    for (auto& task : held) loop_.post(std::move(task));
  }
  // Lets the one that came first go on.
  void let_one(Step step, Point point) {
    auto& held = held_[{step, point}];
    loop_.post(std::move(held.front()));
    held.pop_front();
  }
  std::size_t held(Step step, Point point) { return held_[{step, point}].size(); }
  // The next operation of this kind does nothing and answers this.
  void fail_next(Step step, base::Status status) { failures_[step].push_back(status); }
  // The next commit or removal answers kUnknown, having happened or not.
  void unknown_next(bool happens) { unknown_.push_back(happens); }
  void set_available(bool available) { available_ = available; }
  // While it's down it isn't available, and every operation fails (kL2Unavailable).
  void set_down(bool down) {
    available_ = !down;
    is_down_ = down;
  }
  std::size_t count(Step step) const {
    const auto found = counts_.find(step);
    return found == counts_.end() ? 0 : found->second;
  }
  std::size_t cancelled() const { return cancelled_; }

  // ---- l2::Store
  base::Result<void> available() const override {
    if (available_) return {};
    return base::fail(base::Status::kL2Unavailable, "scripted");
  }

  void get_manifest(std::string key, l2::Callback<std::optional<l2::Manifest>> done) override {
    run<std::optional<l2::Manifest>>(Step::kManifest, std::move(done), [this, key] {
      const auto found = l2_.manifests.find(key);
      std::optional<l2::Manifest> manifest;
      if (found != l2_.manifests.end() && !expired(found->second)) manifest = found->second;
      return base::Result<std::optional<l2::Manifest>>(manifest);
    });
  }

  void get_stamp(std::string key, l2::Callback<std::optional<l2::Stamp>> done) override {
    run<std::optional<l2::Stamp>>(Step::kStamp, std::move(done), [this, key] {
      const auto found = l2_.manifests.find(key);
      std::optional<l2::Stamp> stamp;
      if (found != l2_.manifests.end() && !expired(found->second)) {
        stamp = l2::stamp_of(found->second.meta);
      }
      return base::Result<std::optional<l2::Stamp>>(stamp);
    });
  }

  ReadId read_chunk(const std::string& key, const base::ValueMeta& meta, std::uint64_t index,
                    l2::Form, l2::Callback<l2::StoredChunk> done) override {
    const ReadId id = ++last_read_;
    reads_.insert(id);
    auto unless_cancelled = [this, id,
                             done = std::move(done)](base::Result<l2::StoredChunk> chunk) {
      if (reads_.erase(id) > 0) done(std::move(chunk));
    };
    run<l2::StoredChunk>(
        Step::kRead, std::move(unless_cancelled),
        [this, name = MemoryL2::ChunkName{key, meta.version, index}] { return read(name); });
    return id;
  }
  void cancel_read(ReadId id) override { cancelled_ += reads_.erase(id); }

  void write_chunk(const std::string& key, base::Version version, std::uint64_t index,
                   l2::StoredChunk chunk, l2::Callback<void> done) override {
    run<void>(Step::kWrite, std::move(done), [this, key, version, index, chunk] {
      l2_.chunks[{key, version, index}] = {chunk.bytes, loop_.now() + provisional_ttl_, chunk.codec,
                                           chunk.raw_bytes, chunk.raw_digest};
      return base::Result<void>();
    });
  }

  void expire_chunks(const l2::ChunkSet& set, std::uint64_t first, std::uint64_t last,
                     base::Duration ttl, bool only_longer,
                     l2::Callback<std::uint64_t> done) override {
    run<std::uint64_t>(Step::kExpire, std::move(done), [=, this] {
      std::uint64_t there = 0;
      for (std::uint64_t index = first; index < last; ++index) {
        const auto found = l2_.chunks.find({set.key, set.version, index});
        if (found == l2_.chunks.end() || found->second.expires_at <= loop_.now()) continue;
        ++there;
        const base::TimePoint at = loop_.now() + ttl;
        if (!only_longer || at > found->second.expires_at) found->second.expires_at = at;
      }
      return base::Result<std::uint64_t>(there);
    });
  }

  void commit(std::string key, const base::Condition& condition, const l2::Manifest& manifest,
              l2::Callback<l2::CommitResult> done) override {
    run<l2::CommitResult>(Step::kCommit, std::move(done),
                          [=, this] { return edit(key, condition, &manifest); });
  }
  void remove(std::string key, const base::Condition& condition,
              l2::Callback<l2::CommitResult> done) override {
    run<l2::CommitResult>(Step::kRemove, std::move(done),
                          [=, this] { return edit(key, condition, nullptr); });
  }
  void discard(std::string key, base::Version version) override {
    const auto found = l2_.manifests.find(key);
    if (found != l2_.manifests.end() && found->second.meta.version == version) {
      l2_.manifests.erase(found);
    }
  }
  void close(std::function<void()> closed) override { loop_.post(std::move(closed)); }

 private:
  template <typename T>
  void run(Step step, l2::Callback<T> done, std::function<base::Result<T>()> apply) {
    ++counts_[step];
    if (auto& failures = failures_[step]; !failures.empty()) {
      const base::Status status = failures.front();
      failures.pop_front();
      apply = [status]() -> base::Result<T> { return base::fail(status, "scripted"); };
    } else if (is_down_) {
      apply = []() -> base::Result<T> {
        return base::fail(base::Status::kL2Unavailable, "scripted");
      };
    }
    at(step, Point::kBefore, [this, step, done = std::move(done), apply = std::move(apply)] {
      at(step, Point::kAfter, [done, result = apply()] { done(result); });
    });
  }

  void at(Step step, Point point, base::Task task) {
    if (paused_.contains({step, point})) {
      held_[{step, point}].push_back(std::move(task));
    } else {
      loop_.post(std::move(task));
    }
  }

  base::Result<l2::StoredChunk> read(const MemoryL2::ChunkName& name) {
    const auto found = l2_.chunks.find(name);
    if (found == l2_.chunks.end() || found->second.expires_at <= loop_.now()) {
      return base::lost(base::Loss::kMissing, "a chunk is missing");
    }
    const base::Bytes bytes = found->second.chunk->bytes();
    const auto copy = base::Chunk::allocate(bytes.size());
    std::copy(bytes.begin(), bytes.end(), copy->space().begin());
    copy->seal(bytes.size(), proto::chunk_digest(bytes));
    return l2::StoredChunk{found->second.codec, found->second.raw_bytes, found->second.raw_digest,
                           copy};
  }

  base::Result<l2::CommitResult> edit(const std::string& key, const base::Condition& condition,
                                      const l2::Manifest* manifest) {
    l2::CommitResult result;
    if (!unknown_.empty()) {
      const bool happens = unknown_.front();
      unknown_.pop_front();
      result.cause = "scripted";
      if (!happens) return result;
    } else {
      result.kind = l2::CommitKind::kCommitted;
    }
    const auto found = l2_.manifests.find(key);
    const bool there = found != l2_.manifests.end() && !expired(found->second);
    const auto current = there ? std::optional(found->second.meta.version) : std::nullopt;
    if (!condition.holds(current)) {
      result.kind = l2::CommitKind::kConditionFailed;
      return result;
    }
    if (there) {
      const base::ValueMeta& old = found->second.meta;
      result.replaced.existed = true;
      if (old.size > l2::kInlineBytes &&
          (manifest == nullptr || manifest->meta.version != old.version)) {
        result.replaced.chunks = l2::ChunkSet{key, old.version, old.chunk_count()};
      }
    }
    if (manifest != nullptr) {
      l2_.manifests[key] = *manifest;
    } else if (found != l2_.manifests.end()) {
      l2_.manifests.erase(found);
    }
    return result;
  }

  bool expired(const l2::Manifest& manifest) const {
    return manifest.meta.expires_at_ms != 0 && manifest.meta.expires_at_ms <= loop_.unix_ms();
  }

  MemoryL2& l2_;
  base::Loop& loop_;
  const base::Duration provisional_ttl_;
  bool available_ = true;
  bool is_down_ = false;
  std::set<std::pair<Step, Point>> paused_;
  std::map<std::pair<Step, Point>, std::deque<base::Task>> held_;
  std::map<Step, std::deque<base::Status>> failures_;
  std::deque<bool> unknown_;
  std::map<Step, std::size_t> counts_;
  std::set<ReadId> reads_;
  ReadId last_read_ = 0;
  std::size_t cancelled_ = 0;
};

}  // namespace cistern::testing
