#include <gtest/gtest.h>

#include "server/base/rng.h"
#include "server/l1/block.h"
#include "tests/support/l1_fixture.h"

namespace cistern::testing {
namespace {

using l1::Cache;
using l1::Removal;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint64_t kMiB = proto::kMiB;

base::Condition if_absent() { return {base::Condition::Kind::kIfAbsent, 0}; }
base::Condition if_version(base::Version version) {
  return {base::Condition::Kind::kIfVersion, version};
}

TEST(Cache, GivesBackWhatWasStored) {
  L1 l1(8 * kMiB);
  for (const std::size_t size : {0u, 1u, 100u, 4096u, 4097u, 65536u, 1000000u}) {
    const std::string key = "k" + std::to_string(size);
    ASSERT_EQ(l1.put(key, pattern(size, size), {.version = size + 1, .metadata = "{\"a\":1}"}),
              Cache::Outcome::kStored);
    EXPECT_EQ(l1.get(key), pattern(size, size));
    const auto peek = l1.cache.peek(proto::as_bytes(key), L1::hash(key), l1.now);
    ASSERT_TRUE(peek);
    EXPECT_EQ(peek->version, size + 1);
    EXPECT_EQ(peek->size, size);
  }
  EXPECT_TRUE(l1.small);
  EXPECT_EQ(l1.cache.stats().items, 7u);
  EXPECT_TRUE(L1::reconciles(l1.cache.stats()));
}

TEST(Cache, SmallViewHasAllThatWasStored) {
  L1 l1(kMiB);
  l1.put("key", "value", {.version = 77, .ttl_ms = 5000, .metadata = "{}", .chunk_bytes = 1044480});
  bool ran = false;
  l1.cache.find(proto::as_bytes("key"), L1::hash("key"), l1.now, [&](const l1::SmallView& view) {
    ran = true;
    EXPECT_EQ(view.size, 5u);
    EXPECT_EQ(view.version, 77u);
    EXPECT_EQ(view.expires_at_ms, l1.unix_ms + 5000);
    EXPECT_EQ(view.chunk_bytes, 1044480u);
    EXPECT_EQ(proto::as_text(view.metadata), "{}");
    EXPECT_EQ(proto::as_text(view.bytes), "value");
  });
  EXPECT_TRUE(ran);
}

TEST(Cache, OverwritesASmallValueInItsSlot) {
  L1 l1(kMiB, 1);
  // All of one size class, with and without a lifetime.
  const std::size_t lifetime = sizeof(l1::Lifetime);
  l1.put("key", pattern(1, 90 + lifetime), {.version = 1, .metadata = "{}"});
  l1.put("key", pattern(2, 91), {.version = 2, .ttl_ms = 5000});
  EXPECT_EQ(l1.get("key"), pattern(2, 91));
  EXPECT_EQ(l1.cache.describe(proto::as_bytes("key"), L1::hash("key"), l1.now)->meta.metadata, "");
  l1.put("key", pattern(3, 92 + lifetime), {.version = 3});
  l1.now += seconds(10);
  EXPECT_EQ(l1.get("key"), pattern(3, 92 + lifetime));
  const l1::Stats stats = l1.cache.stats();
  EXPECT_EQ(stats.items, 1u);
  EXPECT_EQ(stats.value_bytes, 92 + lifetime);
  EXPECT_EQ(stats.removed[static_cast<std::size_t>(Removal::kReplaced)], 2u);
  EXPECT_TRUE(L1::reconciles(stats));
}

TEST(Cache, LongestKeyHoldsALargeValue) {
  L1 l1(4 * kMiB);
  const std::string key(proto::kMaxKeyBytes, 'k');
  ASSERT_EQ(l1.put(key, pattern(1, 300000), {.ttl_ms = 1000}), Cache::Outcome::kStored);
  EXPECT_EQ(l1.get(key), pattern(1, 300000));
}

TEST(Cache, OverheadOfA100ByteValueIsAtMost84Bytes) {
  L1 l1(512 * kMiB, 0);
  constexpr unsigned kItems = 1'000'000;
  constexpr std::size_t kKeyBytes = 16;
  const std::string value = pattern(1, 100);
  for (unsigned i = 0; i < kItems; ++i) {
    char key[kKeyBytes + 1];
    std::snprintf(key, sizeof key, "key:%012u", i);
    ASSERT_EQ(l1.put(key, value), Cache::Outcome::kStored);
  }
  const l1::Stats stats = l1.cache.stats();
  ASSERT_EQ(stats.items, kItems);
  const double each = static_cast<double>(stats.used_bytes) / kItems - 100 - kKeyBytes;
  RecordProperty("overhead_bytes", std::to_string(each));
  EXPECT_LE(each, 84.0);
}

TEST(Cache, BudgetIsNeverPassedAndUsed) {
  L1 l1(4 * kMiB, 4);
  for (unsigned i = 0; i < 100'000; ++i) {
    ASSERT_EQ(l1.put(std::to_string(i), pattern(i, 100)), Cache::Outcome::kStored);
    ASSERT_LE(l1.cache.stats().used_bytes, 4 * kMiB);
  }
  EXPECT_GE(l1.cache.stats().used_bytes, 4 * kMiB * 85 / 100);
  EXPECT_TRUE(L1::reconciles(l1.cache.stats()));
}

TEST(Cache, ValueThatCostsTheWholeBudgetIsStored) {
  constexpr std::uint32_t kChunk = 256 * 1024;
  constexpr std::uint64_t kSize = 5 * kMiB;
  const std::uint64_t cost =
      base::ChunkedValue::cost_for(kSize, kChunk, 0) + L1(kMiB).cache.entry_overhead(3);
  L1 l1(cost, 4);
  for (unsigned i = 0; i < 30'000; ++i) l1.put(std::to_string(i), pattern(i, i % 3000));
  EXPECT_TRUE(l1.cache.could_hold(cost));
  EXPECT_FALSE(l1.cache.could_hold(cost + 1));
  ASSERT_EQ(l1.put("big", pattern(1, kSize), {.chunk_bytes = kChunk}), Cache::Outcome::kStored);
  EXPECT_EQ(l1.get("big"), pattern(1, kSize));
  const l1::Stats stats = l1.cache.stats();
  EXPECT_EQ(stats.items, 1u);
  EXPECT_EQ(stats.reserved_bytes, 0u);
  EXPECT_LE(stats.used_bytes, cost);
  EXPECT_TRUE(L1::reconciles(stats));
}

TEST(Cache, OversizeReserveEvictsNothing) {
  L1 l1(4 * kMiB, 2);
  for (unsigned i = 0; i < 1000; ++i) l1.put(std::to_string(i), pattern(i, 1000));
  EXPECT_FALSE(l1.reserve("big", 4 * kMiB));
  EXPECT_EQ(l1.cache.stats().items, 1000u);
  EXPECT_EQ(l1.cache.stats().no_room, 1u);
  // Nor does one that is too large only because of what others have reserved.
  const l1::Room first = l1.reserve("a", 3 * kMiB);
  ASSERT_TRUE(first);
  const std::uint64_t left = l1.cache.stats().items;
  EXPECT_FALSE(l1.reserve("b", 2 * kMiB));
  EXPECT_EQ(l1.cache.stats().items, left);
}

TEST(Cache, SmallInsertBesideFullRoomsIsRefusedWithoutEviction) {
  L1 l1(2 * kMiB);
  l1.put("old", std::string(100, 'x'));
  const l1::Room room = l1.cache.reserve(proto::as_bytes("r"), 1, 2 * kMiB - 64 * 1024, l1.now);
  ASSERT_TRUE(room);
  ASSERT_TRUE(l1.has("old"));
  EXPECT_EQ(l1.put("new", pattern(1, 4000)), Cache::Outcome::kStored);
  EXPECT_EQ(l1.put("third", pattern(1, 2000)), Cache::Outcome::kStored);  // evicts
  l1::Room more = l1.cache.reserve(proto::as_bytes("r"), 1, 63 * 1024, l1.now);
  ASSERT_TRUE(more);
  EXPECT_EQ(l1.put("other", pattern(1, 1000)), Cache::Outcome::kNoRoom);
  EXPECT_TRUE(L1::reconciles(l1.cache.stats()));
}

TEST(Cache, RoomIsGivenBack) {
  L1 l1(4 * kMiB);
  {
    l1::Room room = l1.reserve("a", kMiB);
    ASSERT_TRUE(room);
    EXPECT_EQ(l1.cache.stats().used_bytes, room.bytes());
    ASSERT_TRUE(l1.cache.grow(room, proto::as_bytes("a"), L1::hash("a"), kMiB, l1.now));
    EXPECT_FALSE(l1.cache.grow(room, proto::as_bytes("a"), L1::hash("a"), 3 * kMiB, l1.now));
    const l1::Room moved = std::move(room);
    EXPECT_EQ(l1.cache.stats().used_bytes, moved.bytes());
  }
  EXPECT_EQ(l1.cache.stats().used_bytes, 0u);
  EXPECT_EQ(l1.cache.stats().reserved_bytes, 0u);
}

TEST(Cache, AClaimIsMadeInSteps) {
  L1 l1(4 * kMiB, 2);
  for (unsigned i = 0; i < 5000; ++i) l1.put(std::to_string(i), pattern(i, 1000));
  const std::uint64_t items = l1.cache.stats().items;
  const std::uint64_t free_bytes = 4 * kMiB - l1.cache.stats().used_bytes;
  l1::Room room = l1.cache.claim(3 * kMiB);
  ASSERT_TRUE(room);
  EXPECT_EQ(l1.cache.stats().items, items);
  EXPECT_EQ(room.missing_bytes(), 3 * kMiB);
  EXPECT_FALSE(l1.cache.claim(2 * kMiB)) << "both would not fit";
  std::uint64_t before = items;
  unsigned steps = 0;
  for (; room.missing_bytes() > 0; ++steps) {
    ASSERT_TRUE(l1.cache.make(room, proto::as_bytes("k"), L1::hash("k"), kMiB / 2, l1.now));
    const std::uint64_t left = l1.cache.stats().items;
    EXPECT_LT(before - left, 1000u);
    before = left;
  }
  EXPECT_EQ(room.bytes(), 3 * kMiB);
  // A step may free a few pages more than it was asked for, which the next one finds free.
  EXPECT_LE(steps, (3 * kMiB - free_bytes) / (kMiB / 2) + 1);
  EXPECT_GE(steps, 5u);
  room = {};
  // One that was not made to its end is given back as well.
  l1::Room half = l1.cache.claim(3 * kMiB);
  ASSERT_TRUE(l1.cache.make(half, proto::as_bytes("k"), L1::hash("k"), kMiB, l1.now));
  half = {};
  EXPECT_EQ(l1.cache.stats().reserved_bytes, 0u);
  EXPECT_TRUE(L1::reconciles(l1.cache.stats()));
  EXPECT_TRUE(l1.reserve("all", 3 * kMiB));
}

TEST(Cache, WhatIsFreeIsTakenInOneStep) {
  L1 l1(8 * kMiB, 2);
  l1::Room room = l1.cache.claim(3 * kMiB);
  ASSERT_TRUE(l1.cache.make(room, proto::as_bytes("k"), L1::hash("k"), 1, l1.now));
  EXPECT_EQ(room.missing_bytes(), 0u);
  // So is what a large value has left.
  room = {};
  ASSERT_EQ(l1.put("old", pattern(1, 6 * kMiB)), Cache::Outcome::kStored);
  room = l1.cache.claim(6 * kMiB);
  ASSERT_TRUE(l1.cache.make(room, proto::as_bytes("k"), L1::hash("k"), 256 * 1024, l1.now));
  EXPECT_GT(room.missing_bytes(), 0u);
  ASSERT_TRUE(l1.cache.make(room, proto::as_bytes("k"), L1::hash("k"), 256 * 1024, l1.now));
  EXPECT_EQ(room.missing_bytes(), 0u);
  EXPECT_FALSE(l1.has("old"));
}

TEST(Cache, OwnOldEntryGoesLast) {
  L1 l1(4 * kMiB, 2);
  ASSERT_EQ(l1.put("key", pattern(1, kMiB)), Cache::Outcome::kStored);
  l1.pass(seconds(10));
  for (unsigned i = 0; i < 2000; ++i) l1.put(std::to_string(i), pattern(i, 1000));
  ASSERT_TRUE(l1.has("key"));
  // The oldest entry of all, and still it stays while the others make room for its successor.
  const l1::Room room = l1.reserve("key", 2 * kMiB + 512 * 1024);
  ASSERT_TRUE(room);
  EXPECT_TRUE(l1.has("key"));
  // Where it has to, it goes.
  const l1::Room other = l1.reserve("key", kMiB);
  ASSERT_TRUE(other);
  EXPECT_FALSE(l1.has("key"));
}

TEST(Cache, SizeShiftsReachMostOfTheBudget) {
#ifdef CISTERN_SANITIZED
  constexpr std::uint64_t kBudget = 16 * kMiB;
#else
  constexpr std::uint64_t kBudget = 32 * kMiB;
#endif
  L1 l1(kBudget, 4);
  unsigned next = 0;
  const auto fill = [&](std::size_t size, std::uint64_t bytes) {
    for (std::uint64_t done = 0; done < bytes; done += size, ++next) {
      l1.pass(milliseconds(1));
      ASSERT_EQ(l1.put(std::to_string(next), pattern(next, size)), Cache::Outcome::kStored);
    }
    const l1::Stats stats = l1.cache.stats();
    EXPECT_LE(stats.used_bytes, kBudget);
    EXPECT_GE(stats.used_bytes, kBudget * 85 / 100) << "size " << size;
    if (size >= 4096) {
      EXPECT_GE(stats.value_bytes, kBudget * 75 / 100) << "size " << size;
    }
    EXPECT_TRUE(L1::reconciles(stats));
  };
  fill(100, 2 * kBudget);
  fill(4096, 3 * kBudget);
  fill(kMiB, 3 * kBudget);
  fill(4096, 3 * kBudget);
  fill(100, 2 * kBudget);
}

TEST(Cache, ConditionsAreEvaluatedAgainstTheResidentEntry) {
  L1 l1(kMiB);
  EXPECT_EQ(l1.put("k", "a", {.version = 1, .condition = if_version(9)}),
            Cache::Outcome::kConditionFailed);
  EXPECT_EQ(l1.put("k", "a", {.version = 1, .condition = if_absent()}), Cache::Outcome::kStored);
  EXPECT_EQ(l1.put("k", "b", {.version = 2, .condition = if_absent()}),
            Cache::Outcome::kConditionFailed);
  EXPECT_EQ(l1.get("k"), "a");
  EXPECT_EQ(l1.put("k", "b", {.version = 2, .condition = if_version(1)}), Cache::Outcome::kStored);
  EXPECT_EQ(l1.get("k"), "b");
  EXPECT_EQ(l1.erase("k", if_version(1)), Cache::Erased::kConditionFailed);
  EXPECT_EQ(l1.erase("k", if_version(2)), Cache::Erased::kErased);
  EXPECT_EQ(l1.erase("k"), Cache::Erased::kAbsent);
  EXPECT_TRUE(L1::reconciles(l1.cache.stats()));
}

TEST(Cache, ConditionOnOwnEntryThatHadToGoStillHolds) {
  constexpr std::uint32_t kChunk = 256 * 1024;
  const std::uint64_t cost =
      base::ChunkedValue::cost_for(2 * kMiB, kChunk, 0) + L1(kMiB).cache.entry_overhead(1);
  L1 l1(cost);
  // Two entries of one key never fit together; the room of the second evicts the first.
  ASSERT_EQ(l1.put("k", pattern(1, 2 * kMiB), {.version = 1, .chunk_bytes = kChunk}),
            Cache::Outcome::kStored);
  EXPECT_EQ(l1.put("k", pattern(2, 2 * kMiB),
                   {.version = 2, .condition = if_version(1), .chunk_bytes = kChunk}),
            Cache::Outcome::kStored);
  EXPECT_EQ(l1.get("k"), pattern(2, 2 * kMiB));
  EXPECT_EQ(l1.put("k", pattern(3, 2 * kMiB),
                   {.version = 3, .condition = if_version(1), .chunk_bytes = kChunk}),
            Cache::Outcome::kConditionFailed);
}

TEST(Cache, ExpiryIsExactAndLazy) {
  L1 l1(kMiB);
  l1.put("k", "v", {.ttl_ms = 1000});
  l1.pass(milliseconds(999));
  EXPECT_EQ(l1.get("k"), "v");
  l1.pass(milliseconds(1));
  EXPECT_FALSE(l1.has("k"));
  EXPECT_EQ(l1.get("k"), "absent");
  const l1::Stats stats = l1.cache.stats();
  EXPECT_EQ(L1::removed(stats, Removal::kExpired), 1u);
  EXPECT_EQ(stats.items, 0u);
  // An expired entry doesn't count for a condition.
  l1.put("k", "v", {.ttl_ms = 1000});
  l1.pass(seconds(2));
  EXPECT_EQ(l1.put("k", "w", {.condition = if_absent()}), Cache::Outcome::kStored);
  l1.put("gone", "v", {.ttl_ms = 1000});
  l1.pass(seconds(2));
  EXPECT_EQ(l1.erase("gone"), Cache::Erased::kAbsent);
  EXPECT_TRUE(L1::reconciles(l1.cache.stats()));
}

TEST(Cache, StayAndMaxAgeBoundTheStayOnly) {
  L1 l1(kMiB, 1, seconds(10));
  l1.put("aged", "v");
  l1.put("short", "v", {.stay = seconds(3)});
  l1.put("expires", "v", {.ttl_ms = 2000});
  l1.pass(seconds(2));
  EXPECT_FALSE(l1.has("expires"));
  EXPECT_TRUE(l1.has("short"));
  // A TOUCH lengthens the value's life, not its stay here.
  EXPECT_TRUE(l1.touch("short", 1, 60'000));
  EXPECT_TRUE(l1.touch("aged", 1, 60'000));
  l1.pass(seconds(1));
  EXPECT_FALSE(l1.has("short"));
  const auto peek = l1.cache.peek(proto::as_bytes("aged"), L1::hash("aged"), l1.now);
  ASSERT_TRUE(peek);
  EXPECT_EQ(peek->expires_at_ms, l1.unix_ms + 59'000);
  l1.pass(seconds(7));
  EXPECT_FALSE(l1.has("aged"));
}

TEST(Cache, TouchGivesAndTakesTheExpiry) {
  L1 l1(8 * kMiB);
  const std::string large = pattern(1, 300'000);
  for (const std::string& value : {std::string("value"), std::string(4000, 'x'), large}) {
    ASSERT_EQ(l1.put("k", value, {.version = 5, .metadata = "{\"m\":2}"}), Cache::Outcome::kStored);
    EXPECT_FALSE(l1.touch("k", 6, 1000));
    ASSERT_TRUE(l1.touch("k", 5, 1000));
    EXPECT_EQ(l1.get("k"), value);
    EXPECT_EQ(l1.cache.peek(proto::as_bytes("k"), L1::hash("k"), l1.now)->expires_at_ms,
              l1.unix_ms + 1000);
    ASSERT_TRUE(l1.touch("k", 5, 0));
    l1.pass(seconds(5));
    EXPECT_EQ(l1.get("k"), value);
    ASSERT_TRUE(l1.touch("k", 5, 2000));
    l1.pass(seconds(2));
    EXPECT_FALSE(l1.touch("k", 5, 1000));
    EXPECT_EQ(l1.get("k"), "absent");
  }
  EXPECT_FALSE(l1.touch("none", 1, 1000));
  EXPECT_TRUE(L1::reconciles(l1.cache.stats()));
}

TEST(Cache, TouchOfALargeValueReachesItsReaders) {
  L1 l1(8 * kMiB);
  l1.put("k", pattern(1, 300'000), {.version = 5});
  const base::ValuePtr value = l1.large("k");
  ASSERT_TRUE(l1.touch("k", 5, 1000));
  EXPECT_EQ(value->expires_at_ms(), l1.unix_ms + 1000);
}

TEST(Cache, SweepRemovesWhatNobodyAsksFor) {
  L1 l1(16 * kMiB, 4);
  for (unsigned i = 0; i < 1000; ++i) l1.put("m" + std::to_string(i), "v", {.ttl_ms = 1000});
  for (unsigned i = 0; i < 1000; ++i) l1.put("i" + std::to_string(i), "v");
  EXPECT_EQ(l1.cache.sweep(100'000, l1.now), 0u);
  l1.pass(seconds(1));
  EXPECT_LE(l1.cache.sweep(100, l1.now), 100u);
  std::size_t calls = 0;
  while (l1.cache.stats().items > 1000) {
    l1.cache.sweep(100, l1.now);
    ASSERT_LT(++calls, 200u);
  }
  EXPECT_EQ(L1::removed(l1.cache.stats(), Removal::kExpired), 1000u);
  EXPECT_EQ(l1.cache.stats().items, 1000u);
}

TEST(Cache, EverythingErasedGivesEverythingBack) {
  L1 l1(64 * kMiB, 2);
  for (unsigned i = 0; i < 200'000; ++i) l1.put(std::to_string(i), pattern(i, i % 150));
  EXPECT_EQ(l1.cache.stats().items, 200'000u);
  for (unsigned i = 0; i < 200'000; ++i)
    ASSERT_EQ(l1.erase(std::to_string(i)), Cache::Erased::kErased);
  EXPECT_EQ(l1.cache.stats().items, 0u);
  EXPECT_EQ(l1.cache.stats().value_bytes, 0u);
  // At most two pages for each class and shard remain, and they go as soon as they are wanted.
  EXPECT_LE(l1.cache.stats().used_bytes, 2 * 2 * l1::kClassCount * l1::kPageBytes);
  const l1::Room room = l1.cache.reserve(proto::as_bytes("k"), 0, 64 * kMiB, l1.now);
  EXPECT_TRUE(room);
}

TEST(Cache, EvictionTakesTheLeastRecentlyUsed) {
  L1 l1(4 * kMiB);
  for (unsigned i = 0; i < 100; ++i) {
    l1.put("hot" + std::to_string(i), pattern(i, 1000));
    l1.get("hot" + std::to_string(i));
  }
  // A scan of ten times the budget passes by those that were used twice.
  for (unsigned i = 0; i < 40'000; ++i) {
    l1.pass(milliseconds(1));
    l1.put("scan" + std::to_string(i), pattern(i, 1000));
  }
  for (unsigned i = 0; i < 100; ++i) EXPECT_TRUE(l1.has("hot" + std::to_string(i)));
  EXPECT_FALSE(l1.has("scan0"));
  EXPECT_TRUE(l1.has("scan39999"));
}

TEST(Cache, EvictionIsGlobalOverShards) {
  L1 l1(8 * kMiB, 8);
  for (unsigned i = 0; i < 30; ++i) {
    l1.pass(seconds(1));
    ASSERT_EQ(l1.put(std::to_string(i), pattern(i, 512 * 1024)), Cache::Outcome::kStored);
  }
  // Large values make room exactly in the order of their use.
  const std::uint64_t items = l1.cache.stats().items;
  EXPECT_GE(items, 14u);
  for (unsigned i = 0; i < 30; ++i) EXPECT_EQ(l1.has(std::to_string(i)), i >= 30 - items) << i;
}

TEST(Cache, EvictedValueIsHeldForItsReaders) {
  constexpr std::uint64_t kHeld = 3 * kMiB;
  L1 l1(4 * kMiB, 1, Duration{0}, kHeld);
  l1.put("a", pattern(1, 2 * kMiB));
  base::ValuePtr first = l1.large("a");
  l1.put("a", pattern(2, 2 * kMiB - 4096));
  EXPECT_EQ(l1.ledger.used(base::Account::kHeld), first->cost_bytes());
  EXPECT_EQ(content_of(*first), pattern(1, 2 * kMiB));
  // The account has no room for a second one: its readers have to let go.
  const base::ValuePtr second = l1.large("a");
  const base::ChunkPtr in_hand = second->chunk(0);
  EXPECT_EQ(l1.erase("a"), Cache::Erased::kErased);
  EXPECT_TRUE(second->revoked());
  EXPECT_EQ(second->chunk(0), nullptr);
  EXPECT_EQ(in_hand->size(), 65536u);
  EXPECT_EQ(l1.cache.stats().revoked, 1u);
  EXPECT_FALSE(first->revoked());
  first.reset();
  EXPECT_EQ(l1.ledger.used(base::Account::kHeld), 0u);
  EXPECT_TRUE(L1::reconciles(l1.cache.stats()));
}

TEST(Cache, MemoryOfLargeValuesGoesWithThem) {
  base::Chunk::set_spare_limit(0);
  const std::uint64_t before = base::Chunk::live_bytes();
  {
    L1 l1(8 * kMiB, 2);
    for (unsigned i = 0; i < 100; ++i) {
      l1.put(std::to_string(i % 20), pattern(i, 700'000));
      EXPECT_LE(base::Chunk::live_bytes() - before, 8 * kMiB);
    }
  }
  EXPECT_EQ(base::Chunk::live_bytes(), before);
  base::Chunk::set_spare_limit(8 * kMiB);
}

}  // namespace
}  // namespace cistern::testing
