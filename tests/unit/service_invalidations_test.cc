// What another daemon's writes, and the word of them, do to what this one has or is reading. Every
// interleaving of the two with a flight, a PUT and a proof is forced.
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "server/l2/keys.h"
#include "tests/unit/service_freshness_fixture.h"

namespace cistern::testing {
namespace {

using Daemon = CoherentWorkers;

// ----------------------------------------------------------------------------------- Invalidations

TEST(Invalidations, AMarkedEntryIsComparedAtOnceAndOthersAreNot) {
  Daemon daemon;
  ASSERT_TRUE(daemon.put("k", "old")->stored);
  ASSERT_TRUE(daemon.put("other", "other")->stored);
  daemon.other_puts("k", "new");
  daemon.told("k");
  EXPECT_EQ(daemon.sees("other"), "other");
  EXPECT_EQ(daemon.stamps(), 0u);
  EXPECT_EQ(daemon.sees("k"), "new");
  EXPECT_EQ(daemon.sees("k"), "new");
  EXPECT_EQ(daemon.stamps(), 1u);
}

TEST(Invalidations, OnesOwnWriteIsRecognisedByItsVersion) {
  Daemon daemon;
  ASSERT_TRUE(daemon.put("k", "mine")->stored);
  daemon.told("k");
  for (int i = 0; i < 3; ++i) EXPECT_EQ(daemon.sees("k"), "mine");
  EXPECT_EQ(daemon.stamps(), 1u);
  EXPECT_EQ(daemon.manifests(), 0u);
}

TEST(Invalidations, KeysThatAreNotPlainHaveTheirMarks) {
  for (const std::string& key : {std::string("a key with spaces"), std::string("#x"),
                                 std::string(300, 'k'), std::string("\xff\x00!", 3)}) {
    Daemon daemon;
    ASSERT_TRUE(daemon.put(key, "old")->stored);
    daemon.other_puts(key, "new");
    daemon.told(l2::manifest_name("", proto::as_bytes(key)).substr(2));
    EXPECT_EQ(daemon.sees(key), "new");
  }
}

TEST(Invalidations, FlushingMarksEverything) {
  Daemon daemon;
  ASSERT_TRUE(daemon.put("k", "old")->stored);
  daemon.other_removes("k");
  daemon.advance(1ms);
  daemon.invalidations().all_arrived(daemon.loop().now());
  EXPECT_EQ(daemon.sees("k"), "NOT_FOUND");
}

TEST(Invalidations, WhileTheChannelIsCompleteNothingIsAsked) {
  Daemon daemon;
  daemon.complete(true);
  ASSERT_TRUE(daemon.put("k", "value")->stored);
  for (int second = 0; second < 60; ++second) {
    daemon.advance(1s);
    daemon.complete();
    EXPECT_EQ(daemon.sees("k"), "value");
  }
  EXPECT_EQ(daemon.stamps(), 0u);
  const auto explained = daemon.explain("k");
  EXPECT_EQ(explained["l1"]["freshness"]["known_by"], "invalidations") << explained;
  // It dies, and what it vouched for ages.
  daemon.advance(kBound + 1s);
  EXPECT_EQ(daemon.sees("k"), "value");
  EXPECT_EQ(daemon.stamps(), 1u);
  EXPECT_EQ(daemon.explain("k")["l1"]["freshness"]["known_by"], "proof");
}

TEST(Invalidations, WhatWasCachedBeforeTheChannelCameBackIsComparedOnUse) {
  Daemon daemon;
  daemon.complete(true);
  ASSERT_TRUE(daemon.put("k", "old")->stored);
  daemon.advance(1s);
  daemon.complete();
  // Lost, and with it this word.
  daemon.other_puts("k", "new");
  daemon.advance(kBound);
  daemon.complete(true);
  daemon.advance(1ms);
  EXPECT_TRUE(daemon.in_l1("k"));
  EXPECT_EQ(daemon.sees("k"), "new");
}

// ---------------------------------------------------------------------------------- Interleavings

TEST(Invalidations, OneDetachesAFlightThatAskedBefore) {
  for (const Point point : {Point::kBefore, Point::kAfter}) {
    for (const bool large : {false, true}) {
      Daemon daemon;
      const std::string old = large ? text_of(1, kLarge) : "old";
      ASSERT_TRUE(daemon.put("k", old)->stored);
      daemon.forget_in_l1("k");
      daemon.advance(1ms);
      daemon.store(0).pause(Step::kManifest, point);
      const auto first = daemon.get("k");
      daemon.settle();
      daemon.other_puts("k", "new");
      daemon.told("k");
      EXPECT_EQ(daemon.sees("k", 1), "new") << "joined a flight from before";
      daemon.store(0).resume(Step::kManifest, point);
      daemon.finish(*first);
      EXPECT_EQ(first->bytes, point == Point::kBefore ? "new" : old);
      for (std::size_t worker : {0u, 1u}) EXPECT_EQ(daemon.sees("k", worker), "new");
    }
  }
}

TEST(Invalidations, OneDetachesARunningFill) {
  Daemon daemon;
  const std::string old = text_of(1, kLarge);
  ASSERT_TRUE(daemon.put("k", old)->stored);
  daemon.forget_in_l1("k");
  daemon.advance(1ms);
  daemon.store(0).pause(Step::kRead, Point::kAfter);
  const auto first = daemon.get("k");
  daemon.settle();
  daemon.other_puts("k", "new");
  daemon.told("k");
  EXPECT_EQ(daemon.sees("k", 1), "new");
  daemon.store(0).resume(Step::kRead, Point::kAfter);
  daemon.finish(*first);
  EXPECT_EQ(first->bytes, old);
  EXPECT_EQ(daemon.sees("k"), "new");
  // One that nobody asks for meanwhile is published as doubtful.
  ASSERT_TRUE(daemon.put("k", old)->stored);
  daemon.forget_in_l1("k");
  daemon.advance(1ms);
  daemon.store(0).pause(Step::kRead, Point::kAfter);
  const auto second = daemon.get("k");
  daemon.settle();
  daemon.other_puts("k", "newer");
  daemon.told("k");
  daemon.store(0).resume(Step::kRead, Point::kAfter);
  daemon.finish(*second);
  EXPECT_EQ(daemon.sees("k"), "newer");
}

TEST(Invalidations, AFlightTooOldIsNotJoinedWhereNobodyTells) {
  Daemon daemon(coherent(OnStale::kError, 0));
  const std::string old = text_of(1, kLarge);
  ASSERT_TRUE(daemon.put("k", old)->stored);
  daemon.forget_in_l1("k");
  daemon.store(0).pause(Step::kRead, Point::kAfter);
  const auto first = daemon.get("k");
  daemon.settle();
  daemon.other_puts("k", "new");
  daemon.advance(kBound + 1s);
  EXPECT_EQ(daemon.sees("k", 1), "new");
  daemon.store(0).resume(Step::kRead, Point::kAfter);
  daemon.finish(*first);
  EXPECT_EQ(first->bytes, old);
  EXPECT_EQ(daemon.sees("k"), "new");
}

TEST(Invalidations, OneThatOvertakesTheAnswerOfACommitLeavesTheEntryDoubtful) {
  for (const bool large : {false, true}) {
    Daemon daemon;
    daemon.store(0).pause(Step::kCommit, Point::kAfter);
    const std::string mine = large ? text_of(1, kLarge) : "mine";
    const auto putter = large ? daemon.open("k", mine) : daemon.put_inline("k", mine);
    if (large) daemon.send_all(*putter);
    daemon.settle();
    // Committed; another daemon replaces it, and its word comes first.
    daemon.other_puts("k", "theirs");
    daemon.told("k");
    daemon.store(0).resume(Step::kCommit, Point::kAfter);
    daemon.settle();
    EXPECT_TRUE(putter->stored);
    EXPECT_EQ(daemon.sees("k"), "theirs");
  }
}

TEST(Invalidations, OneThatComesDuringAProofIsNotProvenByIt) {
  Daemon daemon;
  ASSERT_TRUE(daemon.put("k", "old")->stored);
  daemon.advance(kBound + 1s);
  daemon.store(0).pause(Step::kStamp, Point::kAfter);
  const auto first = daemon.get("k");
  daemon.settle();
  daemon.other_puts("k", "new");
  daemon.told("k");
  // Who comes after the word has a question of its own.
  EXPECT_EQ(daemon.sees("k", 1), "new");
  daemon.store(0).resume(Step::kStamp, Point::kAfter);
  daemon.finish(*first);
  EXPECT_EQ(first->status(), Status::kOk);
  EXPECT_EQ(daemon.sees("k"), "new");
}

TEST(Invalidations, OneThatComesDuringAProofLeavesDoubtWhereNobodyElseAsks) {
  Daemon daemon;
  ASSERT_TRUE(daemon.put("k", "old")->stored);
  daemon.advance(kBound + 1s);
  daemon.store(0).pause(Step::kStamp, Point::kAfter);
  const auto first = daemon.get("k");
  daemon.settle();
  daemon.other_puts("k", "new");
  daemon.told("k");
  daemon.store(0).resume(Step::kStamp, Point::kAfter);
  daemon.finish(*first);
  EXPECT_EQ(first->bytes, "old");  // it asked before, and within the bound that is right
  EXPECT_EQ(daemon.sees("k"), "new");
}

TEST(Freshness, AWriteOfThisDaemonDuringAProofIsNotUndoneByIt) {
  for (const bool removes : {false, true}) {
    Daemon daemon;
    ASSERT_TRUE(daemon.put("k", "old")->stored);
    daemon.advance(kBound + 1s);
    daemon.store(0).pause(Step::kStamp, Point::kAfter);
    const auto first = daemon.get("k");
    daemon.settle();
    if (removes) {
      EXPECT_EQ(daemon.remove("k", {}, 1), Status::kOk);
    } else {
      ASSERT_TRUE(daemon.put("k", "new", {}, 1)->stored);
    }
    daemon.store(0).resume(Step::kStamp, Point::kAfter);
    daemon.finish(*first);
    EXPECT_NE(first->bytes, "old");  // L1 has what this daemon has acknowledged
    EXPECT_EQ(daemon.sees("k"), removes ? "NOT_FOUND" : "new");
  }
}

TEST(Freshness, AnExpiryReadBeforeThisDaemonsTouchIsNotSet) {
  Daemon daemon;
  ASSERT_TRUE(daemon.put("k", "value", {.ttl_ms = 60'000})->stored);
  daemon.other_touches("k", 90'000);
  daemon.advance(kBound + 1s);
  daemon.store(0).pause(Step::kStamp, Point::kAfter);
  const auto first = daemon.get("k");
  daemon.settle();
  ASSERT_TRUE(daemon.touch("k", 3'000));
  daemon.store(0).resume(Step::kStamp, Point::kAfter);
  daemon.finish(*first);
  daemon.advance(3500ms);  // within the bound: L2 isn't asked
  EXPECT_EQ(daemon.sees("k"), "NOT_FOUND");
}

TEST(Invalidations, OneEndsThatAKeyIsRememberedAsAbsent) {
  ServiceSetup how = coherent();
  how.negative_ttl = 60s;
  Daemon daemon(how);
  daemon.complete(true);
  daemon.advance(1ms);
  EXPECT_EQ(daemon.sees("k"), "NOT_FOUND");
  EXPECT_EQ(daemon.sees("k"), "NOT_FOUND");
  EXPECT_EQ(daemon.manifests(), 1u);
  daemon.other_puts("k", "new");
  daemon.told("k");
  EXPECT_EQ(daemon.sees("k"), "new");
  // And without any word it isn't believed for longer than everything else.
  EXPECT_EQ(daemon.sees("absent"), "NOT_FOUND");
  daemon.other_puts("absent", "there");
  daemon.advance(kBound + 1s);
  EXPECT_EQ(daemon.sees("absent"), "there");
}

}  // namespace
}  // namespace cistern::testing
