// What is remembered of keys that L2 doesn't have, and how long values stay in L1.
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/cold_fixture.h"

namespace cistern::testing {
namespace {

using namespace std::chrono_literals;

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
