// GET: from either tier, whole or a range, at the reader's pace.
#include <string>

#include <gtest/gtest.h>

#include "tests/support/service_fixture.h"

namespace cistern::testing {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kLarge = 5 * kChunk + 17;
// More than L1 holds.
constexpr std::size_t kHuge = 12 * kMiB + 5;

TEST(Get, NotModified) {
  for (const std::size_t size : {std::size_t{50}, 10 * kKiB, std::size_t{kLarge}}) {
    Workers workers;
    const auto version = workers.put("k", text_of(1, size))->stored->version;
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(workers.read("k", {.if_changed = version})->status(), Status::kNotModified);
      EXPECT_TRUE(workers.read("k", {.if_changed = version + 1})->bytes == text_of(1, size));
      workers.forget_in_l1("k");
    }
  }
}

TEST(Get, RangesComeAsWholeChunks) {
  Workers workers;
  const std::string large = text_of(1, kLarge);
  workers.put("k", large);
  workers.put("s", "0123456789");
  for (int i = 0; i < 2; ++i) {
    const auto middle = workers.read("k", {.range = proto::Range{kChunk + 5, kChunk}});
    EXPECT_EQ(middle->cover->offset, kChunk);
    EXPECT_EQ(middle->cover->length, 2u * kChunk);
    EXPECT_TRUE(middle->bytes == large.substr(kChunk, 2 * kChunk));
    const auto tail = workers.read("k", {.range = proto::Range{5 * kChunk, proto::kUnknownSize}});
    EXPECT_TRUE(tail->bytes == large.substr(5 * kChunk));
    const auto all = workers.read("k", {.range = proto::Range{0, kLarge - 1}});
    EXPECT_FALSE(all->cover);
    EXPECT_TRUE(all->bytes == large);
    const auto small = workers.read("s", {.range = proto::Range{3, 2}});
    EXPECT_TRUE(small->bytes == "0123456789");
    for (const std::uint64_t offset : {kLarge, kLarge + 1}) {
      const auto past = workers.read("k", {.range = proto::Range{offset, 1}});
      EXPECT_EQ(past->status(), Status::kRangeInvalid);
      EXPECT_NE(past->error->message.find(std::to_string(kLarge)), std::string::npos);
    }
    EXPECT_EQ(workers.read("s", {.range = proto::Range{10, 1}})->status(), Status::kRangeInvalid);
    workers.forget_in_l1("k");
    workers.forget_in_l1("s");
  }
}

TEST(Get, NoneHasNothingBesideL1) {
  ServiceSetup setup;
  setup.with_l2 = false;
  Workers workers(setup);
  EXPECT_EQ(workers.read("k")->status(), Status::kNotFound);
}

TEST(Get, L2sTroubleIsNotAMiss) {
  Workers workers;
  workers.put("k", "x");
  workers.forget_in_l1("k");
  workers.store().fail_next(Step::kManifest, Status::kL2Unavailable);
  EXPECT_EQ(workers.read("k")->status(), Status::kL2Unavailable);
  EXPECT_TRUE(workers.read("k")->bytes == "x");
}

TEST(Get, TheFirstChunkComesBeforeTheSecondIsThere) {
  for (const std::size_t size : {kLarge, kHuge}) {
    Workers workers;
    workers.put("k", text_of(1, size));
    workers.forget_in_l1("k");
    workers.store().pause(Step::kRead, Point::kBefore);
    const auto got = workers.get("k");
    workers.settle();
    ASSERT_TRUE(got->reader);
    EXPECT_EQ(workers.store().held(Step::kRead, Point::kBefore), 1u);  // one in flight at first
    got->pull();
    EXPECT_FALSE(got->ready);
    workers.store().let_one(Step::kRead, Point::kBefore);
    workers.settle();
    EXPECT_TRUE(got->ready);
    got->pull();
    EXPECT_TRUE(got->bytes == text_of(1, size).substr(0, kChunk));
    workers.store().resume(Step::kRead, Point::kBefore);
    workers.finish(*got);
    EXPECT_TRUE(got->bytes == text_of(1, size));
  }
}

TEST(Get, AReaderThatTakesNothingHoldsItsWindow) {
  Workers workers;
  workers.put("k", text_of(1, kHuge));
  const auto got = workers.get("k");
  workers.settle();
  EXPECT_LE(workers.store().count(Step::kRead), 4u);
  // What was taken and isn't written out still counts.
  got->pull(4 * kChunk);
  workers.settle();
  const std::size_t reads = workers.store().count(Step::kRead);
  EXPECT_LE(reads, 8u);
  EXPECT_LE(workers.ledger().transferring(), 9 * base::Chunk::allocated_for(kChunk));
  got->leave();
  workers.settle();
  EXPECT_EQ(workers.store().count(Step::kRead), reads);
  EXPECT_EQ(workers.ledger().transferring(), 0u);
}

TEST(Get, AWindowWiderThanItsMinimumGivesWayToThoseWhoWait) {
  ServiceSetup setup;
  setup.transfer_bytes = 4 * base::Chunk::allocated_for(kChunk);
  Workers workers(setup);
  workers.put("k", text_of(1, kHuge));
  const auto first = workers.get("k");
  workers.settle();
  first->pull(kChunk);
  workers.settle();
  const auto second = workers.get("k");
  workers.settle();
  EXPECT_FALSE(second->reader);
  for (int i = 0; i < 8 && !second->reader; ++i) {
    first->pull(kChunk);
    first->sent();
    workers.settle();
  }
  EXPECT_TRUE(second->reader);
  workers.finish(*first);
  workers.finish(*second);
  EXPECT_TRUE(first->bytes == text_of(1, kHuge));
  EXPECT_TRUE(second->bytes == text_of(1, kHuge));
}

TEST(Get, LeavingStopsTheReadsAndPublishesNothing) {
  Workers workers;
  workers.put("k", text_of(1, kLarge));
  workers.forget_in_l1("k");
  workers.store().pause(Step::kRead, Point::kAfter);
  const auto got = workers.get("k");
  workers.settle();
  workers.store().let_one(Step::kRead, Point::kAfter);
  workers.settle();
  got->leave();
  EXPECT_EQ(workers.store().cancelled(), 2u);
  workers.store().resume(Step::kRead, Point::kAfter);
  workers.settle();
  EXPECT_EQ(workers.store().count(Step::kRead), 3u);
  EXPECT_FALSE(workers.in_l1("k"));
}

TEST(Get, LeavingAtAnyMomentIsSafe) {
  for (const std::size_t size : {std::size_t{50}, std::size_t{kLarge}, std::size_t{kHuge}}) {
    Workers workers;
    workers.put("k", text_of(1, size));
    for (std::size_t steps = 0; steps < 40; ++steps) {
      workers.forget_in_l1("k");
      const auto got = workers.get("k");
      for (std::size_t i = 0; i < steps && workers.loop().run_one(); ++i) got->pull(kChunk / 2);
      got->leave();
    }
  }
}

TEST(Get, ALostChunkRemovesTheValue) {
  for (const std::size_t size : {kLarge, kHuge}) {
    Workers workers;
    workers.put("k", text_of(1, size));
    workers.forget_in_l1("k");
    auto& chunks = workers.l2().chunks;
    chunks.erase(std::next(chunks.begin(), 3));
    const auto got = workers.read("k");
    EXPECT_EQ(got->status(), Status::kValueLost);
    EXPECT_TRUE(text_of(1, size).starts_with(got->bytes));
    EXPECT_LE(got->bytes.size(), 3u * kChunk);
    EXPECT_FALSE(workers.l2().manifests.contains("k"));
    EXPECT_EQ(workers.read("k")->status(), Status::kNotFound);
  }
}

TEST(Get, ChunksThatAreNotTheValuesNeverLookComplete) {
  for (const std::size_t size : {kLarge, kHuge}) {
    Workers workers;
    workers.put("k", text_of(1, size));
    workers.forget_in_l1("k");
    auto& chunks = workers.l2().chunks;
    std::swap(std::next(chunks.begin(), 1)->second, std::next(chunks.begin(), 2)->second);
    const auto got = workers.read("k");
    EXPECT_EQ(got->status(), Status::kValueLost);
    EXPECT_FALSE(got->ended);
    EXPECT_LT(got->bytes.size(), size);
    EXPECT_FALSE(workers.in_l1("k"));
  }
}

TEST(Get, ARevokedReaderGoesOnFromL2) {
  ServiceSetup setup;
  setup.held_bytes = 0;
  Workers workers(setup);
  workers.put("k", text_of(1, kLarge));
  const auto got = workers.get("k");
  EXPECT_EQ(got->flags, proto::kInL1);
  got->pull(kChunk + 5);
  workers.forget_in_l1("k");
  EXPECT_EQ(workers.cache().stats().revoked, 1u);
  workers.finish(*got);
  EXPECT_TRUE(got->bytes == text_of(1, kLarge));
  EXPECT_EQ(workers.store().count(Step::kRead), 5u);  // the chunk that it was in, and the rest
}

// Nothing would account for what a reader that stands still keeps: a thousand of them, each in the
// middle of a chunk, would hold a thousand chunks.
TEST(Get, ARevokedReaderKeepsNoChunkFromOnePieceToTheNext) {
  for (const bool filled : {false, true}) {
    ServiceSetup setup;
    setup.held_bytes = 0;
    setup.with_l2 = filled;
    Workers workers(setup);
    workers.put("k", text_of(1, kLarge));
    std::unique_ptr<Getter> got;
    if (filled) {
      // In the middle of the first chunk when the value is published.
      workers.forget_in_l1("k");
      workers.store().pause(Step::kRead, Point::kAfter);
      got = workers.get("k");
      workers.settle();
      workers.store().let_one(Step::kRead, Point::kAfter);
      workers.settle();
      got->pull(kChunk / 2);
      workers.store().resume(Step::kRead, Point::kAfter);
      workers.settle();
      ASSERT_TRUE(workers.in_l1("k"));
    } else {
      got = workers.get("k");
      got->pull(kChunk / 2);
    }
    ASSERT_EQ(got->bytes.size(), kChunk / 2);
    got->sent();
    const auto stored = std::exchange(workers.l2().chunks, {});
    std::size_t live = 0;
    for (const auto& [name, each] : stored) live += each.chunk->allocated_bytes();
    workers.forget_in_l1("k");
    EXPECT_EQ(workers.cache().stats().revoked, 1u);
    EXPECT_EQ(base::Chunk::live_bytes(), live);
    for (const auto& [name, each] : stored) EXPECT_EQ(each.chunk.use_count(), 1);
    workers.l2().chunks = stored;
    workers.finish(*got);
    if (filled) {
      EXPECT_TRUE(got->bytes == text_of(1, kLarge));
    } else {
      EXPECT_EQ(got->status(), Status::kEvicted);
    }
  }
}

TEST(Get, ARevokedReaderOfNoneFails) {
  ServiceSetup setup;
  setup.held_bytes = 0;
  setup.with_l2 = false;
  Workers workers(setup);
  workers.put("k", text_of(1, kLarge));
  const auto got = workers.get("k");
  got->pull(kChunk);
  workers.forget_in_l1("k");
  workers.finish(*got);
  EXPECT_EQ(got->status(), Status::kEvicted);
}

TEST(Get, ASlowReaderFinishesAValueThatWasReplacedOrDeleted) {
  for (const bool replace : {true, false}) {
    Workers workers;
    workers.put("k", text_of(1, kHuge));
    const auto got = workers.get("k");
    workers.settle();
    got->pull(kChunk);
    if (replace) {
      workers.put("k", text_of(2, kHuge), {}, 1);
    } else {
      workers.remove("k", {}, 1);
    }
    for (int minute = 0; minute < 30; ++minute) {
      workers.advance(1min);
      got->pull(kChunk);
      got->sent();
    }
    workers.finish(*got);
    EXPECT_TRUE(got->bytes == text_of(1, kHuge));
    got->leave();
    workers.advance(62s);
    EXPECT_EQ(workers.l2().chunks_at(workers.loop().now()), replace ? 193u : 0u);
  }
}

TEST(Get, AFillGoesOnAtL2sPaceAndIsPublishedBeforeItsReaderHasFinished) {
  Workers workers;
  workers.put("k", text_of(1, kLarge));
  workers.forget_in_l1("k");
  const auto slow = workers.get("k");
  workers.settle();
  EXPECT_TRUE(workers.in_l1("k"));
  EXPECT_TRUE(workers.cache().stats().reserved_bytes == 0u);
  EXPECT_EQ(workers.read("k")->flags, proto::kInL1);
  workers.finish(*slow);
  EXPECT_TRUE(slow->bytes == text_of(1, kLarge));
}

TEST(Get, ReadsKeepAValueWithoutATtl) {
  Workers workers;  // max_idle is a day
  workers.put("k", text_of(1, kLarge));
  for (int day = 0; day < 5; ++day) {
    workers.advance(20h);
    EXPECT_TRUE(workers.read("k")->bytes == text_of(1, kLarge));
    workers.settle();
  }
  workers.forget_in_l1("k");
  EXPECT_TRUE(workers.read("k")->bytes == text_of(1, kLarge));
}

TEST(Get, AWindowThatCanNeverBeGrantedFailsAtOnce) {
  ServiceSetup setup;
  setup.transfer_bytes = 2 * base::Chunk::allocated_for(kChunk);
  Workers workers(setup);
  workers.put("k", text_of(1, kHuge));
  workers.l2().manifests["k"].meta.chunk_bytes = 4 * kMiB;
  const auto got = workers.read("k");
  EXPECT_EQ(got->status(), Status::kTransferTooLarge);
  EXPECT_NE(got->error->message.find("memory.limit"), std::string::npos);
}

}  // namespace
}  // namespace cistern::testing
