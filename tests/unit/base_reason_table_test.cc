// The bounded memory of what was done to keys.
#include <array>
#include <set>

#include <gtest/gtest.h>

#include "server/base/reason_table.h"

namespace cistern::base {
namespace {

TimePoint at(int seconds) { return TimePoint(std::chrono::seconds(seconds)); }

Event event(Reason reason, int seconds) {
  return {.reason = reason, .at = at(seconds), .size = 5, .version = 7};
}

TEST(ReasonTable, KeepsTheLastOfAKey) {
  ReasonTable table(64);
  EXPECT_FALSE(table.recall(3).last);
  EXPECT_FALSE(table.recall(3).since) << "nothing was ever forgotten";
  table.note(3, event(Reason::kEvicted, 1));
  table.note(3, event(Reason::kExpired, 2));
  const auto memory = table.recall(3);
  ASSERT_TRUE(memory.last);
  EXPECT_EQ(memory.last->reason, Reason::kExpired);
  EXPECT_EQ(memory.last->at, at(2));
  EXPECT_EQ(memory.last->size, 5u);
  EXPECT_EQ(memory.last->version, 7u);
  EXPECT_EQ(memory.last->limit, 0u);
  EXPECT_FALSE(memory.since);
  EXPECT_FALSE(table.recall(4).last);
}

TEST(ReasonTable, ALimitTakesThePlaceOfAVersion) {
  ReasonTable table(64);
  table.note(1, {.reason = Reason::kRejected,
                 .at = at(1),
                 .size = ~std::uint64_t{0},
                 .version = 9,
                 .limit = 100,
                 .status = Status::kValueTooLarge});
  const Event last = table.recall(1).last.value();
  EXPECT_EQ(last.limit, 100u);
  EXPECT_EQ(last.version, 0u);
  EXPECT_EQ(last.size, ~std::uint64_t{0});
  EXPECT_EQ(last.status, Status::kValueTooLarge);
}

TEST(ReasonTable, ForgetsAndSaysSinceWhen) {
  ReasonTable table(64);
  table.note(1, event(Reason::kEvicted, 1));
  table.note(1 + 64, event(Reason::kEvicted, 2));  // the same slot
  EXPECT_FALSE(table.recall(1).last);
  EXPECT_EQ(table.recall(1).since, at(2));
  EXPECT_TRUE(table.recall(1 + 64).last);
  EXPECT_EQ(table.recall(1 + 128).since, at(2));
  table.note(1 + (1u << 31), event(Reason::kDeleted, 3));  // only the highest bit differs
  EXPECT_FALSE(table.recall(1).last);
}

TEST(ReasonTable, TakesAThousandthOfTheBudgetWithinBounds) {
  EXPECT_EQ(ReasonTable::slots_for(0), 64u);
  EXPECT_EQ(ReasonTable::slots_for(32 << 20), 1024u);
  EXPECT_EQ(ReasonTable::slots_for(std::uint64_t{1} << 40), 2048u);
  for (std::uint64_t budget = 4 << 20; budget < std::uint64_t{1} << 40; budget *= 3) {
    EXPECT_LE(ReasonTable::slots_for(budget) * 32, budget / 1000);
  }
}

TEST(Reasons, HaveNamesAndTexts) {
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < kReasonCount; ++i) {
    const auto reason = static_cast<Reason>(i);
    EXPECT_TRUE(names.insert(name(reason)).second);
    EXPECT_FALSE(text(reason).empty());
  }
  EXPECT_EQ(name(Reason::kEvicted), "evicted");
  EXPECT_EQ(name(Reason::kUnreachable), "l2_unreachable");
}

}  // namespace
}  // namespace cistern::base
