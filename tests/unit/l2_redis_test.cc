// RedisStore against a real Redis that works.
#include <algorithm>
#include <charconv>

#include "tests/unit/l2_redis_fixture.h"

namespace cistern::l2 {
namespace {

class RedisStoreTest : public StoreFixture {
 protected:
  std::int64_t ttl_ms(const std::string& name) { return redis.command({"PTTL", name}).integer; }

  RedisServer redis;
};

TEST_F(RedisStoreTest, FindsNothingWhereNothingIs) {
  open(redis.url());
  const auto found = get("absent");
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_FALSE(found->has_value());
  EXPECT_TRUE(store->available());
}

TEST_F(RedisStoreTest, KeepsSmallValuesInTheManifest) {
  open(redis.url());
  for (const std::uint64_t size : {0u, 1u, 100u, 16384u}) {
    const Value value = make_value("small " + std::to_string(size), size, 7 + size);
    const auto committed = commit(value);
    ASSERT_TRUE(committed) << committed.error().message;
    EXPECT_EQ(committed->kind, CommitKind::kCommitted);
    EXPECT_FALSE(committed->replaced.existed);
    const auto found = get(value.key);
    ASSERT_TRUE(found && found->has_value());
    EXPECT_EQ((*found)->inline_bytes, value.manifest.inline_bytes);
    EXPECT_EQ((*found)->meta.version, value.manifest.meta.version);
    EXPECT_EQ((*found)->meta.metadata, value.manifest.meta.metadata);
  }
  EXPECT_EQ(redis.keys("t:c:*").size(), 0u);
}

TEST_F(RedisStoreTest, KeepsLargeValuesInChunks) {
  open(redis.url());
  const Value value = make_value("large", 5 * 1044480 + 17, 99, 1044480);
  put(value);
  EXPECT_EQ(redis.keys("t:c:*").size(), 6u);
  const auto found = get("large");
  ASSERT_TRUE(found && found->has_value());
  EXPECT_EQ((*found)->meta.size, value.manifest.meta.size);
  for (std::uint64_t i = 0; i < value.count(); ++i) {
    const auto chunk = read(value, i);
    ASSERT_TRUE(chunk) << chunk.error().message;
    EXPECT_TRUE(same(*chunk, value.chunks[i])) << i;
    // What lies in Redis is what the envelope's description says.
    EXPECT_EQ(redis.command({"GET", chunk_name(value, i)}).text, stored_chunk(value, i));
  }
}

TEST_F(RedisStoreTest, PipelinesReadsAndWrites) {
  RedisOptions options = options_for(redis.url());
  options.connections_per_worker = 3;
  open(options);
  const Value value = make_value("many", 64 * 65536, 5, 65536);
  put(value);
  std::vector<Answer<StoredChunk>> reads;
  for (std::uint64_t i = 0; i < value.count(); ++i) reads.push_back(start_read(value, i));
  for (std::uint64_t i = 0; i < value.count(); ++i) {
    const auto chunk = wait(reads[i]);
    ASSERT_TRUE(chunk) << chunk.error().message;
    EXPECT_TRUE(same(*chunk, value.chunks[i])) << i;
  }
  EXPECT_EQ(redis.command({"CLIENT", "LIST"}).text.find("qbuf=-"), std::string::npos);
}

TEST_F(RedisStoreTest, WorksOverAUnixSocketWithALoginAndADatabase) {
  RedisServer locked({"--requirepass", "p@ss:word/"});
  const std::string login = ":p%40ss%3Aword%2F@";
  for (const std::string& url :
       {"unix://" + login + locked.unix_path() + "?db=3",
        "redis://" + login + "127.0.0.1:" + std::to_string(locked.port()) + "/3",
        "redis://default" + login + "localhost:" + std::to_string(locked.port()) + "/3"}) {
    open(url);
    const Value value = make_value("key", 200000, 3);
    put(value);
    const auto chunk = read(value, 1);
    ASSERT_TRUE(chunk) << chunk.error().message;
    EXPECT_TRUE(same(*chunk, value.chunks[1]));
    close();
  }
  locked.command({"SELECT", "3"});
  EXPECT_EQ(locked.keys("t:m:*").size(), 1u);
}

TEST_F(RedisStoreTest, AppliesConditionsAtomically) {
  open(redis.url());
  const Value first = make_value("key", 10, 1);
  const Value second = make_value("key", 200000, 2);
  const Value third = make_value("key", 12, 3);
  const Condition absent{Condition::Kind::kIfAbsent, 0};
  const auto version = [](base::Version v) { return Condition{Condition::Kind::kIfVersion, v}; };
  EXPECT_EQ(commit(first, version(1))->kind, CommitKind::kConditionFailed);
  EXPECT_EQ(redis.keys().size(), 0u);
  EXPECT_EQ(commit(first, absent)->kind, CommitKind::kCommitted);
  EXPECT_EQ(commit(second, absent)->kind, CommitKind::kConditionFailed);
  EXPECT_EQ(commit(second, version(9))->kind, CommitKind::kConditionFailed);
  EXPECT_EQ((*get("key"))->meta.version, 1u);
  auto replaced = commit(second, version(1));
  ASSERT_EQ(replaced->kind, CommitKind::kCommitted);
  EXPECT_TRUE(replaced->replaced.existed);
  EXPECT_FALSE(replaced->replaced.chunks) << "the first value had no chunks";
  replaced = commit(third);
  ASSERT_EQ(replaced->kind, CommitKind::kCommitted);
  ASSERT_TRUE(replaced->replaced.chunks);
  EXPECT_EQ(replaced->replaced.chunks->version, 2u);
  EXPECT_EQ(replaced->replaced.chunks->chunk_count, second.count());
  EXPECT_EQ(replaced->replaced.chunks->key, "key");
}

TEST_F(RedisStoreTest, RemovesUnderConditions) {
  open(redis.url());
  const Value value = make_value("key", 200000, 0x8000000000000001);
  const Condition wrong{Condition::Kind::kIfVersion, 2};
  const Condition right{Condition::Kind::kIfVersion, 0x8000000000000001};
  EXPECT_EQ(remove("key", right)->kind, CommitKind::kConditionFailed);
  auto removed = remove("key");
  EXPECT_EQ(removed->kind, CommitKind::kCommitted);
  EXPECT_FALSE(removed->replaced.existed);
  put(value);
  EXPECT_EQ(remove("key", wrong)->kind, CommitKind::kConditionFailed);
  removed = remove("key", right);
  ASSERT_EQ(removed->kind, CommitKind::kCommitted);
  EXPECT_TRUE(removed->replaced.existed);
  ASSERT_TRUE(removed->replaced.chunks);
  EXPECT_EQ(removed->replaced.chunks->version, value.manifest.meta.version);
  EXPECT_FALSE(get("key")->has_value());
}

TEST_F(RedisStoreTest, DiscardsOnlyTheVersionThatWasLost) {
  open(redis.url());
  put(make_value("key", 10, 1));
  store->discard("key", 2);
  EXPECT_TRUE(get("key")->has_value());
  store->discard("key", 1);
  EXPECT_FALSE(get("key")->has_value());
}

TEST_F(RedisStoreTest, TouchReplacesNoChunks) {
  open(redis.url());
  Value value = make_value("key", 200000, 4);
  put(value);
  value.manifest.meta.expires_at_ms = loop.unix_ms() + 100'000;
  const auto touched = commit(value, {Condition::Kind::kIfVersion, 4});
  ASSERT_EQ(touched->kind, CommitKind::kCommitted);
  EXPECT_TRUE(touched->replaced.existed);
  EXPECT_FALSE(touched->replaced.chunks) << "its chunks would be released under it";
  EXPECT_EQ((*get("key"))->meta.expires_at_ms, value.manifest.meta.expires_at_ms);
}

TEST_F(RedisStoreTest, EveryKeyHasAnExpiry) {
  RedisOptions options = options_for(redis.url());
  options.provisional_ttl = seconds(300);
  options.max_idle = seconds(1000);
  open(options);
  Value value = make_value("key", 200000, 4);
  put(value);
  EXPECT_LE(ttl_ms(chunk_name(value, 0)), 300'000);
  EXPECT_GT(ttl_ms(chunk_name(value, 0)), 290'000);
  EXPECT_LE(ttl_ms("t:m:key"), 1'000'000);
  EXPECT_GT(ttl_ms("t:m:key"), 990'000);
  value.manifest.meta.expires_at_ms = loop.unix_ms() + 60'000;
  ASSERT_TRUE(commit(value));
  EXPECT_LE(ttl_ms("t:m:key"), 60'000);
  EXPECT_GT(ttl_ms("t:m:key"), 50'000);
  for (const std::string& name : redis.keys()) EXPECT_GT(ttl_ms(name), 0) << name;
}

TEST_F(RedisStoreTest, RenewsTheStayOfWhatIsRead) {
  RedisOptions options = options_for(redis.url());
  options.max_idle = seconds(1000);
  open(options);
  put(make_value("key", 10, 4));
  redis.command({"PEXPIRE", "t:m:key", "760000"});
  ASSERT_TRUE(get("key")->has_value());
  ASSERT_TRUE(get("key")->has_value());  // what the first one caused has been done
  EXPECT_LE(ttl_ms("t:m:key"), 760'000) << "renewed too early";
  redis.command({"PEXPIRE", "t:m:key", "740000"});
  ASSERT_TRUE(get("key")->has_value());
  ASSERT_TRUE(get("key")->has_value());
  EXPECT_GT(ttl_ms("t:m:key"), 990'000);
  redis.command({"PERSIST", "t:m:key"});
  ASSERT_TRUE(get("key")->has_value());
  ASSERT_TRUE(get("key")->has_value());
  EXPECT_GT(ttl_ms("t:m:key"), 990'000);
}

TEST_F(RedisStoreTest, DoesNotSeeWhatHasExpired) {
  open(redis.url());
  Value value = make_value("key", 10, 4);
  value.manifest.meta.expires_at_ms = loop.unix_ms() + 100'000;
  ASSERT_TRUE(commit(value));
  EXPECT_TRUE(get("key")->has_value());
  value.manifest.meta.expires_at_ms = loop.unix_ms() - 1;
  // As if Redis' clock were behind.
  redis.command({"SET", "t:m:key", encode_manifest(proto::as_bytes("key"), value.manifest)});
  EXPECT_FALSE(get("key")->has_value());
}

TEST_F(RedisStoreTest, RaisesExpiriesAndCountsTheChunks) {
  open(redis.url());
  const Value value = make_value("key", 300 * 4096, 4, 4096);
  put(value);
  auto present = expire(value.set(), seconds(10'000), true);
  ASSERT_TRUE(present) << present.error().message;
  EXPECT_EQ(*present, 300u);
  EXPECT_GT(ttl_ms(chunk_name(value, 299)), 9'990'000);
  // Nothing is shortened, and what is there is counted all the same.
  redis.command({"DEL", chunk_name(value, 3), chunk_name(value, 200)});
  present = expire(value.set(), seconds(100), true);
  EXPECT_EQ(*present, 298u);
  EXPECT_GT(ttl_ms(chunk_name(value, 299)), 9'990'000);
  present = expire(value.set(), seconds(100), false);
  EXPECT_EQ(*present, 298u);
  EXPECT_LE(ttl_ms(chunk_name(value, 299)), 100'000);
  EXPECT_EQ(*expire({"key", 4, 0}, seconds(100), false), 0u);
}

TEST_F(RedisStoreTest, ReportsEveryKindOfDamageAsALostValue) {
  open(redis.url());
  const Value value = make_value("key", 4 * 65536, 4, 65536);
  put(value);
  const std::string name = chunk_name(value, 1);
  const std::string good = stored_chunk(value, 1);
  std::string flipped = good;
  flipped[kChunkHeaderBytes + 40000] ^= 1;
  std::string header = good;
  header[41] ^= 1;
  const Value other = make_value("key", 4 * 65536, 5, 65536);
  const std::string damaged[] = {"",
                                 good.substr(0, 10),
                                 good.substr(0, kChunkHeaderBytes),
                                 good.substr(0, good.size() - 1),
                                 good + "x",
                                 std::string(3'000'000, 'x'),
                                 std::string(good.size(), 'x'),
                                 flipped,
                                 header,
                                 stored_chunk(value, 0),
                                 stored_chunk(other, 1)};
  for (const std::string& bytes : damaged) {
    redis.command({"SET", name, bytes});
    // The ones around it, on the same connection, are none the worse.
    auto before = start_read(value, 0);
    auto at = start_read(value, 1);
    auto after = start_read(value, 2);
    EXPECT_TRUE(same(*wait(before), value.chunks[0]));
    const auto lost = wait(at);
    ASSERT_FALSE(lost);
    EXPECT_EQ(lost.error().status, Status::kValueLost) << lost.error().message;
    EXPECT_TRUE(same(*wait(after), value.chunks[2]));
  }
  redis.command({"DEL", name});
  EXPECT_EQ(read(value, 1).error().status, Status::kValueLost);
  redis.command({"SET", name, good});
  EXPECT_TRUE(same(*read(value, 1), value.chunks[1]));
  EXPECT_EQ(metrics.l2_reconnects.get(), 0u);
  EXPECT_EQ(metrics.l2_corrupt_chunks.get(), std::size(damaged) + 1);
}

TEST_F(RedisStoreTest, RemovesACorruptManifest) {
  open(redis.url());
  put(make_value("key", 100, 4));
  std::string stored = redis.command({"GET", "t:m:key"}).text;
  stored[stored.size() - 1] ^= 1;
  for (const std::string& bytes : {stored, std::string("x"), std::string(5'000'000, 'x')}) {
    redis.command({"SET", "t:m:key", bytes});
    const auto lost = get("key");
    ASSERT_FALSE(lost);
    EXPECT_EQ(lost.error().status, Status::kValueLost);
    const auto found = get("key");
    ASSERT_TRUE(found);
    EXPECT_FALSE(found->has_value());
    EXPECT_EQ(redis.keys().size(), 0u);
  }
  EXPECT_EQ(metrics.l2_corrupt_manifests.get(), 3u);
}

TEST_F(RedisStoreTest, AChunkCountThatLiesReleasesNothing) {
  open(redis.url());
  put(make_value("key", 200000, 4));
  std::string stored = redis.command({"GET", "t:m:key"}).text;
  proto::store_le(reinterpret_cast<std::byte*>(stored.data()) + 16, ~std::uint64_t{0});
  redis.command({"SET", "t:m:key", stored});
  const auto replaced = commit(make_value("key", 10, 5));
  ASSERT_EQ(replaced->kind, CommitKind::kCommitted);
  EXPECT_FALSE(replaced->replaced.chunks);
}

TEST_F(RedisStoreTest, LoadsItsScriptAgainWhenRedisHasForgottenIt) {
  open(redis.url());
  put(make_value("key", 10, 1));
  redis.command({"SCRIPT", "FLUSH", "SYNC"});
  put(make_value("key", 10, 2));
  put(make_value("key", 10, 3));
  EXPECT_EQ((*get("key"))->meta.version, 3u);
}

TEST_F(RedisStoreTest, TellsTheOperatorWhatRedisRefuses) {
  open(redis.url());
  const Value small = make_value("key", 10, 1);
  const Value large = make_value("large", 200000, 1);
  ASSERT_TRUE(commit(small));
  redis.command({"CONFIG", "SET", "maxmemory", "1"});
  auto refused = commit(small);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().status, Status::kL2Error);
  EXPECT_NE(refused.error().message.find("maxmemory"), std::string::npos);
  const auto write_refused = write(large, 0);
  ASSERT_FALSE(write_refused);
  EXPECT_EQ(write_refused.error().status, Status::kL2Error);
  redis.command({"CONFIG", "SET", "maxmemory", "0"});
  EXPECT_TRUE(write(large, 0)) << "the connection goes on";
  redis.command({"DEL", "t:m:key"});
  redis.command({"LPUSH", "t:m:key", "x"});
  const auto wrong = get("key");
  ASSERT_FALSE(wrong);
  EXPECT_NE(wrong.error().message.find("key_prefix"), std::string::npos);
  EXPECT_EQ(metrics.l2_reconnects.get(), 0u);
}

TEST_F(RedisStoreTest, AReplicaIsUnavailable) {
  open(redis.url());
  ASSERT_TRUE(commit(make_value("key", 10, 1)));
  redis.command({"REPLICAOF", "127.0.0.1", "1"});
  const auto refused = commit(make_value("key", 10, 2));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().status, Status::kL2Unavailable);
  EXPECT_NE(refused.error().message.find("primary"), std::string::npos);
}

TEST_F(RedisStoreTest, NeedsNoMorePermissionsThanItSays) {
  // Those of the comment in redis_store.h.
  redis.command({"ACL",     "SETUSER",   "cistern", "on",    ">pw",          "~t:*",  "-@all",
                 "+select", "+info",     "+ping",   "+time", "+script|load", "+eval", "+evalsha",
                 "+get",    "+getrange", "+set",    "+del",  "+exists",      "+pttl", "+pexpire"});
  open("redis://cistern:pw@127.0.0.1:" + std::to_string(redis.port()) + "/1");
  const Value value = make_value("key", 200000, 4);
  put(value);
  ASSERT_TRUE(get("key")->has_value());
  EXPECT_TRUE(same(*read(value, 1), value.chunks[1]));
  EXPECT_EQ(*expire(value.set(), seconds(10), true), value.count());
  EXPECT_EQ(remove("key")->kind, CommitKind::kCommitted);
  redis.command({"ACL", "SETUSER", "cistern", "-set"});
  const auto refused = commit(value);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("permission"), std::string::npos)
      << refused.error().message;
}

TEST_F(RedisStoreTest, CountsWhatItDoes) {
  open(redis.url());
  const Value value = make_value("key", 200000, 4);
  put(value);
  ASSERT_TRUE(get("key"));
  ASSERT_TRUE(get("absent"));
  ASSERT_TRUE(read(value, 0));
  const auto count = [&](base::L2Op op, base::L2Result result) {
    return metrics.l2[static_cast<std::size_t>(op)][static_cast<std::size_t>(result)].get();
  };
  EXPECT_EQ(count(base::L2Op::kGetManifest, base::L2Result::kOk), 1u);
  EXPECT_EQ(count(base::L2Op::kGetManifest, base::L2Result::kAbsent), 1u);
  EXPECT_EQ(count(base::L2Op::kCommit, base::L2Result::kOk), 1u);
  EXPECT_EQ(count(base::L2Op::kWriteChunk, base::L2Result::kOk), value.count());
  EXPECT_EQ(metrics.l2_bytes_written.get(), 200000u);
  EXPECT_EQ(metrics.l2_bytes_read.get(), 65536u);
}

}  // namespace
}  // namespace cistern::l2
