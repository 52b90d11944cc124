// One fill for any number of readers: kept and passing ones, who joins, and what becomes of it.
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/cold_fixture.h"

namespace cistern::testing {
namespace {

using namespace std::chrono_literals;

TEST(Fill, ACrowdReadsL2Once) {
  for (const std::size_t size : {std::size_t{9 * kKiB}, kLarge, kHuge}) {
    Cold cold(size);
    auto crowd = cold.crowd(50);
    cold.finish_all(crowd);
    for (const auto& each : crowd) {
      EXPECT_TRUE(each->bytes == cold.text);
      EXPECT_EQ(each->flags, proto::kInL2);
    }
    EXPECT_EQ(cold.questions(), 1u);
    EXPECT_EQ(cold.reads(), size <= proto::kMaxInlineBytes ? 0 : size / kChunk + 1);
    EXPECT_EQ(cold.metrics(0).misses_joined.get() + cold.metrics(1).misses_joined.get(), 49u);
    EXPECT_EQ(cold.in_l1("k"), size != kHuge);
  }
}

TEST(Fill, WhoComesWhileItRunsBeginsAtTheFirstByte) {
  Cold cold(kLarge);
  cold.store(0).pause(Step::kRead, Point::kAfter);
  const auto first = cold.get("k");
  cold.settle();
  for (int i = 0; i < 5; ++i) {
    cold.store(0).let_one(Step::kRead, Point::kAfter);
    cold.settle();
  }
  first->pull();
  EXPECT_EQ(first->bytes.size(), 5u * kChunk);
  const auto late = cold.get("k", {}, 1);
  cold.settle();
  late->pull();
  EXPECT_EQ(late->bytes.size(), 5u * kChunk);
  EXPECT_EQ(cold.questions(), 1u);
  cold.store(0).resume(Step::kRead, Point::kAfter);
  cold.finish(*first);
  cold.finish(*late);
  EXPECT_TRUE(late->bytes == cold.text);
  EXPECT_EQ(cold.reads(), 9u);
}

TEST(Fill, OfAPassingValueTheWindowHasMovedOn) {
  Cold cold(kHuge);
  const auto first = cold.get("k");
  cold.settle();
  for (int i = 0; i < 20; ++i) {
    first->pull(kChunk);
    first->sent();
    cold.settle();
  }
  const auto late = cold.get("k", {}, 1);
  cold.finish(*late);
  EXPECT_TRUE(late->bytes == cold.text);
  EXPECT_EQ(cold.questions(), 2u);
  cold.finish(*first);
  EXPECT_TRUE(first->bytes == cold.text);
}

TEST(Fill, WhoBeganItMayLeave) {
  for (const std::size_t size : {kLarge, kHuge}) {
    Cold cold(size);
    const auto first = cold.get("k");
    const auto second = cold.get("k", {}, 1);
    cold.settle();
    first->pull(kChunk);
    first->leave();
    cold.finish(*second);
    EXPECT_TRUE(second->bytes == cold.text);
    EXPECT_EQ(cold.store(0).cancelled(), 0u);
    EXPECT_EQ(cold.reads(), size / kChunk + 1);
    EXPECT_EQ(cold.store(1).count(Step::kRead), 0u);
    EXPECT_EQ(cold.in_l1("k"), size == kLarge);
  }
}

TEST(Fill, WithoutReadersItEndsUnlessLittleIsLeft) {
  for (const std::size_t there : {7u, 8u}) {  // of 9 chunks; 20 % are 1.8
    Cold cold(kLarge);
    cold.store(0).pause(Step::kRead, Point::kAfter);
    auto only = cold.get("k");
    cold.settle();
    for (std::size_t i = 0; i < there; ++i) {
      cold.store(0).let_one(Step::kRead, Point::kAfter);
      cold.settle();
    }
    only->leave();
    cold.settle();
    cold.store(0).resume(Step::kRead, Point::kAfter);
    cold.settle();
    EXPECT_EQ(cold.in_l1("k"), there == 8) << there;
    EXPECT_EQ(cold.store(0).cancelled(), there == 8 ? 0u : 2u);
  }
}

TEST(Fill, OneThatMayNotBePublishedIsNotFinishedForNobody) {
  Cold cold(kLarge);
  cold.store(0).pause(Step::kRead, Point::kAfter);
  auto only = cold.get("k");
  cold.settle();
  for (int i = 0; i < 8; ++i) {
    cold.store(0).let_one(Step::kRead, Point::kAfter);
    cold.settle();
  }
  cold.put("k", "new", {}, 1);
  only->leave();
  cold.settle();
  EXPECT_EQ(cold.store(0).cancelled(), 1u);
  cold.store(0).resume(Step::kRead, Point::kAfter);
}

TEST(Fill, LeavingWhileTheManifestIsAskedEndsTheFlight) {
  Cold cold(kLarge);
  cold.store(0).pause(Step::kManifest, Point::kAfter);
  auto only = cold.get("k");
  cold.settle();
  only->leave();
  cold.store(0).resume(Step::kManifest, Point::kAfter);
  cold.settle();
  EXPECT_EQ(cold.reads(), 0u);
}

TEST(Fill, AFailureIsEverybodys) {
  for (const std::size_t size : {kLarge, kHuge}) {
    Cold cold(size);
    auto crowd = cold.crowd(6);
    cold.store(0).pause(Step::kRead, Point::kBefore);
    cold.settle();
    cold.store(0).let_one(Step::kRead, Point::kBefore);
    cold.settle();
    cold.store(0).fail_next(Step::kRead, Status::kL2Timeout);
    cold.store(0).resume(Step::kRead, Point::kBefore);
    cold.finish_all(crowd);
    for (const auto& each : crowd) {
      EXPECT_EQ(each->status(), Status::kL2Timeout);
      EXPECT_TRUE(cold.text.starts_with(each->bytes));
    }
    EXPECT_FALSE(cold.in_l1("k"));
    EXPECT_TRUE(cold.read("k")->bytes == cold.text);
  }
}

TEST(Fill, AnAnswerIsEverybodys) {
  Workers workers;
  const auto first = workers.get("k");
  const auto second = workers.get("k", {}, 1);
  workers.settle();
  EXPECT_EQ(first->status(), Status::kNotFound);
  EXPECT_EQ(second->status(), Status::kNotFound);
  EXPECT_EQ(workers.store(1).count(Step::kManifest), 0u);
}

// ---------------------------------------------------------------------------------------- ranges

TEST(Fill, ARangeJoinsWhatCoversItSoonAndElseReadsItsChunksAlone) {
  Cold cold(kLarge);
  cold.store(0).pause(Step::kRead, Point::kAfter);
  const auto whole = cold.get("k");
  cold.settle();
  cold.store(0).let_one(Step::kRead, Point::kAfter);
  cold.settle();
  const auto near = cold.get("k", {.range = proto::Range{kChunk, kChunk}}, 1);
  const auto far = cold.get("k", {.range = proto::Range{7 * kChunk, kChunk}}, 1);
  cold.finish(*far);
  EXPECT_TRUE(far->bytes == cold.text.substr(7 * kChunk, kChunk));
  EXPECT_EQ(cold.store(1).count(Step::kRead), 1u);
  near->pull();
  EXPECT_FALSE(near->ended);
  cold.store(0).resume(Step::kRead, Point::kAfter);
  cold.finish(*near);
  EXPECT_TRUE(near->bytes == cold.text.substr(kChunk, kChunk));
  cold.finish(*whole);
  EXPECT_EQ(cold.store(1).count(Step::kRead), 1u);
  EXPECT_EQ(cold.questions(), 1u);
}

TEST(Fill, RangesAloneReadJustTheirChunks) {
  Cold cold(kLarge);
  const auto range = cold.read("k", {.range = proto::Range{2 * kChunk + 5, kChunk}});
  EXPECT_TRUE(range->bytes == cold.text.substr(2 * kChunk, 2 * kChunk));
  EXPECT_EQ(cold.reads(), 2u);
  EXPECT_FALSE(cold.in_l1("k"));
}

// -------------------------------------------------------------------- replaced while being read

// However long the readers take: L2 keeps the replaced chunks for a minute, and longer for them.
TEST(Fill, SlowReadersOfAReplacedValueGetAllOfIt) {
  enum class From { kL1, kKept, kPassing };
  for (const From from : {From::kL1, From::kKept, From::kPassing}) {
    ServiceSetup setup;
    setup.held_bytes = 0;  // nothing that leaves L1 is held for its readers
    Cold cold(from == From::kPassing ? kHuge : kLarge, setup);
    if (from == From::kL1) cold.read("k");
    if (from == From::kKept) cold.store(0).pause(Step::kRead, Point::kAfter);
    auto readers = cold.crowd(6);
    for (int i = 0; i < 3; ++i) {
      cold.settle();
      if (from == From::kKept) cold.store(0).let_one(Step::kRead, Point::kAfter);
      for (std::size_t r = 0; r < readers.size(); ++r) readers[r]->pull(kChunk / (r + 1));
    }
    cold.store(0).resume(Step::kRead, Point::kAfter);
    const std::string text = text_of(2, 6 * kChunk);
    ASSERT_TRUE(cold.put("k", text, {}, 1)->stored);
    for (int turn = 0; turn < 1000; ++turn) {
      // Each stands still for several times the grace before it goes on.
      for (int i = 0; i < 5; ++i) cold.advance(25s);
      bool more = false;
      for (const auto& each : readers) {
        each->sent();
        each->pull(kChunk * 3);
        more = more || (!each->ended && !each->error);
      }
      if (!more) break;
      EXPECT_TRUE(turn % 20 != 0 || cold.read("k")->bytes == text);
    }
    for (const auto& each : readers) {
      EXPECT_EQ(each->status(), Status::kOk);
      EXPECT_TRUE(each->bytes == cold.text);
      each->leave();
    }
    cold.advance(61s);
    EXPECT_EQ(cold.l2().chunks_at(cold.loop().now()), 6u);
    EXPECT_TRUE(cold.read("k")->bytes == text);
  }
}

}  // namespace
}  // namespace cistern::testing
