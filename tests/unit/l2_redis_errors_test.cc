// What Redis' errors mean to a client, and what they tell the operator to do: as text, and from a
// real Redis.
#include "server/l2/redis_protocol.h"
#include "tests/unit/l2_redis_fixture.h"

namespace cistern::l2 {
namespace {

struct Said {
  const char* reply;
  Status status;
  const char* advice;
};

TEST(RedisErrors, HaveACodeAndSayWhatToDo) {
  const Said all[] = {
      {"OOM command not allowed when used memory > 'maxmemory'.", Status::kL2Error, "maxmemory"},
      {"READONLY You can't write against a read only replica.", Status::kL2Unavailable, "primary"},
      {"LOADING Redis is loading the dataset in memory", Status::kL2Unavailable, "loading"},
      {"MASTERDOWN Link with MASTER is down", Status::kL2Unavailable, "replica"},
      {"NOAUTH Authentication required.", Status::kL2Unavailable, "l2.redis.password_file"},
      {"WRONGPASS invalid username-password pair", Status::kL2Unavailable, "l2.redis.user"},
      {"DENIED Redis is running in protected mode", Status::kL2Unavailable, "bind address"},
      {"NOPERM this user has no permissions to run the 'get' command", Status::kL2Error, "grant"},
      {"MOVED 3999 127.0.0.1:6381", Status::kL2Error, "Cluster, which is not supported"},
      {"ASK 3999 127.0.0.1:6381", Status::kL2Error, "Cluster, which is not supported"},
      {"CLUSTERDOWN Hash slot not served", Status::kL2Unavailable, "single Redis"},
      {"TRYAGAIN Multiple keys request during rehashing of slot", Status::kL2Busy, "single Redis"},
      {"MISCONF Redis is configured to save RDB snapshots", Status::kL2Error, "snapshots"},
      {"NOREPLICAS Not enough good replicas to write.", Status::kL2Unavailable, "replicas"},
      {"BUSY Redis is busy running a script.", Status::kL2Busy, "SCRIPT KILL"},
      {"WRONGTYPE Operation against a key", Status::kL2Error, "key_prefix"},
      {"ERR max number of clients reached", Status::kL2Unavailable, "maxclients"},
      {"ERR AUTH <password> called without any password configured for the default user.",
       Status::kL2Unavailable, "take it out"},
      {"ERR DB index is out of range", Status::kL2Unavailable, "databases"},
      {"ERR unknown command 'EVALSHA'", Status::kL2Error, "7.0"},
      {"ERR something new", Status::kL2Error, "something new"},
  };
  for (const Said& said : all) {
    SCOPED_TRACE(said.reply);
    const base::Error error = redis_error(said.reply);
    EXPECT_EQ(error.status, said.status);
    EXPECT_TRUE(proto::is_retryable(error.status)) << "the operator may mend each of them";
    EXPECT_NE(error.message.find(said.advice), std::string::npos) << error.message;
    EXPECT_NE(error.message.find(said.reply), std::string::npos) << "Redis' own words are lost";
  }
}

class RedisErrorsTest : public StoreFixture {
 protected:
  static void expect(const base::Error& error, Status status, const std::string& advice) {
    EXPECT_EQ(error.status, status) << error.message;
    EXPECT_NE(error.message.find(advice), std::string::npos) << error.message;
  }
  RedisServer redis{{"--maxmemory-policy", "noeviction"}};
};

TEST_F(RedisErrorsTest, AFullRedisRefusesChunksAndCommitsAndStillForgets) {
  open(redis.url());
  const Value value = make_value("key", 3 * 65536, 1);
  put(value);
  redis.command({"CONFIG", "SET", "maxmemory", "1"});
  const Value next = make_value("key", 100, 2);
  expect(write(value, 0).error(), Status::kL2Error, "maxmemory");
  const auto committed = commit(next);
  ASSERT_FALSE(committed) << "a script's error is as definite as a command's";
  expect(committed.error(), Status::kL2Error, "maxmemory");
  EXPECT_EQ((*get("key"))->meta.version, 1u);
  EXPECT_TRUE(same(*read(value, 2), value.chunks[2]));
  EXPECT_EQ(*expire(value.set(), milliseconds(1), false), 3u);
  EXPECT_EQ(remove("key")->kind, CommitKind::kCommitted);
  EXPECT_TRUE(store->available());
}

TEST_F(RedisErrorsTest, AScriptThatRedisForgotIsSentAgain) {
  open(redis.url());
  ASSERT_TRUE(commit(make_value("key", 100, 1)));
  redis.command({"SCRIPT", "FLUSH"});
  const auto committed = commit(make_value("key", 100, 2));
  ASSERT_TRUE(committed) << committed.error().message;
  EXPECT_EQ(committed->kind, CommitKind::kCommitted);
  EXPECT_TRUE(committed->replaced.existed);
}

TEST_F(RedisErrorsTest, AReplicaIsReadAndRefusesWrites) {
  open(redis.url());
  ASSERT_TRUE(commit(make_value("key", 100, 1)));
  redis.command({"REPLICAOF", "127.0.0.1", "1"});
  const auto refused = commit(make_value("key", 100, 2));
  ASSERT_FALSE(refused);
  expect(refused.error(), Status::kL2Unavailable, "point it at the primary");
  redis.command({"REPLICAOF", "NO", "ONE"});
  ASSERT_TRUE(loop.run_until([&] { return store->available().has_value(); }));
  ASSERT_TRUE(loop.run_until([&] { return commit(make_value("key", 100, 3)).has_value(); }));
}

TEST_F(RedisErrorsTest, NoConnectionIsLeft) {
  // One is this test's own.
  redis.command({"CONFIG", "SET", "maxclients", "1"});
  open(redis.url());
  const auto refused = get("key");
  ASSERT_FALSE(refused);
  // Redis says why and closes without having read what it was sent: the end of the connection may
  // overtake its words.
  const std::string& message = refused.error().message;
  std::string said = "maxclients";
  for (const char* const end : {"reset by peer", "Server closed the connection"}) {
    if (message.find(end) != std::string::npos) said = end;
  }
  expect(refused.error(), Status::kL2Unavailable, said);
  redis.command({"CONFIG", "SET", "maxclients", "100"});
  EXPECT_TRUE(loop.run_until([&] { return get("key").has_value(); }));
}

TEST_F(RedisErrorsTest, APasswordThatNobodyAskedFor) {
  open("redis://:hunter2@127.0.0.1:" + std::to_string(redis.port()));
  const auto refused = get("key");
  ASSERT_FALSE(refused);
  expect(refused.error(), Status::kL2Unavailable, "take it out");
  EXPECT_EQ(refused.error().message.find("hunter2"), std::string::npos);
}

TEST_F(RedisErrorsTest, ADatabaseThatIsNotThere) {
  open(redis.url(999));
  const auto refused = get("key");
  ASSERT_FALSE(refused);
  expect(refused.error(), Status::kL2Unavailable, "databases");
}

}  // namespace
}  // namespace cistern::l2
