// The checker that judges the consistency tests is itself tested on histories with known faults.
#include "tests/support/history.h"

#include <gtest/gtest.h>

namespace cistern::testing {
namespace {

Write put(std::uint64_t id, Instant began, Instant acked) { return {id, false, began, acked}; }
Write removal(std::uint64_t id, Instant began, Instant acked) { return {id, true, began, acked}; }
Read saw(std::uint64_t id, Instant began, Instant ended) { return {id, began, ended}; }
Read absent(Instant began, Instant ended) { return {std::nullopt, began, ended}; }

TEST(History, AcceptsReadsOfTheLastAcknowledgedWrite) {
  EXPECT_TRUE(violations({{put(1, 1, 2), put(2, 3, 4)}, {absent(0, 0), saw(1, 2, 3), saw(2, 5, 6)}})
                  .empty());
}

TEST(History, FindsOneStaleReadAmongMany) {
  History history{{put(1, 1, 2), put(2, 3, 4)}, {}};
  for (Instant t = 5; t < 100; ++t) history.reads.push_back(saw(2, t, t));
  history.reads.insert(history.reads.begin() + 50, saw(1, 60, 61));
  const auto found = violations(history);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_NE(found[0].find("[60, 61] through 0 found 1"), std::string::npos) << found[0];
}

TEST(History, AcceptsEitherOfTwoOverlappingWrites) {
  EXPECT_TRUE(
      violations({{put(1, 1, 10), put(2, 2, 9)}, {saw(1, 11, 12), saw(2, 11, 12)}}).empty());
}

TEST(History, AcceptsAWriteThatIsUnderWayAndNoneThatBeganLater) {
  EXPECT_TRUE(violations({{put(1, 5, 10)}, {saw(1, 4, 6)}}).empty());
  EXPECT_EQ(violations({{put(1, 5, 10)}, {saw(1, 3, 4)}}).size(), 1u);
}

TEST(History, AWriteOfUnknownOutcomeMayBeSeenAtAnyTimeAndHidesNothing) {
  EXPECT_TRUE(violations({{put(1, 1, 2), put(2, 3, kNever), put(3, 5, 6)},
                          {saw(1, 4, 4), saw(2, 4, 4), saw(2, 50, 51), saw(3, 50, 51)}})
                  .empty());
}

TEST(History, ADeletedValueMustNotComeBack) {
  EXPECT_EQ(violations({{put(1, 1, 2), removal(2, 3, 4)}, {saw(1, 5, 6)}}).size(), 1u);
  EXPECT_TRUE(violations({{put(1, 1, 2), removal(2, 3, 4)}, {absent(5, 6)}}).empty());
}

TEST(History, AValueMustNotVanishUnlessItMay) {
  const History history{{put(1, 1, 2)}, {absent(3, 4)}};
  EXPECT_EQ(violations(history).size(), 1u);
  History cache = history;
  cache.absent_is_allowed = true;
  EXPECT_TRUE(violations(cache).empty());
  EXPECT_TRUE(violations({{put(1, 1, 5)}, {absent(3, 4)}}).empty()) << "not acknowledged yet";
}

TEST(History, AnotherPlacesWritesMayBeSeenLaterByTheBoundAndTheOwnNeverAre) {
  const auto through = [](auto each, unsigned place) {
    each.place = place;
    return each;
  };
  History history{{put(1, 1, 2), through(put(2, 3, 4), 1)}, {}};
  history.staleness = 10;
  history.reads = {saw(1, 14, 15), through(saw(2, 5, 6), 1), saw(2, 20, 21)};
  EXPECT_TRUE(violations(history).empty());
  history.reads = {saw(1, 15, 16)};
  EXPECT_EQ(violations(history).size(), 1u) << "past the bound";
  history.reads = {through(saw(1, 5, 6), 1)};
  EXPECT_EQ(violations(history).size(), 1u) << "through the place that wrote it";
  // The newer of two of the other's may come first, and the older one not after the bound.
  history.writes.push_back(put(3, 6, 7));
  history.reads = {saw(2, 8, 9)};
  EXPECT_EQ(violations(history).size(), 1u) << "it was replaced through this place";
}

TEST(History, FindsBytesThatNobodyWrote) {
  EXPECT_EQ(violations({{put(1, 1, 2)}, {saw(7, 3, 4)}}).size(), 1u);
}

}  // namespace
}  // namespace cistern::testing
