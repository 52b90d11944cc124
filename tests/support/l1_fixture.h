// A vocabulary for tests of L1: values made from numbers, time in the test's hands.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "server/l1/cache.h"

namespace cistern::testing {

using base::Duration;
using base::TimePoint;

inline std::string pattern(std::uint64_t seed, std::size_t size) {
  std::string text(size, '\0');
  for (std::size_t i = 0; i < size; i += sizeof seed) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    const std::uint64_t mixed = seed ^ seed >> 29;
    std::memcpy(text.data() + i, &mixed, std::min(sizeof mixed, size - i));
  }
  return text;
}

inline base::ValuePtr chunked(base::ValueMeta meta, std::string_view content) {
  std::vector<base::ChunkPtr> chunks;
  meta.size = content.size();
  for (std::size_t at = 0; at < content.size(); at += meta.chunk_bytes) {
    const std::string_view part = content.substr(at, meta.chunk_bytes);
    auto chunk = base::Chunk::allocate(part.size());
    std::memcpy(chunk->space().data(), part.data(), part.size());
    chunk->seal(part.size(), proto::chunk_digest(proto::as_bytes(part)));
    chunks.push_back(std::move(chunk));
  }
  return std::make_shared<base::ChunkedValue>(std::move(meta), std::move(chunks));
}

inline std::string content_of(const base::ChunkedValue& value) {
  std::string text;
  for (std::uint64_t i = 0; i * value.meta().chunk_bytes < value.meta().size; ++i) {
    const base::ChunkPtr chunk = value.chunk(i);
    if (chunk == nullptr) return "revoked";
    text += proto::as_text(chunk->bytes());
  }
  return text;
}

inline base::Ledger::Budgets ledger_with_held(std::uint64_t held_bytes) {
  base::Ledger::Budgets budgets;
  budgets.transfers = budgets.held = held_bytes;
  return budgets;
}

struct L1 {
  explicit L1(std::uint64_t budget_bytes, unsigned shards = 1, Duration max_age = Duration{0},
              std::uint64_t held_bytes = 0)
      : ledger(ledger_with_held(held_bytes)),
        cache(l1::Options{budget_bytes, max_age, shards}, ledger) {}

  struct Put {
    base::Version version = 1;
    std::uint64_t ttl_ms = 0;
    std::string metadata{};
    base::Condition condition{};
    Duration stay{0};
    std::uint32_t chunk_bytes = 64 * 1024;
    l1::Source source = l1::Source::kPut;
    TimePoint proven_at{};
  };

  static std::uint64_t hash(std::string_view key) { return base::hash_key(proto::as_bytes(key)); }

  l1::Cache::Outcome put(std::string_view key, std::string_view content, const Put& how) {
    base::ValueMeta meta;
    meta.size = content.size();
    meta.version = how.version;
    meta.chunk_bytes = how.chunk_bytes;
    meta.metadata = how.metadata;
    meta.expires_at_ms = how.ttl_ms == 0 ? 0 : unix_ms + how.ttl_ms;
    l1::NewEntry entry;
    entry.meta = &meta;
    entry.proven_at = how.proven_at;
    l1::Room room;
    if (l1::Cache::is_small(key.size(), meta.metadata.size(), content.size())) {
      entry.small = proto::as_bytes(content);
      entry.small_digest = proto::chunk_digest(entry.small);
    } else {
      room = reserve(key, content.size(), how.chunk_bytes, meta.metadata.size());
      if (!room) return l1::Cache::Outcome::kNoRoom;
      entry.large = chunked(meta, content);
    }
    return cache.insert(proto::as_bytes(key), hash(key), entry, std::move(room), how.condition,
                        how.source, how.stay, now, unix_ms);
  }
  l1::Cache::Outcome put(std::string_view key, std::string_view content) {
    return put(key, content, Put{});
  }

  l1::Room reserve(std::string_view key, std::uint64_t size, std::uint32_t chunk_bytes = 64 * 1024,
                   std::size_t metadata_bytes = 0) {
    return cache.reserve(proto::as_bytes(key), hash(key),
                         base::ChunkedValue::cost_for(size, chunk_bytes, metadata_bytes) +
                             cache.entry_overhead(key.size()),
                         now);
  }

  // The bytes, or "absent".
  std::string get(std::string_view key) {
    std::string text;
    const auto found =
        cache.find(proto::as_bytes(key), hash(key), now, [&](const l1::SmallView& view) {
          text = proto::as_text(view.bytes);
          small = view.digest == proto::chunk_digest(view.bytes);
        });
    if (!found.hit) return "absent";
    return found.large != nullptr ? content_of(*found.large) : text;
  }
  bool has(std::string_view key) const {
    return cache.peek(proto::as_bytes(key), hash(key), now).has_value();
  }
  base::ValuePtr large(std::string_view key) {
    return cache.find(proto::as_bytes(key), hash(key), now, [](const l1::SmallView&) {}).large;
  }
  l1::Cache::Erased erase(std::string_view key, const base::Condition& condition = {}) {
    return cache.erase(proto::as_bytes(key), hash(key), condition, l1::Removal::kDeleted, now);
  }
  bool touch(std::string_view key, base::Version version, std::uint64_t ttl_ms) {
    return cache.set_expiry(proto::as_bytes(key), hash(key), version,
                            ttl_ms == 0 ? 0 : unix_ms + ttl_ms, now, unix_ms);
  }
  // As the cache's, with what the entry has otherwise.
  bool prove(std::string_view key, base::Version version, TimePoint at) {
    const auto peek = cache.peek(proto::as_bytes(key), hash(key), now);
    return peek &&
           cache.set_proven(proto::as_bytes(key), hash(key), version, peek->expires_at_ms, at, now);
  }
  TimePoint proven_at(std::string_view key) const {
    return cache.peek(proto::as_bytes(key), hash(key), now)->proven_at;
  }
  void pass(std::chrono::milliseconds time) {
    now += time;
    unix_ms += static_cast<std::uint64_t>(time.count());
  }
  static std::uint64_t removed(const l1::Stats& stats, l1::Removal reason) {
    return stats.removed[static_cast<std::size_t>(reason)];
  }
  // What was inserted is there or was removed for a reason.
  static bool reconciles(const l1::Stats& stats) {
    std::uint64_t gone = 0;
    for (const std::uint64_t one : stats.removed) gone += one;
    return stats.inserted_by_put + stats.inserted_by_fill == stats.items + gone;
  }

  base::Ledger ledger;
  l1::Cache cache;
  TimePoint now{std::chrono::hours(1)};
  std::uint64_t unix_ms = 1'700'000'000'000;
  bool small = true;  // every small value that was read had its digest
};

}  // namespace cistern::testing
