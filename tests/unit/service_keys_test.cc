// Conditions, DELETE, TOUCH, STAT and the end of a worker.
#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/service_fixture.h"

namespace cistern::testing {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kLarge = 5 * kChunk + 17;

class Keys : public ::testing::TestWithParam<bool> {
 protected:
  ServiceSetup setup_ = [] {
    ServiceSetup setup;
    setup.with_l2 = GetParam();
    return setup;
  }();
};
INSTANTIATE_TEST_SUITE_P(Tiers, Keys, ::testing::Bool(),
                         [](const auto& each) { return each.param ? "WithL2" : "None"; });

TEST_P(Keys, ConditionsHoldOrNothingChanges) {
  for (const std::size_t size : {std::size_t{50}, std::size_t{kLarge}}) {
    Workers workers(setup_);
    const std::string old = text_of(1, size);
    const std::string text = text_of(2, size);
    EXPECT_EQ(workers.put("k", text, {.if_version = 7})->status(), Status::kConditionFailed);
    EXPECT_EQ(workers.remove("k", 7), Status::kConditionFailed);
    EXPECT_EQ(workers.touch("k", 5, 7).error().status, Status::kConditionFailed);
    EXPECT_EQ(workers.remove("k"), Status::kNotFound);
    EXPECT_EQ(workers.touch("k", 5).error().status, Status::kNotFound);

    const auto first = workers.put("k", old, {.if_absent = true});
    ASSERT_TRUE(first->stored);
    EXPECT_EQ(workers.put("k", text, {.if_absent = true})->status(), Status::kConditionFailed);
    EXPECT_EQ(workers.put("k", text, {.if_version = first->stored->version + 1})->status(),
              Status::kConditionFailed);
    EXPECT_EQ(workers.remove("k", first->stored->version + 1), Status::kConditionFailed);
    EXPECT_TRUE(workers.read("k")->bytes == old);

    const auto second = workers.put("k", text, {.if_version = first->stored->version});
    ASSERT_TRUE(second->stored);
    EXPECT_TRUE(workers.read("k")->bytes == text);
    EXPECT_EQ(workers.remove("k", second->stored->version), Status::kOk);
    EXPECT_EQ(workers.read("k")->status(), Status::kNotFound);
  }
}

TEST_P(Keys, TtlGovernsBothTiers) {
  for (const std::size_t size : {std::size_t{50}, std::size_t{kLarge}}) {
    Workers workers(setup_);
    const auto put = workers.put("k", text_of(1, size), {.ttl_ms = 5000});
    ASSERT_TRUE(put->stored);
    EXPECT_EQ(put->stored->expires_at_ms, workers.loop().unix_ms() + 5000);
    workers.advance(4s);
    EXPECT_TRUE(workers.read("k")->bytes == text_of(1, size));
    ASSERT_TRUE(workers.touch("k", 600'000));
    workers.advance(5min);
    EXPECT_TRUE(workers.read("k")->bytes == text_of(1, size));
    workers.forget_in_l1("k");
    EXPECT_EQ(workers.read("k")->status(), GetParam() ? Status::kOk : Status::kNotFound);
    workers.put("k", text_of(2, size), {.ttl_ms = 600'000});
    ASSERT_TRUE(workers.touch("k", 1000));
    workers.advance(2s);
    EXPECT_EQ(workers.read("k")->status(), Status::kNotFound);
    workers.advance(62s);
    EXPECT_EQ(workers.l2().chunks_at(workers.loop().now()), 0u);
    workers.put("k", text_of(3, size), {.ttl_ms = 1000});
    ASSERT_TRUE(workers.touch("k", 0));
    workers.advance(1h);
    EXPECT_TRUE(workers.read("k")->bytes == text_of(3, size));
  }
}

// As those that never had one: L1's hits alone would let L2's copy lie idle until it goes.
TEST(Touch, AValueThatLosesItsTtlIsRenewedInL2ByReads) {
  Workers workers;  // max_idle is a day
  workers.put("k", text_of(1, kLarge), {.ttl_ms = 3'600'000});
  ASSERT_TRUE(workers.touch("k", 0));
  for (int day = 0; day < 5; ++day) {
    EXPECT_TRUE(workers.read("k")->bytes == text_of(1, kLarge));
    workers.advance(20h);
  }
  workers.forget_in_l1("k");
  EXPECT_TRUE(workers.read("k")->bytes == text_of(1, kLarge));
}

// Another daemon's writes between the look at a value and the write of its new expiry, one for each
// look. Then TOUCH goes on by itself.
struct Meanwhile {
  Workers workers;
  std::uint64_t version = workers.put("k", "text", {.ttl_ms = 5000})->stored->version;
  proto::Result<proto::Done> result = base::fail(Status::kInternal, "unanswered");

  void touch_while(const std::vector<std::function<void(l2::Manifest&)>>& writes,
                   std::optional<std::uint64_t> if_version = {}) {
    workers.store().pause(Step::kCommit, Point::kBefore);
    const auto operation =
        workers.service().touch({proto::as_bytes("k"), 60'000, if_version},
                                [&](const proto::Result<proto::Done>& done) { result = done; });
    workers.settle();
    for (const auto& write : writes) {
      ASSERT_EQ(workers.store().held(Step::kCommit, Point::kBefore), 1u);
      write(workers.l2().manifests["k"]);
      workers.store().let_one(Step::kCommit, Point::kBefore);
      workers.settle();
    }
    workers.store().resume(Step::kCommit, Point::kBefore);
    workers.settle();
  }
  static void replace(l2::Manifest& manifest) { ++manifest.meta.version; }
};

TEST(Touch, OfAValueThatIsReplacedMeanwhileTouchesTheNewOne) {
  Meanwhile meanwhile;
  meanwhile.touch_while({Meanwhile::replace, Meanwhile::replace});
  ASSERT_TRUE(meanwhile.result) << meanwhile.result.error().message;
  EXPECT_EQ(meanwhile.result->version, meanwhile.version + 2);
  EXPECT_EQ(meanwhile.result->expires_at_ms, meanwhile.workers.loop().unix_ms() + 60'000);
  meanwhile.workers.advance(30s);
  EXPECT_EQ(meanwhile.workers.read("k")->meta->version, meanwhile.version + 2);
}

TEST(Touch, OfAValueThatGoesMeanwhileFindsNothing) {
  Meanwhile meanwhile;
  meanwhile.touch_while({[&](l2::Manifest&) { meanwhile.workers.l2().manifests.erase("k"); }});
  ASSERT_FALSE(meanwhile.result);
  EXPECT_EQ(meanwhile.result.error().status, Status::kNotFound);
  EXPECT_EQ(meanwhile.workers.read("k")->status(), Status::kNotFound);
}

TEST(Touch, OfAValueThatIsReplacedAllTheTimeCanBeTriedAgain) {
  Meanwhile meanwhile;
  meanwhile.touch_while({Meanwhile::replace, Meanwhile::replace, Meanwhile::replace});
  ASSERT_FALSE(meanwhile.result);
  EXPECT_EQ(meanwhile.result.error().status, Status::kL2Busy);
  EXPECT_NE(meanwhile.result.error().message.find("replaced 3 times"), std::string::npos);
  EXPECT_EQ(meanwhile.workers.store().count(Step::kCommit), 4u);  // one of them the PUT's
}

TEST(Touch, OfAVersionThatIsReplacedMeanwhileFails) {
  Meanwhile meanwhile;
  meanwhile.touch_while({Meanwhile::replace}, meanwhile.version);
  ASSERT_FALSE(meanwhile.result);
  EXPECT_EQ(meanwhile.result.error().status, Status::kConditionFailed);
}

TEST(Conditions, AVersionThatL2RefusesDoesNotStayInL1) {
  for (const int kind : {0, 1, 2}) {
    Workers workers;
    const std::uint64_t version = workers.put("k", "text")->stored->version;
    workers.l2().manifests["k"].meta.version = version + 1;  // another daemon's
    ASSERT_EQ(workers.read("k")->meta->version, version);
    const Status status = kind == 0   ? workers.put("k", "x", {.if_version = version})->status()
                          : kind == 1 ? workers.remove("k", version)
                                      : workers.touch("k", 5, version).error().status;
    EXPECT_EQ(status, Status::kConditionFailed);
    EXPECT_EQ(workers.read("k")->meta->version, version + 1);
  }
}

TEST_P(Keys, StatTellsAllButTheBytes) {
  for (const std::size_t size : {std::size_t{50}, std::size_t{kLarge}}) {
    Workers workers(setup_);
    const std::string metadata = R"({"kind": "table"})";
    const auto put = workers.put("k", text_of(1, size), {.metadata = proto::as_bytes(metadata)});
    for (int i = 0; i < (GetParam() ? 2 : 1); ++i) {
      int calls = 0;
      const auto operation = workers.service().stat(
          {proto::as_bytes("k"), {}}, [&](const proto::Result<proto::Info>& info) {
            ++calls;
            ASSERT_TRUE(info);
            EXPECT_EQ(info->size, size);
            EXPECT_EQ(info->version, put->stored->version);
            EXPECT_EQ(info->digest, digest_of(text_of(1, size)));
            EXPECT_TRUE(info->chunk_bytes == kChunk);
            EXPECT_EQ(proto::as_text(info->metadata), metadata);
          });
      workers.settle();
      EXPECT_EQ(calls, 1);
      workers.forget_in_l1("k");
    }
  }
}

TEST_P(Keys, DrainRefusesTheNewAndWaitsForTheOld) {
  Workers workers(setup_);
  workers.put("k", text_of(1, kLarge));
  auto put = workers.open("k", text_of(2, kLarge));
  workers.send_all(*put);
  if (GetParam()) {
    workers.settle();
    workers.store().pause(Step::kExpire, Point::kBefore);
    put = workers.stream("k", text_of(3, kLarge));
  }
  bool idle = false;
  workers.service().drain([&] { idle = true; });
  workers.settle();
  EXPECT_EQ(idle, !GetParam());
  EXPECT_EQ(workers.read("k")->status(), Status::kShuttingDown);
  EXPECT_EQ(workers.put("k", "x")->status(), Status::kShuttingDown);
  if (GetParam()) workers.store().resume(Step::kExpire, Point::kBefore);
  workers.settle();
  EXPECT_TRUE(idle);
  EXPECT_TRUE(put->stored);
}

}  // namespace
}  // namespace cistern::testing
