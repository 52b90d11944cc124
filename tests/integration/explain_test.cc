// `cistern explain` against the daemon: each reason that a key may be absent for, with a real Redis
// behind it.
#include <cistern/client.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/limits.h"
#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/support/redis_server.h"
#include "tests/support/values.h"

namespace cistern::testing {
namespace {

using namespace std::chrono_literals;

using proto::kMiB;
using ::testing::HasSubstr;
using Json = nlohmann::json;

constexpr Millis kPatience = 60s;
constexpr std::uint64_t kL1Bytes = 8 * kMiB;

DaemonOptions options(const RedisServer& redis) {
  DaemonOptions options;
  options.config =
      "memory: {limit: 128MiB}\n"
      "l1: {max_bytes: 8MiB}\n"
      "limits: {max_value_bytes: 32MiB}\n"
      "l2: {kind: redis, redis: {url: \"" +
      redis.url() + "\", op_timeout: 1s, connect_timeout: 500ms}}\n";
  return options;
}

struct ExplainTest : ::testing::Test {
  ExplainTest() : daemon_(options(redis_)), client_({.endpoint = daemon_.endpoint()}) {
    EXPECT_TRUE(eventually([&] { return daemon_.admin_status("/readyz") == 200; }, kPatience));
  }

  Json explain(const std::string& key) { return Json::parse(client_.explain(key)); }
  std::string event(const std::string& key) {
    const Json json = explain(key);
    EXPECT_EQ(json["l1"]["resident"], false) << json;
    return json["last"].is_null() ? "none" : json["last"]["event"].get<std::string>();
  }
  // What the command prints.
  std::string printed(const std::string& key) {
    const Finished result = cistern(daemon_.endpoint(), {"explain", key});
    EXPECT_EQ(result.status, 0) << result.errors;
    return result.output;
  }
  template <typename Call>
  Status status_of(const Call& call) {
    try {
      call();
    } catch (const Error& error) {
      return error.status();
    }
    return Status::kOk;
  }

  const std::vector<std::byte> large_ = value_of(1, 3 * kMiB);
  RedisServer redis_;
  Daemon daemon_;
  Client client_;
};

TEST_F(ExplainTest, ResidentAndNeverSeen) {
  const Stored stored = client_.put("key", large_, {.ttl = 10min});
  client_.get("key");
  const Json json = explain("key");
  EXPECT_EQ(json["l1"]["resident"], true);
  EXPECT_EQ(json["l1"]["size"], large_.size());
  EXPECT_EQ(json["l1"]["version"], to_hex(stored.version));
  EXPECT_EQ(json["l1"]["hits"], 1);
  EXPECT_GT(json["l1"]["expires_in_ms"], 60'000);
  EXPECT_EQ(json["l2"]["state"], "present");
  EXPECT_EQ(json["l2"]["version"], to_hex(stored.version));
  EXPECT_EQ(json["l2"]["chunks"], 4);
  EXPECT_THAT(printed("key"), HasSubstr("read 1 times"));

  const Json none = explain("none");
  EXPECT_EQ(none["l1"]["resident"], false);
  EXPECT_TRUE(none["last"].is_null());
  EXPECT_EQ(none["l2"]["state"], "absent");
  EXPECT_THAT(printed("none"), HasSubstr("nothing has happened to it since the daemon started"));
  EXPECT_EQ(cistern(daemon_.endpoint(), {"explain", "--json", "none"}).output,
            client_.explain("none") + "\n");
}

TEST_F(ExplainTest, EvictedDeletedExpired) {
  client_.put("evicted", large_);
  client_.put("next", large_);
  client_.put("after", large_);  // 9 MiB don't fit
  const Json evicted = explain("evicted");
  EXPECT_EQ(evicted["l1"]["resident"], false);
  EXPECT_EQ(evicted["last"]["event"], "evicted");
  EXPECT_EQ(evicted["last"]["size"], large_.size());
  EXPECT_EQ(evicted["l2"]["state"], "present");
  EXPECT_THAT(printed("evicted"), HasSubstr("evicted, "));

  client_.put("deleted", as_bytes("value"));
  EXPECT_TRUE(client_.remove("deleted"));
  EXPECT_EQ(event("deleted"), "deleted");
  EXPECT_EQ(explain("deleted")["l2"]["state"], "absent");
  EXPECT_TRUE(client_.remove("evicted"));
  EXPECT_EQ(event("evicted"), "deleted") << "of L2 alone";

  client_.put("expired", as_bytes("value"), {.ttl = 50ms});
  EXPECT_TRUE(eventually([&] { return explain("expired")["l1"]["resident"] == false; }, kPatience));
  EXPECT_EQ(event("expired"), "expired");
  EXPECT_EQ(explain("expired")["l2"]["state"], "absent");
}

TEST_F(ExplainTest, ReplacedByWhatL1CannotHold) {
  client_.put("key", as_bytes("value"));
  client_.put("key", value_of(2, 12 * kMiB));
  const Json json = explain("key");
  EXPECT_EQ(event("key"), "replaced");
  EXPECT_EQ(json["last"]["size"], 12 * kMiB);
  EXPECT_EQ(json["last"]["limit"], kL1Bytes);
  EXPECT_EQ(json["l2"]["size"], 12 * kMiB);
  EXPECT_THAT(printed("key"), HasSubstr("the limit is 8388608 bytes"));
  client_.put("other", value_of(2, 12 * kMiB));
  EXPECT_EQ(event("other"), "not_kept");
}

TEST_F(ExplainTest, RejectedWithSizeAndLimit) {
  const std::vector<std::byte> huge = value_of(3, 33 * kMiB);
  EXPECT_EQ(status_of([&] { client_.put("key", huge); }), Status::kValueTooLarge);
  const Json json = explain("key");
  EXPECT_EQ(event("key"), "rejected");
  EXPECT_EQ(json["last"]["code"], "VALUE_TOO_LARGE");
  EXPECT_EQ(json["last"]["size"], 33 * kMiB);
  EXPECT_EQ(json["last"]["limit"], 32 * kMiB);
  EXPECT_THAT(printed("key"), HasSubstr("VALUE_TOO_LARGE"));
}

TEST_F(ExplainTest, AChunkThatIsLostOrDamaged) {
  for (const bool missing : {true, false}) {
    SCOPED_TRACE(missing);
    client_.put("key", value_of(2, 12 * kMiB));  // not in L1
    const auto chunks = redis_.keys("cistern:c:*");
    ASSERT_EQ(chunks.size(), 13u);
    const std::string& one = chunks.at(7);
    if (missing) {
      redis_.command({"DEL", one});
    } else {
      redis_.command({"SETRANGE", one, "1000", "damaged"});
    }
    EXPECT_EQ(status_of([&] { client_.get("key"); }), Status::kValueLost);
    EXPECT_EQ(event("key"), missing ? "lost" : "corrupt");
    EXPECT_EQ(explain("key")["last"]["code"], "VALUE_LOST");
    EXPECT_TRUE(eventually([&] { return explain("key")["l2"]["state"] == "absent"; }, kPatience));
    EXPECT_EQ(event("key"), missing ? "lost" : "corrupt");
    redis_.command({"FLUSHALL"});
  }
}

TEST_F(ExplainTest, ADamagedManifest) {
  client_.put("key", value_of(2, 12 * kMiB));
  const auto manifests = redis_.keys("cistern:m:*");
  ASSERT_EQ(manifests.size(), 1u);
  redis_.command({"SETRANGE", manifests.front(), "0", "damaged"});
  EXPECT_EQ(status_of([&] { client_.get("key"); }), Status::kValueLost);
  EXPECT_EQ(event("key"), "corrupt");
}

TEST_F(ExplainTest, WithoutRedis) {
  client_.put("resident", as_bytes("value"));
  redis_.stop();
  Json json = explain("resident");
  EXPECT_EQ(json["l1"]["resident"], true);
  EXPECT_EQ(json["l2"]["state"], "unknown");
  EXPECT_FALSE(json["l2"]["text"].get<std::string>().empty());
  EXPECT_NE(status_of([&] { client_.get("absent"); }), Status::kOk);
  json = explain("absent");
  EXPECT_EQ(event("absent"), "l2_unreachable");
  EXPECT_EQ(json["last"]["code"].get<std::string>().substr(0, 3), "L2_");
  EXPECT_THAT(printed("absent"), HasSubstr("could not be asked: "));
  EXPECT_NE(status_of([&] { client_.put("refused", as_bytes("value")); }), Status::kOk);
  EXPECT_EQ(event("refused"), "rejected");
}

}  // namespace
}  // namespace cistern::testing
