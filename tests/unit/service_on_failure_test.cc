// L2 fails: DELETE's promise, and what l2.on_failure makes of GETs and PUTs.
#include <string>

#include <gtest/gtest.h>

#include "server/service/l1_only.h"
#include "tests/support/service_fixture.h"

namespace cistern::testing {
namespace {

using namespace std::chrono_literals;
using service::L1OnlyKeys;

constexpr std::size_t kLarge = 5 * kChunk + 17;
constexpr std::uint32_t kAlone = proto::kInL1 | proto::kValueDegraded;

class OnFailure : public ::testing::TestWithParam<std::size_t> {
 protected:
  static ServiceSetup with(bool miss, bool l1_only) {
    ServiceSetup setup;
    setup.miss_on_failure = miss;
    setup.l1_only_on_failure = l1_only;
    return setup;
  }
  void set_down(Workers& workers, bool down) {
    for (std::size_t i = 0; i < 2; ++i) workers.store(i).set_down(down);
  }
  std::size_t marked(Workers& workers) { return workers.shared().l1_only->size(); }

  const std::string old_ = text_of(1, GetParam());
  const std::string text_ = text_of(2, GetParam());
};
INSTANTIATE_TEST_SUITE_P(Sizes, OnFailure, ::testing::Values(50, kLarge), [](const auto& each) {
  return each.param == kLarge ? "Chunked" : "Inline";
});

TEST_P(OnFailure, ADeleteThatFailsLeavesNothingToServeUntilL2WasAsked) {
  for (const bool unknown : {false, true}) {
    Workers workers;
    ASSERT_TRUE(workers.put("k", old_)->stored);
    if (unknown) {
      workers.store().unknown_next(false);
    } else {
      set_down(workers, true);
    }
    const Status status = workers.remove("k");
    EXPECT_TRUE(proto::is_retryable(status)) << proto::name(status);
    EXPECT_FALSE(workers.in_l1("k"));
    set_down(workers, true);
    EXPECT_EQ(workers.read("k")->status(), Status::kL2Unavailable);
    set_down(workers, false);
    EXPECT_TRUE(workers.read("k")->bytes == old_) << "nothing was deleted, and that was said";
  }
}

TEST_P(OnFailure, ByDefaultAGetAndAPutFailLoudly) {
  Workers workers;
  set_down(workers, true);
  const auto getter = workers.read("k");
  EXPECT_EQ(getter->status(), Status::kL2Unavailable);
  EXPECT_FALSE(getter->error->degraded);
  EXPECT_EQ(workers.put("k", text_)->status(), Status::kL2Unavailable);
  EXPECT_FALSE(workers.in_l1("k"));
}

TEST_P(OnFailure, AMissThatIsOneForWantOfL2SaysSo) {
  Workers workers(with(true, false));
  ASSERT_TRUE(workers.put("k", old_)->stored);
  workers.forget_in_l1("k");
  set_down(workers, true);
  for (const Status failure : {Status::kL2Unavailable, Status::kL2Timeout, Status::kL2Busy}) {
    workers.store().fail_next(Step::kManifest, failure);
    const auto getter = workers.read("k");
    EXPECT_EQ(getter->status(), Status::kNotFound);
    EXPECT_TRUE(getter->error->degraded);
    EXPECT_NE(getter->error->message.find("scripted"), std::string::npos) << "the cause is lost";
  }
  EXPECT_EQ(workers.metrics().degraded_misses.get(), 3u);
  EXPECT_EQ(workers.put("k", text_)->status(), Status::kL2Unavailable) << "that's another setting";
  set_down(workers, false);
  EXPECT_TRUE(workers.read("k")->bytes == old_) << "it was remembered as absent";
  const auto absent = workers.read("other");
  EXPECT_EQ(absent->status(), Status::kNotFound);
  EXPECT_FALSE(absent->error->degraded);
}

TEST_P(OnFailure, AValueThatIsLostIsNoMiss) {
  Workers workers(with(true, false));
  workers.store().fail_next(Step::kManifest, Status::kValueLost);
  EXPECT_EQ(workers.read("k")->status(), Status::kValueLost);
}

TEST_P(OnFailure, WhatL2CannotBeToldStaysInL1AndSaysSo) {
  Workers workers(with(false, true));
  set_down(workers, true);
  for (const bool size_known : {true, false}) {
    const auto putter = workers.stream("k", text_, {}, size_known);
    ASSERT_TRUE(putter->stored) << putter->error->message;
    EXPECT_EQ(putter->stored->flags, kAlone);
  }
  const auto putter = workers.put("k", text_);
  ASSERT_TRUE(putter->stored) << putter->error->message;
  EXPECT_EQ(putter->stored->flags, kAlone);
  EXPECT_EQ(workers.metrics().degraded_puts.get(), 3u);
  const auto getter = workers.read("k", {}, 1);
  EXPECT_TRUE(getter->bytes == text_);
  EXPECT_EQ(getter->flags, kAlone);
  EXPECT_EQ(marked(workers), 1u);
  set_down(workers, false);
  workers.advance(1s);
  EXPECT_EQ(marked(workers), 0u);
}

TEST_P(OnFailure, TheOlderValueNeverComesBack) {
  Workers workers(with(false, true));
  ASSERT_TRUE(workers.put("k", old_)->stored);
  set_down(workers, true);
  ASSERT_TRUE(workers.put("k", text_)->stored);
  EXPECT_TRUE(workers.read("k")->bytes == text_);
  workers.forget_in_l1("k");
  EXPECT_EQ(workers.read("k")->status(), Status::kL2Unavailable);
  ASSERT_TRUE(workers.l2().manifests.contains("k"));
  set_down(workers, false);
  EXPECT_EQ(workers.read("k", {}, 1)->status(), Status::kNotFound);
  EXPECT_FALSE(workers.l2().manifests.contains("k"));
  EXPECT_EQ(marked(workers), 0u);
}

TEST_P(OnFailure, WhileItCannotBeRemovedTheOlderValueIsNotRead) {
  Workers workers(with(false, true));
  ASSERT_TRUE(workers.put("k", old_)->stored);
  set_down(workers, true);
  ASSERT_TRUE(workers.put("k", text_)->stored);
  workers.forget_in_l1("k");
  set_down(workers, false);
  workers.store().unknown_next(false);
  EXPECT_EQ(workers.read("k")->status(), Status::kL2Unavailable);
  EXPECT_EQ(marked(workers), 1u);
  proto::Result<proto::Info> info = base::fail(Status::kInternal, {});
  workers.store().fail_next(Step::kRemove, Status::kL2Error);
  const auto operation = workers.service().stat(
      {proto::as_bytes("k"), {}}, [&](const proto::Result<proto::Info>& result) { info = result; });
  workers.settle();
  EXPECT_EQ(info.error().status, Status::kL2Error);
  EXPECT_EQ(workers.read("k")->status(), Status::kNotFound);
}

TEST_P(OnFailure, OnceL2IsBackTheOlderValueIsRemovedAndTheNewerOneStays) {
  Workers workers(with(false, true));
  ASSERT_TRUE(workers.put("k", old_)->stored);
  set_down(workers, true);
  ASSERT_TRUE(workers.put("k", text_)->stored);
  workers.advance(10s);
  EXPECT_EQ(marked(workers), 1u);
  set_down(workers, false);
  workers.advance(1s);
  EXPECT_EQ(marked(workers), 0u);
  EXPECT_FALSE(workers.l2().manifests.contains("k"));
  EXPECT_TRUE(workers.read("k")->bytes == text_);
  EXPECT_EQ(workers.loop().timers(), 0u) << "nothing is left to settle";
}

TEST_P(OnFailure, ALaterWriteSettlesItToo) {
  for (const bool removed : {false, true}) {
    Workers workers(with(false, true));
    ASSERT_TRUE(workers.put("k", old_)->stored);
    set_down(workers, true);
    ASSERT_TRUE(workers.put("k", text_)->stored);
    set_down(workers, false);
    if (removed) {
      EXPECT_EQ(workers.remove("k"), Status::kOk);
      EXPECT_EQ(workers.read("k")->status(), Status::kNotFound);
    } else {
      const auto putter = workers.put("k", old_);
      ASSERT_TRUE(putter->stored);
      EXPECT_EQ(putter->stored->flags, proto::kInL1 | proto::kInL2);
      workers.forget_in_l1("k");
      EXPECT_TRUE(workers.read("k")->bytes == old_);
    }
    EXPECT_EQ(marked(workers), 0u);
  }
}

TEST_P(OnFailure, ADeleteOfSuchAKeyThatFailsLeavesNothing) {
  Workers workers(with(false, true));
  ASSERT_TRUE(workers.put("k", old_)->stored);
  set_down(workers, true);
  ASSERT_TRUE(workers.put("k", text_)->stored);
  EXPECT_EQ(workers.remove("k"), Status::kL2Unavailable);
  EXPECT_FALSE(workers.in_l1("k"));
  set_down(workers, false);
  EXPECT_EQ(workers.read("k")->status(), Status::kNotFound);
}

TEST_P(OnFailure, ConditionsAreNotJudgedWithoutL2) {
  Workers workers(with(false, true));
  const auto first = workers.put("k", old_);
  ASSERT_TRUE(first->stored);
  set_down(workers, true);
  const proto::PutRequest if_version{.if_version = first->stored->version};
  EXPECT_EQ(workers.put("k", text_, if_version)->status(), Status::kL2Unavailable);
  EXPECT_EQ(workers.put("new", text_, {.if_absent = true})->status(), Status::kL2Unavailable);
  ASSERT_TRUE(workers.put("k", text_)->stored);
  // Asked of a key that is marked, L2 has nothing, whatever it has.
  set_down(workers, false);
  EXPECT_EQ(workers.put("k", old_, if_version)->status(), Status::kConditionFailed);
  EXPECT_EQ(workers.read("k")->status(), Status::kNotFound);
  EXPECT_EQ(marked(workers), 0u);
}

TEST_P(OnFailure, WithoutRoomInL1ItFailsAndTheOlderValueStays) {
  ServiceSetup setup = with(false, true);
  setup.l1_bytes = 200 * kKiB;
  Workers workers(setup);
  ASSERT_TRUE(workers.put("k", text_of(1, 50))->stored);
  set_down(workers, true);
  const auto putter = workers.put("k", text_of(2, kLarge));
  EXPECT_EQ(putter->status(), Status::kL2Unavailable);
  EXPECT_EQ(marked(workers), 0u);
  set_down(workers, false);
  EXPECT_TRUE(workers.read("k")->bytes == text_of(1, 50));
}

TEST(L1OnlyKeys, AreBoundedAndAccounted) {
  base::Ledger ledger({.limit = 0,
                       .l1 = kMiB,
                       .transfers = kMiB,
                       .held = kMiB,
                       .connections = 0,
                       .l2_buffers = 64 * kKiB});
  L1OnlyKeys keys(ledger);
  std::size_t count = 0;
  while (keys.add("key " + std::to_string(count))) ++count;
  EXPECT_GT(count, 10u);
  EXPECT_LE(ledger.used(base::Account::kL2Buffers), 16 * kKiB);
  const auto refused = keys.add("one more");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().status, Status::kNoRoom);
  EXPECT_NE(refused.error().message.find("l2.on_failure.put"), std::string::npos);
  EXPECT_TRUE(keys.add("key 3")) << "one that is there takes no more";
  for (const std::string& key : keys.oldest(count)) keys.settle(key, *keys.find(key));
  EXPECT_EQ(keys.size(), 0u);
  EXPECT_EQ(ledger.used(base::Account::kL2Buffers), 0u);
}

TEST(L1OnlyKeys, ALaterMarkIsNotSettledByAnEarlierOne) {
  base::Ledger ledger({.limit = 0,
                       .l1 = kMiB,
                       .transfers = kMiB,
                       .held = kMiB,
                       .connections = 0,
                       .l2_buffers = 64 * kKiB});
  L1OnlyKeys keys(ledger);
  const auto first = keys.add("k");
  const auto second = keys.add("k");
  keys.settle("k", *first);
  EXPECT_TRUE(keys.has("k"));
  keys.settle("k", *second);
  EXPECT_FALSE(keys.has("k"));
}

}  // namespace
}  // namespace cistern::testing
