// The channel by which a real Redis tells of writes: what arrives, as of when it is complete, and
// what becomes of it when its connections are hurt.
#include <sstream>

#include "tests/unit/l2_redis_fixture.h"

namespace cistern::l2 {
namespace {

class Channel : public StoreFixture {
 protected:
  ~Channel() override { close(); }

  void open(const std::string& url, base::Duration heartbeat = milliseconds(20)) {
    RedisOptions options = options_for(url);
    options.heartbeat = heartbeat;
    store =
        std::make_unique<RedisStore>(std::move(options), loop.io(), loop, metrics, nullptr, &marks);
  }
  bool up() const { return metrics.l2_channel_up.get() == 1; }
  bool wait_up() {
    return loop.run_until([&] { return up(); });
  }
  // Until all that happened before this call has arrived.
  bool catch_up() {
    const base::TimePoint now = loop.now();
    return loop.run_until([&] { return marks.complete_at() > now; });
  }
  bool marked(const std::string& key, base::TimePoint since) const {
    const base::Bytes bytes = proto::as_bytes(key);
    return marks.of(bytes, base::hash_key(bytes), since).marked;
  }
  // Ends the connections with this flag in CLIENT LIST; how many they were.
  unsigned kill(char flag) {
    std::istringstream lines(redis.command({"CLIENT", "LIST"}).text);
    unsigned count = 0;
    for (std::string line; std::getline(lines, line);) {
      const std::size_t at = line.find(" flags=") + 7;
      if (line.substr(at, line.find(' ', at) - at).find(flag) == std::string::npos) continue;
      redis.command({"CLIENT", "KILL", "ID", line.substr(3, line.find(' ') - 3)});
      ++count;
    }
    return count;
  }

  RedisServer redis;
  Invalidations marks{1 << 12};
};

TEST_F(Channel, TellsOfEveryWayInWhichAManifestChanges) {
  open(redis.url());
  ASSERT_TRUE(wait_up());
  const Value value = make_value("set", 100, 7);
  const base::TimePoint before = loop.now();
  put(value);
  redis.command({"SET", "t:m:deleted", "x"});
  redis.command({"DEL", "t:m:deleted"});
  redis.command({"SET", "t:m:expired", "x", "PX", "1"});
  const std::string odd = "a key of\tblanks";
  put(make_value(odd, 100, 8));
  ASSERT_TRUE(catch_up());
  for (const std::string& key :
       {std::string("set"), std::string("deleted"), std::string("expired"), odd}) {
    EXPECT_TRUE(marked(key, before)) << key;
    EXPECT_FALSE(marked(key, loop.now())) << key;
  }
  EXPECT_FALSE(marked("other", before));
  // Chunks, and what others keep there, are not told of.
  const auto count = metrics.l2_invalidations.get();
  put(make_value("large", 300'000, 9));
  redis.command({"SET", "elsewhere:m:x", "x"});
  ASSERT_TRUE(catch_up());
  EXPECT_EQ(metrics.l2_invalidations.get(), count + 1);
}

TEST_F(Channel, EmptyingRedisMarksEverything) {
  for (const char* const command : {"FLUSHALL", "FLUSHDB"}) {
    open(redis.url());
    ASSERT_TRUE(wait_up());
    const base::TimePoint before = loop.now();
    redis.command({command});
    ASSERT_TRUE(catch_up());
    EXPECT_TRUE(marked("anything", before));
    close();
  }
}

TEST_F(Channel, IsCompleteAsOfWhenAHeartbeatWasSentAndNotLater) {
  open(redis.url());
  ASSERT_TRUE(wait_up());
  const base::TimePoint first = marks.complete_at();
  ASSERT_TRUE(catch_up());
  EXPECT_GT(marks.complete_at(), first);
  EXPECT_LT(marks.complete_at(), loop.now());
  const base::Bytes key = proto::as_bytes("k");
  const std::uint64_t hash = base::hash_key(key);
  // What was proven since it is there goes with it, what was cached before does not.
  EXPECT_EQ(marks.of(key, hash, first).known_at, marks.complete_at());
  const base::TimePoint early = first - seconds(1);
  EXPECT_EQ(marks.of(key, hash, early).known_at, early);
  // A Redis that stands still proves nothing.
  redis.freeze();
  loop.run_for(milliseconds(100));
  const base::TimePoint frozen = marks.complete_at();
  loop.run_for(milliseconds(200));
  EXPECT_EQ(marks.complete_at(), frozen);
  redis.thaw();
  ASSERT_TRUE(catch_up());
}

TEST_F(Channel, ComesBackWhenEitherConnectionDiesAndKnowsThatItMissedSomething) {
  for (const char flag : {'t', 'P'}) {
    open(redis.url());
    ASSERT_TRUE(wait_up());
    ASSERT_TRUE(catch_up());
    const base::TimePoint cached = loop.now();
    const auto losses = metrics.l2_channel_losses.get();
    EXPECT_EQ(kill(flag), 1u);
    redis.command({"SET", "t:m:missed", "x"});
    ASSERT_TRUE(loop.run_until([&] { return metrics.l2_channel_losses.get() > losses; }));
    ASSERT_TRUE(wait_up());
    EXPECT_GT(marks.complete_at(), cached);
    // Nothing is known of what was cached before.
    const base::Bytes key = proto::as_bytes("missed");
    EXPECT_EQ(marks.of(key, base::hash_key(key), cached).known_at, cached);
    close();
    EXPECT_EQ(metrics.l2_channel_up.get(), 0);
  }
}

TEST_F(Channel, AMessageLargerThanItsBoundEndsTheConnectionAndNotTheMemory) {
  open(redis.url());
  ASSERT_TRUE(wait_up());
  const auto losses = metrics.l2_channel_losses.get();
  redis.command({"EVAL",
                 "for i = 1, 60000 do redis.call('SET', 't:m:a-name-of-some-length-' .. i, 'x', "
                 "'PX', '100') end",
                 "0"});
  ASSERT_TRUE(loop.run_until([&] { return metrics.l2_channel_losses.get() > losses; }));
  ASSERT_TRUE(wait_up());
}

TEST_F(Channel, AUserWithoutThePermissionHasNoneAndTheStoreWorks) {
  redis.command({"ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-client|tracking"});
  std::string url = redis.url();
  url.insert(url.find("//") + 2, "app:pw@");
  open(url);
  put(make_value("k", 100, 1));
  loop.run_for(milliseconds(300));
  EXPECT_FALSE(up());
  EXPECT_EQ(marks.complete_at(), base::TimePoint{});
  put(make_value("k", 100, 2));
  // Once it is granted, it comes by itself; with no more than the page says.
  redis.command({"ACL",        "SETUSER",
                 "app",        "reset",
                 "on",         ">pw",
                 "~t:*",       "&__redis__:invalidate",
                 "+client|id", "+client|tracking",
                 "+subscribe", "+set",
                 "+auth",      "+select",
                 "+info",      "+ping",
                 "+time",      "+script|load",
                 "+eval",      "+evalsha",
                 "+get",       "+getrange",
                 "+del",       "+exists",
                 "+pttl",      "+pexpire"});
  ASSERT_TRUE(wait_up());
  put(make_value("k", 100, 3));
}

TEST_F(Channel, RedisAwayAtTheStartOrEndHoldsUpNothing) {
  redis.stop();
  open(redis.url());
  loop.run_for(milliseconds(200));
  redis.start();
  ASSERT_TRUE(wait_up());
  redis.freeze();
  close();
  redis.thaw();
}

}  // namespace
}  // namespace cistern::l2
