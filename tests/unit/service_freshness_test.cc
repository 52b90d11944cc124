// What L1 has may have been replaced in L2 by another daemon: when it is served, when it is
// compared with L2 first, and what happens when that can't be done.
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/service_freshness_fixture.h"

namespace cistern::testing {
namespace {

using Daemon = CoherentWorkers;

// ------------------------------------------------------------------------------------- The bound

TEST(Freshness, WithinTheBoundL1AnswersAndL2IsNotAsked) {
  Daemon daemon;
  ASSERT_TRUE(daemon.put("k", "old")->stored);
  daemon.other_puts("k", "new");
  daemon.advance(3s);
  EXPECT_EQ(daemon.sees("k"), "old");
  EXPECT_EQ(daemon.stamps(), 0u);
}

TEST(Freshness, PastItAnEntryIsComparedAndStaysWhenItIsTheSame) {
  Daemon daemon;
  ASSERT_TRUE(daemon.put("k", "value")->stored);
  ASSERT_TRUE(daemon.put("large", text_of(1, kLarge))->stored);
  for (int round = 1; round <= 3; ++round) {
    daemon.advance(kBound + 1s);
    EXPECT_EQ(daemon.sees("k"), "value");
    EXPECT_EQ(daemon.sees("large"), text_of(1, kLarge));
    EXPECT_EQ(daemon.sees("k"), "value");
    EXPECT_EQ(daemon.stamps(), 2u * static_cast<unsigned>(round));
  }
  EXPECT_EQ(daemon.manifests(), 0u);
  EXPECT_EQ(daemon.metrics().proofs_current.get(), 6u);
}

TEST(Freshness, WhatAnotherDaemonWroteRemovedOrTouchedIsSeenPastIt) {
  Daemon daemon;
  for (const char* const key : {"written", "removed", "touched", "forever", "large"}) {
    const bool large = std::string(key) == "large";
    ASSERT_TRUE(daemon.put(key, large ? text_of(1, kLarge) : "old", {.ttl_ms = 600'000})->stored);
  }
  daemon.other_puts("written", "new");
  daemon.other_removes("removed");
  daemon.other_touches("touched", 60'000);
  daemon.l2().manifests.at("forever").meta.expires_at_ms = 0;
  daemon.other_puts("large", "small now");
  daemon.advance(kBound + 1s);
  EXPECT_EQ(daemon.sees("written"), "new");
  EXPECT_EQ(daemon.sees("removed"), "NOT_FOUND");
  EXPECT_EQ(daemon.sees("large"), "small now");
  EXPECT_EQ(daemon.sees("forever"), "old");
  EXPECT_EQ(daemon.manifests(), 4u);
  EXPECT_EQ(daemon.sees("touched"), "old");
  EXPECT_EQ(daemon.manifests(), 4u);  // that one stayed
  EXPECT_EQ(daemon.metrics().proofs_changed.get(), 4u);
  daemon.advance(60s);
  EXPECT_EQ(daemon.sees("touched"), "NOT_FOUND");
}

TEST(Freshness, AKeyInUseIsComparedAheadOfTime) {
  Daemon daemon;
  ASSERT_TRUE(daemon.put("k", "value")->stored);
  for (int i = 0; i < 10; ++i) {
    daemon.advance(4500ms);
    const auto getter = daemon.get("k");
    EXPECT_TRUE(getter->small) << "it waited";
    daemon.settle();
  }
  EXPECT_EQ(daemon.stamps(), 10u);
}

TEST(Freshness, EveryWayToReadAsks) {
  Daemon daemon;
  ASSERT_TRUE(daemon.put("k", "old")->stored);
  const auto version = daemon.read("k")->meta->version;
  const auto makes_new = [&] {
    daemon.forget_in_l1("k");
    daemon.sees("k");
    daemon.other_puts("k", "a newer one");
    daemon.advance(kBound + 1s);
  };
  makes_new();
  EXPECT_EQ(daemon.read("k", {.if_changed = version})->bytes, "a newer one");
  makes_new();
  EXPECT_EQ(daemon.stat("k")->size, 11u);
  makes_new();
  const auto range = daemon.read("k", {.range = proto::Range{5, 3}});
  EXPECT_EQ(range->meta->size, 11u);
  daemon.advance(kBound + 1s);
  const auto newest = daemon.read("k")->meta->version;
  EXPECT_EQ(daemon.read("k", {.if_changed = newest})->status(), Status::kNotModified);
}

TEST(Freshness, WithoutAnL2NothingIsKeptOrAsked) {
  ServiceSetup how;
  how.with_l2 = false;
  Daemon daemon(how);
  ASSERT_TRUE(daemon.put("k", "value")->stored);
  daemon.advance(std::chrono::hours(10));
  EXPECT_EQ(daemon.sees("k"), "value");
  const auto peek = daemon.cache().peek(proto::as_bytes("k"), base::hash_key(proto::as_bytes("k")),
                                        daemon.loop().now());
  EXPECT_EQ(peek->proven_at, base::TimePoint{});
  EXPECT_TRUE(daemon.explain("k")["l1"]["freshness"].is_null());
}

// ------------------------------------------------------------------------- L2 that can't be asked

TEST(Freshness, PastTheBoundWithoutL2TheSettingDecides) {
  for (const bool reachable : {false, true}) {
    for (const OnStale on_stale : {OnStale::kServe, OnStale::kError}) {
      Daemon daemon(on_stale);
      ASSERT_TRUE(daemon.put("k", "value")->stored);
      ASSERT_TRUE(daemon.put("large", text_of(1, kLarge))->stored);
      daemon.advance(kBound + 1s);
      if (reachable) {
        daemon.store().pause(Step::kStamp, Point::kBefore);
      } else {
        daemon.store().set_available(false);
      }
      for (const char* const key : {"k", "large"}) {
        const auto getter = daemon.get(key);
        EXPECT_EQ(getter->answered(), !reachable);
        daemon.advance(19ms);
        EXPECT_EQ(getter->answered(), !reachable);
        daemon.advance(1ms);
        EXPECT_TRUE(getter->answered());
        getter->pull();
        if (on_stale == OnStale::kServe) {
          EXPECT_TRUE(getter->ended);
          EXPECT_EQ(getter->flags, proto::kInL1 | proto::kValueDegraded);
          EXPECT_GE(*getter->age, kBound + 1s);
          EXPECT_LE(*getter->age, kBound + 2s);
        } else {
          EXPECT_EQ(getter->status(), reachable ? Status::kL2Timeout : Status::kL2Unavailable);
          EXPECT_NE(getter->error->message.find("l1.max_staleness"), std::string::npos);
        }
        getter->sent();
        // Who comes now doesn't wait for what others have waited for.
        EXPECT_TRUE(daemon.get(key)->answered());
      }
      EXPECT_EQ(daemon.metrics().stale_served.get(), on_stale == OnStale::kServe ? 4u : 0u);
      EXPECT_EQ(daemon.metrics().stale_refused.get(), on_stale == OnStale::kServe ? 0u : 4u);
      const auto info = daemon.stat("k");
      EXPECT_EQ(info.has_value(), on_stale == OnStale::kServe);
      if (info) {
        EXPECT_TRUE(info->age_ms && (info->flags & proto::kValueDegraded) != 0);
      }
      daemon.store().resume(Step::kStamp, Point::kBefore);
      daemon.store().set_available(true);
      daemon.settle();
      EXPECT_EQ(daemon.sees("k"), "value");
    }
  }
}

TEST(Freshness, WithinTheBoundAMarkedEntryIsServedDegradedWhenL2FailsToAnswer) {
  Daemon daemon(OnStale::kError);
  ASSERT_TRUE(daemon.put("k", "value")->stored);
  daemon.told("k");
  daemon.store().fail_next(Step::kStamp, Status::kL2Error);
  const auto getter = daemon.read("k");
  EXPECT_EQ(getter->bytes, "value");
  EXPECT_TRUE(getter->age);
  EXPECT_EQ(daemon.metrics().stale_served.get(), 0u);
  EXPECT_EQ(daemon.metrics().proofs_failed.get(), 1u);
  daemon.advance(kBound);
  daemon.store().fail_next(Step::kStamp, Status::kL2Error);
  EXPECT_EQ(daemon.sees("k"), "L2_ERROR");
}

TEST(Freshness, ACrowdAsksOnce) {
  Daemon daemon;
  ASSERT_TRUE(daemon.put("k", "value")->stored);
  daemon.advance(kBound + 1s);
  daemon.store().pause(Step::kStamp, Point::kAfter);
  std::vector<std::unique_ptr<Getter>> crowd;
  for (std::size_t i = 0; i < 20; ++i) crowd.push_back(daemon.get("k", {}, i % 2));
  daemon.settle();
  crowd[3]->leave();
  EXPECT_EQ(daemon.stamps(), 1u);
  daemon.store().resume(Step::kStamp, Point::kAfter);
  daemon.settle();
  for (std::size_t i = 0; i < crowd.size(); ++i) EXPECT_EQ(crowd[i]->answered(), i != 3) << i;
  EXPECT_EQ(daemon.stamps(), 1u);
}

}  // namespace
}  // namespace cistern::testing
