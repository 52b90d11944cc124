// What L1 says of a key: where it stands, and by which way it left.
#include <map>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include "server/l1/block.h"
#include "tests/support/l1_fixture.h"

namespace cistern::l1 {
namespace {

using base::Reason;
using testing::L1;
using testing::pattern;
using namespace std::chrono_literals;

constexpr std::uint64_t kMiB = proto::kMiB;
constexpr base::Condition kAny{};

Cache::Standing explain(const L1& l1, std::string_view key) {
  return l1.cache.explain(proto::as_bytes(key), L1::hash(key), l1.now);
}

// The reason why a key is absent; fails when it's resident.
std::optional<Reason> gone(const L1& l1, std::string_view key) {
  const Cache::Standing standing = explain(l1, key);
  EXPECT_FALSE(standing.resident);
  return standing.memory.last ? std::optional(standing.memory.last->reason) : std::nullopt;
}

TEST(Explain, SaysWhereASmallAndALargeValueStand) {
  L1 l1(4 * kMiB);
  for (const std::size_t size : {100u, 300'000u}) {
    const std::string key = "key" + std::to_string(size);
    ASSERT_EQ(l1.put(key, pattern(1, size), {.version = 7, .ttl_ms = 60'000, .stay = 50s}),
              Cache::Outcome::kStored);
    l1.pass(20s);
    EXPECT_EQ(l1.get(key).size(), size);
    EXPECT_EQ(l1.get(key).size(), size);
    l1.pass(10s);
    const auto resident = explain(l1, key).resident;
    ASSERT_TRUE(resident);
    EXPECT_EQ(resident->size, size);
    EXPECT_EQ(resident->version, 7u);
    EXPECT_EQ(resident->hits, 2u) << "asking counts as none";
    EXPECT_FALSE(resident->hits_at_least);
    EXPECT_NEAR(std::chrono::duration<double>(resident->age).count(), 30, 2.2);
    EXPECT_EQ(resident->age_wraps, 0s);
    EXPECT_NEAR(std::chrono::duration<double>(resident->idle).count(), 10, 0.1);
    EXPECT_EQ(resident->expires_at_ms, l1.unix_ms + 30'000);
    EXPECT_EQ(resident->leaves_in, 20s) << "the bound on its stay comes first";
    l1.pass(20s);
    EXPECT_EQ(gone(l1, key), Reason::kExpired) << "though it's still in its place";
  }
}

TEST(Explain, HitsStopAtAMostAndBeginAnewWithAValue) {
  L1 l1(kMiB);
  l1.put("key", "value");
  for (unsigned i = 0; i < kMostHits + 10; ++i) l1.get("key");
  EXPECT_EQ(explain(l1, "key").resident->hits, kMostHits);
  EXPECT_TRUE(explain(l1, "key").resident->hits_at_least);
  EXPECT_EQ(l1.get("key"), "value");
  l1.pass(100s);
  l1.put("key", "other");
  EXPECT_EQ(explain(l1, "key").resident->hits, 0u);
  EXPECT_LT(explain(l1, "key").resident->age, 2s);
}

TEST(Explain, ATouchKeepsHitsAndAge) {
  L1 l1(kMiB);
  l1.put("key", "value", {.version = 3});
  l1.get("key");
  l1.pass(100s);
  ASSERT_TRUE(l1.touch("key", 3, 60'000));  // its block gets another shape
  const auto resident = explain(l1, "key").resident;
  EXPECT_EQ(resident->hits, 1u);
  EXPECT_NEAR(std::chrono::duration<double>(resident->age).count(), 100, 2.2);
  EXPECT_EQ(resident->leaves_in, 60s);
  EXPECT_FALSE(explain(l1, "key").memory.last);
}

TEST(Explain, BlocksThatMoveKeepHitsAndAge) {
  L1 l1(4 * kMiB);
  for (unsigned i = 0; i < 20'000; ++i) l1.put(std::to_string(i), pattern(i, 100));
  for (unsigned i = 19'000; i < 20'000; ++i) l1.get(std::to_string(i));
  l1.pass(100s);
  for (unsigned i = 0; i < 20'000; ++i) {
    if (i < 19'000 || i % 2 == 0) l1.erase(std::to_string(i));
  }
  for (unsigned i = 19'001; i < 20'000; i += 2) {
    const auto resident = explain(l1, std::to_string(i)).resident;
    ASSERT_TRUE(resident);
    ASSERT_EQ(resident->hits, 1u);
    ASSERT_GT(resident->age, 98s);
  }
}

TEST(Explain, AgesThatWrapSaySo) {
  L1 l1(kMiB);
  l1.put("first", "value");
  l1.pass(std::chrono::duration_cast<std::chrono::milliseconds>(kBornWraps) - 1h);
  EXPECT_EQ(explain(l1, "first").resident->age_wraps, 0s);
  EXPECT_GT(explain(l1, "first").resident->age, kBornWraps - 2h);
  l1.pass(2h);
  const auto resident = explain(l1, "first").resident;
  EXPECT_LT(resident->age, 2h);
  EXPECT_EQ(resident->age_wraps, kBornWraps);
}

// Keys of which none takes another's place in a table of reasons, whatever its size: hashes have a
// random seed.
class Apart {
 public:
  std::string operator()(const std::string& base) {
    const auto known = names_.find(base);
    if (known != names_.end()) return known->second;
    std::string name = base;
    while (!slots_.insert(static_cast<std::uint8_t>(L1::hash(name) % 64)).second) name += '.';
    return names_[base] = name;
  }

 private:
  std::set<std::uint8_t> slots_;
  std::map<std::string, std::string> names_;
};

TEST(Explain, RemembersEachWayOut) {
  L1 l1(4 * kMiB);
  Apart name;
  const auto remove = [&](std::string_view key, Removal removal) {
    l1.put(key, "value", {.version = 9});
    l1.cache.erase(proto::as_bytes(key), L1::hash(key), kAny, removal, l1.now);
  };
  remove(name("deleted"), Removal::kDeleted);
  remove(name("replaced"), Removal::kReplaced);
  remove(name("invalidated"), Removal::kInvalidated);
  l1.put(name("expired"), "value", {.ttl_ms = 1000});
  l1.put(name("swept"), "value", {.ttl_ms = 1000});
  l1.put(name("met"), "value", {.ttl_ms = 1000});
  l1.pass(2s);
  EXPECT_EQ(l1.get(name("expired")), "absent");
  l1.put(name("met"), "value", {.condition = {base::Condition::Kind::kIfVersion, 1}});
  l1.cache.sweep(1000, l1.now);
  EXPECT_EQ(gone(l1, name("deleted")), Reason::kDeleted);
  EXPECT_EQ(gone(l1, name("replaced")), Reason::kReplaced);
  EXPECT_EQ(gone(l1, name("invalidated")), Reason::kInvalidated);
  EXPECT_EQ(gone(l1, name("expired")), Reason::kExpired);
  EXPECT_EQ(gone(l1, name("swept")), Reason::kExpired);
  EXPECT_EQ(gone(l1, name("met")), Reason::kExpired);
  EXPECT_EQ(gone(l1, "never"), std::nullopt);
  const base::Event last = explain(l1, name("deleted")).memory.last.value();
  EXPECT_EQ(last.size, 5u);
  EXPECT_EQ(last.version, 9u);
  EXPECT_EQ(l1.now - last.at, 2s);
}

TEST(Explain, RemembersWhatWasEvicted) {
  L1 l1(4 * kMiB);
  l1.put("small", "value");
  l1.put("large", pattern(1, 300'000), {.version = 5});
  l1.pass(1s);
  ASSERT_EQ(l1.put("other", pattern(2, 3'900'000)), Cache::Outcome::kStored);
  EXPECT_EQ(gone(l1, "large"), Reason::kEvicted);
  EXPECT_EQ(explain(l1, "large").memory.last->size, 300'000u);
  EXPECT_EQ(explain(l1, "large").memory.last->version, 5u);
  // By small ones, too.
  l1.put("small", "value");
  for (unsigned i = 0; l1.has("small"); ++i) {
    ASSERT_LT(i, 100'000u);
    l1.put(std::to_string(i), pattern(i, 100));
  }
  EXPECT_EQ(gone(l1, "small"), Reason::kEvicted);
}

TEST(Explain, WhatIsReplacedInPlaceIsNoReason) {
  L1 l1(4 * kMiB);
  for (const std::size_t size : {10u, 12u, 2000u, 300'000u, 310'000u, 10u}) {
    l1.put("key", pattern(size, size));
    EXPECT_TRUE(explain(l1, "key").resident);
    EXPECT_FALSE(explain(l1, "key").memory.last) << size;
  }
}

TEST(Explain, WhatIsForgottenSaysSinceWhen) {
  L1 l1(kMiB);  // the fewest slots
  l1.put("key", "value");
  l1.erase("key");
  EXPECT_FALSE(explain(l1, "key").memory.since);
  l1.pass(5s);
  for (unsigned i = 0; i < 10'000; ++i) {
    l1.put(std::to_string(i), "value");
    l1.erase(std::to_string(i));
  }
  EXPECT_EQ(gone(l1, "key"), std::nullopt);
  EXPECT_EQ(explain(l1, "key").memory.since, l1.now);
}

}  // namespace
}  // namespace cistern::l1
