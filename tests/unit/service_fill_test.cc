// One fill for any number of readers: kept and passing ones, who joins, who leads, who is let go
// of.
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/service_fixture.h"

namespace cistern::testing {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kLarge = 8 * kChunk + 17;  // 9 chunks
// More than L1 holds.
constexpr std::size_t kHuge = 12 * kMiB + 5;  // 193 chunks
constexpr std::size_t kHugeChunks = 193;

struct Cold : Workers {
  Cold(std::size_t size, const ServiceSetup& setup = {}) : Workers(setup), text(text_of(1, size)) {
    EXPECT_TRUE(put("k", text)->stored);
    forget_in_l1("k");
  }
  std::size_t reads() { return store(0).count(Step::kRead) + store(1).count(Step::kRead); }
  std::size_t questions() {
    return store(0).count(Step::kManifest) + store(1).count(Step::kManifest);
  }
  std::vector<std::unique_ptr<Getter>> crowd(std::size_t count) {
    std::vector<std::unique_ptr<Getter>> all;
    for (std::size_t i = 0; i < count; ++i) all.push_back(get("k", {}, i % 2));
    return all;
  }
  // Round and round, a chunk each.
  void finish_all(std::vector<std::unique_ptr<Getter>>& all) {
    for (int turn = 0; turn < 5000; ++turn) {
      settle();
      bool more = false;
      for (const auto& each : all) {
        each->pull(kChunk);
        each->sent();
        more = more || (!each->ended && !each->error);
      }
      if (!more) return;
    }
    ADD_FAILURE() << "they don't end";
  }
  const std::string text;
};

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

// ------------------------------------------------------------------------------------- who lags

TEST(Fill, WhoLagsIsLetGoOfAndGoesOnByItself) {
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

TEST(Fill, ThoseWhoLagShareTheirReads) {
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
TEST(Fill, WhatASocketHoldsDoesNotStopTheFill) {
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

TEST(Fill, AWindowThatStandsStillIsGivenToThoseWhoWait) {
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
TEST(Fill, AWindowThatWasGivenBackIsAdmittedAnewForWhoComes) {
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

TEST(Fill, ARangeBesideOneThatWasLetGoOfIsServed) {
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
TEST(Fill, ARangeFarAheadDoesNotSetThePace) {
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
TEST(Fill, ASlowReaderThatMovesIsNotTakenForOneThatStandsStill) {
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
TEST(Fill, ADeadFillsRoomIsGivenBackButForWhatIsShown) {
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

TEST(Fill, SeveralThatShareOneWindowsMemoryAllEnd) {
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

// ------------------------------------------------------------------------------ absence and ages

TEST(Absence, IsForgottenAtOnceByDefault) {
  Workers workers;
  EXPECT_EQ(workers.read("k")->status(), Status::kNotFound);
  EXPECT_EQ(workers.read("k")->status(), Status::kNotFound);
  EXPECT_EQ(workers.store().count(Step::kManifest), 2u);
}

TEST(Absence, IsRememberedForItsTimeAndUntilAWrite) {
  ServiceSetup setup;
  setup.negative_ttl = 1s;
  Workers workers(setup);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(workers.read("k")->status(), Status::kNotFound);
  EXPECT_EQ(workers.store().count(Step::kManifest), 1u);
  EXPECT_EQ(workers.read("other")->status(), Status::kNotFound);
  EXPECT_EQ(workers.store().count(Step::kManifest), 2u);
  workers.advance(1s);
  EXPECT_EQ(workers.read("k")->status(), Status::kNotFound);
  EXPECT_EQ(workers.store().count(Step::kManifest), 3u);

  workers.put("k", "new", {}, 1);
  workers.forget_in_l1("k");
  EXPECT_TRUE(workers.read("k")->bytes == "new");
}

TEST(Absence, AnAnswerFromBeforeAWriteIsNotRemembered) {
  ServiceSetup setup;
  setup.negative_ttl = 1h;
  Workers workers(setup);
  workers.store(0).pause(Step::kManifest, Point::kAfter);
  const auto miss = workers.get("k");
  workers.settle();
  workers.put("k", "new", {}, 1);
  workers.store(0).resume(Step::kManifest, Point::kAfter);
  workers.settle();
  EXPECT_EQ(miss->status(), Status::kNotFound);
  workers.forget_in_l1("k");
  EXPECT_TRUE(workers.read("k")->bytes == "new");
}

TEST(Ages, CountFromTheQuestion) {
  ServiceSetup setup;
  setup.max_age = 10s;
  Cold cold(kLarge, setup);
  cold.store(0).pause(Step::kRead, Point::kAfter);
  const auto first = cold.get("k");
  cold.settle();
  cold.advance(6s);
  cold.store(0).resume(Step::kRead, Point::kAfter);
  cold.finish(*first);
  EXPECT_TRUE(cold.in_l1("k"));
  cold.advance(3s);
  EXPECT_TRUE(cold.in_l1("k"));
  cold.advance(1s);
  EXPECT_FALSE(cold.in_l1("k"));
}

TEST(Ages, NobodyJoinsAFlightThatIsTooOld) {
  ServiceSetup setup;
  setup.max_age = 10s;
  Cold cold(kLarge, setup);
  cold.store(0).pause(Step::kRead, Point::kBefore);
  const auto first = cold.get("k");
  cold.advance(10s);
  const auto second = cold.get("k", {}, 1);
  cold.settle();
  EXPECT_EQ(cold.questions(), 2u);
  cold.store(0).resume(Step::kRead, Point::kBefore);
  cold.finish(*first);
  cold.finish(*second);
  EXPECT_TRUE(second->bytes == cold.text);
}

TEST(Ages, AreSpreadByTheJitter) {
  ServiceSetup setup;
  setup.ttl_jitter = 0.5;
  Workers workers(setup);
  constexpr int kKeys = 200;
  for (int i = 0; i < kKeys; ++i) workers.put("k" + std::to_string(i), "x", {.ttl_ms = 10'000});
  const auto left = [&] {
    int there = 0;
    for (int i = 0; i < kKeys; ++i) there += workers.in_l1("k" + std::to_string(i)) ? 1 : 0;
    return there;
  };
  workers.advance(4999ms);
  EXPECT_EQ(left(), kKeys);
  workers.advance(2501ms);
  EXPECT_GT(left(), kKeys / 4);  // half of them, with a deviation of 7
  EXPECT_LT(left(), kKeys * 3 / 4);
  workers.advance(2500ms);
  EXPECT_EQ(left(), 0);
}

}  // namespace
}  // namespace cistern::testing
