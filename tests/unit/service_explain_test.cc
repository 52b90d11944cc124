// EXPLAIN: where a key stands in both tiers, and what this daemon remembers of it.
#include <string>

#include <gtest/gtest.h>

#include "server/service/reasons.h"
#include "tests/support/protocol_page.h"
#include "tests/support/service_fixture.h"

namespace cistern::testing {
namespace {

using namespace std::chrono_literals;
using Json = nlohmann::json;

constexpr std::size_t kLarge = 5 * kChunk + 7;

std::string event_of(const Json& json) {
  return json["last"].is_null() ? "none" : json["last"]["event"].get<std::string>();
}

struct Alone : ::testing::Test {
  Alone() : workers({.with_l2 = false}) {}
  Workers workers;
};

TEST(Explain, SaysWhatBothTiersHold) {
  Workers workers;
  const auto large = workers.put("large", text_of(1, kLarge), {.ttl_ms = 60'000});
  const auto small = workers.put("small", "value");
  Json json = workers.explain("large");
  EXPECT_EQ(json["l1"]["resident"], true);
  EXPECT_EQ(json["l1"]["size"], kLarge);
  EXPECT_EQ(json["l1"]["hits"], 0);
  EXPECT_EQ(json["l1"]["expires_in_ms"], 60'000);
  EXPECT_EQ(json["l1"]["leaves_in_ms"], 60'000);
  EXPECT_EQ(json["l2"]["state"], "present");
  EXPECT_EQ(json["l2"]["size"], kLarge);
  EXPECT_EQ(json["l2"]["chunks"], 6);
  EXPECT_EQ(json["l2"]["chunk_bytes"], kChunk);
  EXPECT_EQ(json["l2"]["expires_in_ms"], 60'000);
  EXPECT_EQ(json["l2"]["version"], json["l1"]["version"]);
  EXPECT_EQ(json["l1"]["version"].get<std::string>().size(), 16u);
  EXPECT_TRUE(json["last"].is_null());
  EXPECT_TRUE(json["remembers_ms"].is_null());

  EXPECT_EQ(workers.read("small")->bytes, "value");
  workers.forget_in_l1("large");
  workers.advance(2s);
  json = workers.explain("large");
  EXPECT_EQ(json["l1"], Json({{"resident", false}}));
  EXPECT_EQ(event_of(json), "evicted");
  EXPECT_EQ(json["last"]["ago_ms"], 2000);
  EXPECT_EQ(json["last"]["size"], kLarge);
  EXPECT_EQ(json["last"]["version"], json["l2"]["version"]);
  EXPECT_EQ(json["l2"]["state"], "present");
  json = workers.explain("small");
  EXPECT_EQ(json["l1"]["hits"], 1);
  EXPECT_TRUE(json["l1"]["expires_in_ms"].is_null());
  EXPECT_EQ(json["l2"]["chunks"], 0);
  EXPECT_FALSE(workers.in_l1("large")) << "asking fetches nothing";
}

TEST(Explain, NeverSeen) {
  Workers workers;
  const Json json = workers.explain("none");
  EXPECT_EQ(json["l1"]["resident"], false);
  EXPECT_TRUE(json["last"].is_null());
  EXPECT_TRUE(json["remembers_ms"].is_null()) << "nothing was forgotten since the start";
  EXPECT_EQ(json["l2"], Json({{"state", "absent"}}));
}

TEST(Explain, SaysHowFarBackItRemembers) {
  Workers workers({.with_l2 = false});
  for (unsigned i = 0; i < 20'000; ++i) {
    const auto putter = workers.put(std::to_string(i), "value");
    workers.remove(std::to_string(i));
  }
  workers.advance(3s);
  EXPECT_EQ(workers.explain("none")["remembers_ms"], 3000);
  EXPECT_EQ(workers.explain("none")["l2"], Json({{"state", "none"}}));
}

TEST(Explain, DeletedExpiredAndReplaced) {
  for (const bool with_l2 : {true, false}) {
    SCOPED_TRACE(with_l2);
    Workers workers({.with_l2 = with_l2});
    const auto deleted = workers.put("deleted", "value");
    EXPECT_EQ(workers.remove("deleted"), Status::kOk);
    Json json = workers.explain("deleted");
    EXPECT_EQ(event_of(json), "deleted");
    EXPECT_EQ(json["last"]["size"], 5) << "L1 knew it";
    const auto mortal = workers.put("expired", "value", {.ttl_ms = 1000});
    workers.advance(1500ms);
    EXPECT_EQ(event_of(workers.explain("expired")), "expired");
    EXPECT_EQ(workers.explain("expired")["last"]["ago_ms"], 500);
  }
}

TEST(Explain, DeletedThoughItWasNotInL1) {
  Workers workers;
  const auto putter = workers.put("key", text_of(1, kLarge));
  workers.forget_in_l1("key");
  workers.advance(1s);
  EXPECT_EQ(workers.remove("key"), Status::kOk);
  EXPECT_EQ(event_of(workers.explain("key")), "deleted");
  EXPECT_EQ(workers.remove("none"), Status::kNotFound);
  EXPECT_EQ(event_of(workers.explain("none")), "none");
}

TEST(Explain, TooLargeForL1ReplacesOrIsNotKept) {
  Workers workers({.l1_bytes = kMiB});
  const auto small = workers.put("key", "value");
  const auto large = workers.put("key", text_of(1, 2 * kMiB));
  ASSERT_TRUE(large->stored);
  Json json = workers.explain("key");
  EXPECT_EQ(json["l1"]["resident"], false);
  EXPECT_EQ(event_of(json), "replaced");
  EXPECT_EQ(json["last"]["size"], 2 * kMiB);
  EXPECT_EQ(json["last"]["limit"], kMiB);
  EXPECT_EQ(json["l2"]["state"], "present");
  const auto other = workers.put("other", text_of(1, 2 * kMiB));
  json = workers.explain("other");
  EXPECT_EQ(event_of(json), "not_kept");
  EXPECT_EQ(json["last"]["limit"], kMiB);
}

TEST(Explain, RejectedWithSizeAndLimit) {
  for (const bool with_l2 : {true, false}) {
    for (const bool size_known : {true, false}) {
      SCOPED_TRACE(std::to_string(with_l2) + std::to_string(size_known));
      Workers workers({.with_l2 = with_l2, .max_value_bytes = 3 * kChunk});
      const auto old = workers.put("key", "old");
      const auto large = workers.stream("key", text_of(1, 4 * kChunk), {}, size_known);
      ASSERT_TRUE(large->error);
      const Json json = workers.explain("key");
      EXPECT_EQ(json["l1"]["resident"], false);
      EXPECT_EQ(event_of(json), "rejected");
      EXPECT_EQ(json["last"]["code"], "VALUE_TOO_LARGE");
      EXPECT_EQ(json["last"]["size"], size_known ? 4 * kChunk : 3 * kChunk + 1);
      EXPECT_EQ(json["last"]["limit"], 3 * kChunk);
    }
  }
}

TEST_F(Alone, LargerThanL1IsRejectedByL1sBudget) {
  const auto large = workers.stream("key", text_of(1, 20 * kMiB));
  ASSERT_TRUE(large->error);
  const Json json = workers.explain("key");
  EXPECT_EQ(json["last"]["code"], "VALUE_TOO_LARGE");
  EXPECT_EQ(json["last"]["limit"], ServiceSetup{}.l1_bytes);
}

TEST_F(Alone, NoRoomIsRejectedAndTheOldValueStays) {
  const auto old = workers.put("key", "old");
  const auto holder = workers.open("holder", text_of(1, ServiceSetup{}.l1_bytes - 4 * kChunk));
  const auto refused = workers.stream("key", text_of(2, 8 * kChunk));
  ASSERT_TRUE(refused->error);
  EXPECT_EQ(refused->error->status, Status::kNoRoom);
  const Json json = workers.explain("key");
  EXPECT_EQ(event_of(json), "rejected");
  EXPECT_EQ(json["last"]["code"], "NO_ROOM");
  EXPECT_EQ(json["last"]["size"], 8 * kChunk);
  EXPECT_EQ(json["last"]["limit"], ServiceSetup{}.l1_bytes);
}

TEST(Explain, AConditionThatFailsIsNoReason) {
  Workers workers;
  const auto old = workers.put("key", "old");
  const auto refused = workers.put("key", "new", {.if_absent = true});
  ASSERT_TRUE(refused->error);
  EXPECT_EQ(event_of(workers.explain("key")), "none");
}

TEST(Explain, AMissingChunkIsLost) {
  Workers workers;
  const auto putter = workers.put("key", text_of(1, kLarge));
  workers.forget_in_l1("key");
  const base::Version version = workers.l2().manifests.at("key").meta.version;
  workers.l2().chunks.erase({"key", version, 3});
  const auto reader = workers.read("key");
  ASSERT_TRUE(reader->error);
  const Json json = workers.explain("key");
  EXPECT_EQ(event_of(json), "lost");
  EXPECT_EQ(json["last"]["size"], kLarge);
  EXPECT_EQ(json["last"]["code"], "VALUE_LOST");
  EXPECT_EQ(json["l2"]["state"], "absent");
}

TEST(Explain, ADamagedChunkOrManifestIsCorrupt) {
  Workers workers;
  const auto putter = workers.put("key", text_of(1, kLarge));
  workers.forget_in_l1("key");
  workers.store().fail_next(Step::kRead, Status::kValueLost);
  EXPECT_TRUE(workers.read("key")->error);
  EXPECT_EQ(event_of(workers.explain("key")), "corrupt");

  workers.store().fail_next(Step::kManifest, Status::kValueLost);
  EXPECT_TRUE(workers.read("other")->error);
  EXPECT_EQ(event_of(workers.explain("other")), "corrupt");
}

TEST(Explain, AnL2ThatCannotBeAskedIsSaid) {
  Workers workers;
  const auto putter = workers.put("key", "value");
  workers.forget_in_l1("key");
  workers.advance(1s);
  workers.store().fail_next(Step::kManifest, Status::kL2Timeout);
  EXPECT_TRUE(workers.read("key")->error);
  EXPECT_EQ(event_of(workers.explain("key")), "l2_unreachable");
  EXPECT_EQ(workers.explain("key")["last"]["code"], "L2_TIMEOUT");

  workers.store().fail_next(Step::kManifest, Status::kL2Error);
  const Json failed = workers.explain("other");
  EXPECT_EQ(failed["l2"]["state"], "unknown");
  EXPECT_EQ(failed["l2"]["code"], "L2_ERROR");
  EXPECT_EQ(failed["l2"]["text"], "scripted");
  workers.store().set_available(false);
  const Json unavailable = workers.explain("other");
  EXPECT_EQ(unavailable["l2"]["code"], "L2_UNAVAILABLE");
  EXPECT_TRUE(unavailable["last"].is_null()) << "asking why is no event";

  const auto refused = workers.put("other", "value");
  ASSERT_TRUE(refused->error);
  EXPECT_EQ(event_of(workers.explain("other")), "rejected");
  EXPECT_EQ(workers.explain("other")["last"]["code"], "L2_UNAVAILABLE");
}

TEST(Reasons, TheLaterEventIsToldButNotAConsequence) {
  using base::Event;
  using base::Reason;
  const base::TimePoint now{std::chrono::hours(1)};
  const auto joined = [&](const Event& l1, const Event& service) {
    return service::join({.last = l1, .since = {}}, {.last = service, .since = {}}).last->reason;
  };
  const Event lost{.reason = Reason::kLost, .at = now};
  EXPECT_EQ(joined({.reason = Reason::kEvicted, .at = now - 1s}, lost), Reason::kLost);
  EXPECT_EQ(joined({.reason = Reason::kEvicted, .at = now + 1s}, lost), Reason::kEvicted);
  EXPECT_EQ(joined({.reason = Reason::kEvicted, .at = now + 1ms}, lost), Reason::kEvicted);
  EXPECT_EQ(joined({.reason = Reason::kInvalidated, .at = now}, lost), Reason::kLost);
  EXPECT_EQ(joined({.reason = Reason::kInvalidated, .at = now + 1ms}, lost), Reason::kLost);
  EXPECT_EQ(joined({.reason = Reason::kInvalidated, .at = now + 1s}, lost), Reason::kInvalidated);
}

TEST(Reasons, WhatIsForgottenBeforeTheLastEventDoesNotMatter) {
  const base::TimePoint now{std::chrono::hours(1)};
  const base::Event event{.reason = base::Reason::kEvicted, .at = now};
  const base::ReasonTable::Memory known{.last = event, .since = {}};
  EXPECT_FALSE(service::join(known, {.last = {}, .since = now - 1s}).since);
  EXPECT_EQ(service::join(known, {.last = {}, .since = now + 1s}).since, now + 1s);
  EXPECT_EQ(service::join({.last = {}, .since = now + 1s}, known).last->at, now);
  EXPECT_EQ(service::join({.last = {}, .since = now - 2s}, {.last = {}, .since = now - 1s}).since,
            now - 1s);
  EXPECT_FALSE(service::join({}, {}).last);
}

TEST(Explain, ItsEventsAreThoseOfTheProtocolPage) {
  std::vector<std::vector<std::string>> expected;
  for (std::size_t i = 0; i < base::kReasonCount; ++i) {
    const auto reason = static_cast<base::Reason>(i);
    expected.push_back({std::string(base::name(reason)), std::string(base::text(reason))});
  }
  const ProtocolPage page(CISTERN_SOURCE_DIR "/proto/PROTOCOL.md");
  EXPECT_EQ(page.table("| event | meaning |"), expected);
}

TEST(Explain, WhoLeavesIsNotAnswered) {
  Workers workers;
  bool answered = false;
  auto operation = workers.service().explain(
      {proto::as_bytes("key"), {}}, [&](const proto::Result<std::string>&) { answered = true; });
  operation.reset();
  workers.settle();
  EXPECT_FALSE(answered);
}

}  // namespace
}  // namespace cistern::testing
