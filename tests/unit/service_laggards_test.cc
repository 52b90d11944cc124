// A passing fill's window: who sets the pace, who is let go of, and whose memory it is.
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/cold_fixture.h"

namespace cistern::testing {
namespace {

using namespace std::chrono_literals;

TEST(Laggards, WhoLagsIsLetGoOfAndGoesOnByItself) {
  Cold cold(kHuge);
  const auto fast = cold.get("k");
  const auto slow = cold.get("k", {}, 1);
  cold.settle();
  slow->pull(kChunk / 2);
  slow->sent();
  for (int i = 0; i < 100; ++i) {
    fast->pull(kChunk);
    fast->sent();
    cold.settle();
  }
  // The window is full of what the slow one has not read.
  EXPECT_LE(fast->bytes.size(), 20u * kChunk);
  const std::size_t before = fast->bytes.size();
  cold.advance(99ms);
  fast->pull();
  EXPECT_EQ(fast->bytes.size(), before);
  cold.advance(1ms);
  cold.finish(*fast);
  EXPECT_TRUE(fast->bytes == cold.text);
  EXPECT_EQ(cold.reads(), kHugeChunks);
  EXPECT_EQ(cold.ledger().transferring(), 0u);  // nothing is kept for the one that stands still
  cold.finish(*slow);
  EXPECT_TRUE(slow->bytes == cold.text);
  EXPECT_EQ(cold.reads(), 2 * kHugeChunks);
  EXPECT_EQ(cold.questions(), 1u);
}

TEST(Laggards, ThoseWhoLagShareTheirReads) {
  Cold cold(kHuge);
  const auto fast = cold.get("k");
  std::vector<std::unique_ptr<Getter>> slow;
  for (std::size_t i = 0; i < 10; ++i) {
    slow.push_back(cold.get("k", {}, i % 2));
    cold.settle();
    slow.back()->pull(kChunk / 2);
    slow.back()->sent();
  }
  for (int i = 0; i < 400 && !fast->ended; ++i) {
    fast->pull(kChunk);
    fast->sent();
    cold.advance(50ms);
  }
  ASSERT_TRUE(fast->bytes == cold.text);
  EXPECT_EQ(cold.reads(), kHugeChunks);
  cold.finish_all(slow);
  for (const auto& each : slow) EXPECT_TRUE(each->bytes == cold.text);
  EXPECT_EQ(cold.reads(), 2 * kHugeChunks);
}

// What a slow reader's socket has not taken is charged, and must not stop the others.
TEST(Laggards, WhatASocketHoldsDoesNotStopTheFill) {
  ServiceSetup setup;
  setup.transfer_bytes = 3 * base::Chunk::allocated_for(kChunk);
  Cold cold(kHuge, setup);
  const auto fast = cold.get("k");
  const auto slow = cold.get("k", {}, 1);
  cold.settle();
  slow->pull(kChunk);  // on its way, and never sent
  for (int i = 0; i < 1000 && !fast->ended; ++i) {
    fast->pull(kChunk);
    fast->sent();
    cold.advance(25ms);
  }
  EXPECT_TRUE(fast->bytes == cold.text);
  slow->leave();
}

TEST(Laggards, AWindowThatStandsStillIsGivenToThoseWhoWait) {
  ServiceSetup setup;
  setup.transfer_bytes = 2 * base::Chunk::allocated_for(kChunk);
  Cold cold(kHuge, setup);
  const std::string other = text_of(2, kHuge);
  cold.put("other", other);
  const auto still = cold.get("k");
  cold.settle();
  still->pull(kChunk / 2);
  still->sent();
  const auto waiting = cold.get("other", {}, 1);
  cold.settle();
  EXPECT_FALSE(waiting->reader);
  cold.advance(2s);
  EXPECT_TRUE(waiting->reader);
  cold.finish(*waiting);
  EXPECT_TRUE(waiting->bytes == other);
  cold.finish(*still);
  EXPECT_TRUE(still->bytes == cold.text);
}

// Nobody but the newcomer asks for anything.
TEST(Laggards, AWindowThatWasGivenBackIsAdmittedAnewForWhoComes) {
  ServiceSetup setup;
  setup.transfer_bytes = 2 * base::Chunk::allocated_for(kChunk);
  Cold cold(kHuge, setup);
  const auto still = cold.get("k");
  cold.settle();
  still->pull(kChunk / 2);
  still->sent();
  base::Reservation granted;
  const auto ticket = cold.ledger().wait(base::Account::kUploads, setup.transfer_bytes, cold.loop(),
                                         [&](base::Reservation all) { granted = std::move(all); });
  cold.advance(2s);
  ASSERT_TRUE(granted);
  granted.release();
  const auto whole = cold.get("k", {}, 1);
  cold.settle();
  EXPECT_TRUE(whole->reader);
  cold.advance(100ms);
  for (int i = 0; i < 400 && !whole->ended; ++i) {
    whole->pull();
    whole->sent();
    cold.advance(25ms);
  }
  EXPECT_TRUE(whole->bytes == cold.text);
  cold.finish(*still);
  EXPECT_TRUE(still->bytes == cold.text);
}

TEST(Laggards, ARangeBesideOneThatWasLetGoOfIsServed) {
  Cold cold(kHuge);
  const auto fast = cold.get("k");
  const auto slow = cold.get("k", {}, 1);
  cold.settle();
  slow->pull(kChunk / 2);
  for (int i = 0; i < 200 && !fast->ended; ++i) {
    fast->pull();
    fast->sent();
    cold.advance(25ms);
  }
  ASSERT_TRUE(fast->ended);
  for (const std::size_t worker : {0, 1}) {
    const auto range = cold.read("k", {.range = proto::Range{0, 2 * kChunk}}, worker);
    EXPECT_TRUE(range->bytes == cold.text.substr(0, 2 * kChunk));
  }
  slow->leave();
}

// It would have all chunks between read for it, and the others let go of.
TEST(Laggards, ARangeFarAheadDoesNotSetThePace) {
  Cold cold(kHuge);
  const auto whole = cold.get("k");
  cold.settle();
  whole->pull(kChunk);
  cold.settle();
  const std::size_t before = cold.reads();
  const auto range = cold.read("k", {.range = proto::Range{12 * kChunk, kChunk}}, 1);
  EXPECT_TRUE(range->bytes == cold.text.substr(12 * kChunk, kChunk));
  EXPECT_LE(cold.reads(), before + 1);
  cold.advance(200ms);
  EXPECT_EQ(cold.metrics(0).readers_let_go.get(), 0u);
  cold.finish(*whole);
}

// A reader that takes a piece of a chunk now and then moves, and keeps its window.
TEST(Laggards, ASlowReaderThatMovesIsNotTakenForOneThatStandsStill) {
  ServiceSetup setup;
  setup.transfer_bytes = 2 * base::Chunk::allocated_for(kChunk);
  Cold cold(kHuge, setup);
  cold.put("other", text_of(2, kHuge));
  const auto slow = cold.get("k");
  cold.settle();
  const auto waiting = cold.get("other", {}, 1);
  for (int i = 0; i < 50; ++i) {
    slow->pull(1000);
    slow->sent();
    cold.advance(100ms);
  }
  EXPECT_EQ(cold.metrics(0).windows_given_back.get(), 0u);
  EXPECT_FALSE(waiting->reader);
}

// One segment on its way to a socket must not keep the room of a whole value.
TEST(Laggards, ADeadFillsRoomIsGivenBackButForWhatIsShown) {
  Cold cold(kLarge);
  cold.store(0).pause(Step::kRead, Point::kAfter);
  const auto only = cold.get("k");
  cold.settle();
  cold.store(0).let_one(Step::kRead, Point::kAfter);
  cold.settle();
  only->pull();
  EXPECT_GT(cold.cache().stats().reserved_bytes, kLarge);
  only->operation.reset();
  only->reader.reset();  // what it has sent isn't written yet
  cold.settle();
  EXPECT_EQ(cold.cache().stats().reserved_bytes, base::Chunk::allocated_for(kChunk));
  only->sent();
  EXPECT_EQ(cold.cache().stats().reserved_bytes, 0u);
  cold.store(0).resume(Step::kRead, Point::kAfter);
}

TEST(Laggards, SeveralThatShareOneWindowsMemoryAllEnd) {
  ServiceSetup setup;
  setup.transfer_bytes = 2 * base::Chunk::allocated_for(kChunk);
  Workers workers(setup);
  std::vector<std::unique_ptr<Getter>> all;
  for (int i = 0; i < 6; ++i) {
    workers.put("k" + std::to_string(i), text_of(static_cast<std::uint64_t>(i), 9 * kMiB));
  }
  for (std::size_t i = 0; i < 6; ++i)
    all.push_back(workers.get("k" + std::to_string(i), {}, i % 2));
  for (int turn = 0; turn < 20000; ++turn) {
    workers.advance(50ms);
    bool more = false;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (turn % static_cast<int>(i + 1) == 0) all[i]->pull(kChunk / 2 + i);
      all[i]->sent();
      more = more || !all[i]->ended;
    }
    if (!more) break;
  }
  for (std::size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(all[i]->status(), Status::kOk);
    EXPECT_TRUE(all[i]->bytes == text_of(i, 9 * kMiB)) << i;
  }
}

}  // namespace
}  // namespace cistern::testing
