#include <gtest/gtest.h>

#include "tests/support/l1_fixture.h"

namespace cistern::l1 {
namespace {

using std::chrono::milliseconds;
using testing::L1;
using testing::pattern;
using Outcome = Cache::Outcome;

constexpr std::uint64_t kMiB = proto::kMiB;

TEST(Proof, IsKeptWithSmallAndLargeEntriesAndThroughAllThatMovesThem) {
  L1 l1(8 * kMiB);
  const TimePoint at = l1.now - milliseconds(5);
  for (unsigned i = 0; i < 2000; ++i) {
    ASSERT_EQ(l1.put("k" + std::to_string(i), pattern(i, 100), {.version = i + 1, .proven_at = at}),
              Outcome::kStored);
  }
  ASSERT_EQ(l1.put("large", pattern(7, 300'000), {.version = 9, .proven_at = at}),
            Outcome::kStored);
  EXPECT_EQ(l1.proven_at("large"), at);
  // A TOUCH makes their blocks larger, a removal of most of them moves the others.
  for (unsigned i = 0; i < 2000; i += 20) {
    EXPECT_TRUE(l1.touch("k" + std::to_string(i), i + 1, 60'000));
  }
  EXPECT_TRUE(l1.touch("large", 9, 60'000));
  for (unsigned i = 0; i < 2000; ++i) {
    if (i % 20 != 0) l1.erase("k" + std::to_string(i));
  }
  for (unsigned i = 0; i < 2000; i += 20) {
    const std::string key = "k" + std::to_string(i);
    EXPECT_EQ(l1.proven_at(key), at);
    EXPECT_EQ(l1.get(key), pattern(i, 100));
  }
  EXPECT_EQ(l1.proven_at("large"), at);
  EXPECT_EQ(l1.get("large"), pattern(7, 300'000));
  EXPECT_EQ(l1.cache.describe(proto::as_bytes("large"), L1::hash("large"), l1.now)->proven_at, at);
}

TEST(Proof, IsRenewedOnlyForTheSameVersionAndExpiryAndNeverMadeOlder) {
  L1 l1(8 * kMiB);
  const TimePoint at = l1.now;
  ASSERT_EQ(l1.put("k", "value", {.version = 3, .ttl_ms = 60'000, .proven_at = at}),
            Outcome::kStored);
  l1.pass(milliseconds(10));
  EXPECT_FALSE(l1.prove("k", 4, l1.now));
  EXPECT_FALSE(l1.cache.set_proven(proto::as_bytes("k"), L1::hash("k"), 3, 0, l1.now, l1.now));
  EXPECT_EQ(l1.proven_at("k"), at);
  EXPECT_TRUE(l1.prove("k", 3, l1.now));
  EXPECT_EQ(l1.proven_at("k"), l1.now);
  EXPECT_TRUE(l1.prove("k", 3, at));
  EXPECT_EQ(l1.proven_at("k"), l1.now);
  // The entry that takes its place has its own.
  ASSERT_EQ(l1.put("k", "other", {.version = 5, .proven_at = at}), Outcome::kStored);
  EXPECT_EQ(l1.proven_at("k"), at);
  ASSERT_EQ(l1.put("k", "third", {.version = 6}), Outcome::kStored);
  EXPECT_EQ(l1.proven_at("k"), TimePoint{});
  EXPECT_FALSE(l1.prove("k", 6, l1.now)) << "it keeps none";
}

}  // namespace
}  // namespace cistern::l1
