// The memcached store against real servers that work.
#include <gmock/gmock.h>
#include <libmemcached/memcached.h>

#include "tests/unit/l2_memcached_fixture.h"

namespace cistern::l2 {
namespace {

using std::chrono::hours;
using ::testing::AllOf;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::Le;

constexpr std::uint32_t kChunkBytes = 64 * 1024;
constexpr long kDay = 24 * 3600;

std::vector<MemcachedAddress> fleet() {
  return {{"10.0.0.1", 11211, 1}, {"10.0.0.2", 11211, 2}, {"cache.example", 21211, 5}};
}

// What a client of libmemcached that knows nothing of us would choose.
std::string chosen_by_libmemcached(memcached_st* client, const std::string& key) {
  memcached_return_t code = MEMCACHED_SUCCESS;
  const auto* const found = memcached_server_by_key(client, key.data(), key.size(), &code);
  return std::string(memcached_server_name(found)) + ":" +
         std::to_string(memcached_server_port(found));
}

TEST(MemcachedClock, ADoubtIsNoReasonToTakeWhatIsStoredForOver) {
  MemcachedClock clock;
  const base::TimePoint now(std::chrono::hours(1));
  EXPECT_FALSE(clock.is_fresh(now));
  clock.measured(now, now, 1000);
  EXPECT_TRUE(clock.is_fresh(now));
  const std::uint64_t expiry = clock.expiry_in(now, std::chrono::seconds(10));
  EXPECT_EQ(expiry, 1011u);
  const auto limit = clock.limit(now, std::chrono::seconds(3));
  // Another commit has found its item gone. This one, which has asked before, goes by what it was
  // told: an expiry that is long past would be acknowledged, and nothing would be there.
  clock.doubt();
  EXPECT_FALSE(clock.is_fresh(now));
  EXPECT_EQ(clock.expiry_in(now, std::chrono::seconds(10)), expiry);
  EXPECT_EQ(clock.limit(now, std::chrono::seconds(3)).expiry_s, limit.expiry_s);
  clock.measured(now, now, 2000);
  EXPECT_TRUE(clock.is_fresh(now));
}

TEST(Ketama, ChoosesAsLibmemcachedDoes) {
  for (const bool is_weighted : {false, true}) {
    const Ketama ours(fleet(), is_weighted);
    memcached_st* const client = memcached_create(nullptr);
    memcached_behavior_set(
        client, is_weighted ? MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED : MEMCACHED_BEHAVIOR_KETAMA, 1);
    // In another order: the choice doesn't depend on it.
    const auto servers = fleet();
    for (const std::size_t i : {2, 0, 1}) {
      memcached_server_add_with_weight(client, servers[i].host.c_str(), servers[i].port,
                                       is_weighted ? servers[i].weight : 0);
    }
    std::vector<int> taken(3);
    for (int i = 0; i < 5000; ++i) {
      const std::string key = "value:" + std::to_string(i);
      const std::size_t chosen = ours.server_of(key);
      ++taken[chosen];
      ASSERT_EQ(display(servers[chosen]), chosen_by_libmemcached(client, key)) << key;
    }
    memcached_free(client);
    // Shares of 1:1:1 and 1:2:5, roughly.
    EXPECT_GT(taken[2], is_weighted ? 2500 : 1000);
    EXPECT_LT(taken[0], is_weighted ? 1250 : 2500);
  }
}

TEST(Ketama, StaysAsItIs) {
  // Values that were stored under another version of the library are to be found again.
  const Ketama plain(fleet(), false);
  const Ketama weighted(fleet(), true);
  std::string choices;
  for (int i = 0; i < 24; ++i) {
    const std::string key = "k" + std::to_string(i);
    choices += std::to_string(plain.server_of(key)) + std::to_string(weighted.server_of(key)) + " ";
  }
  EXPECT_EQ(choices, "20 20 12 22 12 10 01 01 01 21 01 10 12 21 12 22 21 12 01 10 10 21 02 12 ");
}

class Memcached : public MemcachedFixture {
 protected:
  Memcached() { open_memcached(server.port()); }
  MemcachedServer server;
};

TEST_F(Memcached, StoresAndReadsBackEveryChunk) {
  const Value value = make_value("a key", 10 * kChunkBytes + 1234, 7);
  put(value);
  const auto manifest = get(value.key);
  ASSERT_TRUE(manifest && *manifest);
  EXPECT_EQ((*manifest)->meta.digest, value.manifest.meta.digest);
  EXPECT_EQ((*manifest)->meta.metadata, value.manifest.meta.metadata);
  std::vector<Answer<StoredChunk>> reads;
  for (std::uint64_t i = 0; i < value.count(); ++i) reads.push_back(start_read(value, i));
  for (std::uint64_t i = 0; i < value.count(); ++i) {
    const auto chunk = wait(reads[i]);
    ASSERT_TRUE(chunk) << chunk.error().message;
    EXPECT_TRUE(same(*chunk, value.chunks[i])) << i;
    EXPECT_EQ(server.value(chunk_name(value, i)), stored_chunk(value, i)) << i;
  }
  const auto seen = stamp(value.key);
  ASSERT_TRUE(seen && *seen);
  EXPECT_EQ(**seen, stamp_of(value.manifest.meta));
}

TEST_F(Memcached, KeepsSmallValuesInTheManifest) {
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, kInlineBytes}) {
    const Value value = make_value("small" + std::to_string(size), size, size + 1);
    put(value);
    const auto manifest = get(value.key);
    ASSERT_TRUE(manifest && *manifest);
    EXPECT_EQ((*manifest)->inline_bytes, value.manifest.inline_bytes);
  }
  EXPECT_EQ(server.keys("t:c:").size(), 0u);
}

TEST_F(Memcached, JudgesConditionsAndReportsWhatWasReplaced) {
  const Value first = make_value("k", 3 * kChunkBytes, 1);
  const Value second = make_value("k", 5 * kChunkBytes, 2);
  const Condition absent{Condition::Kind::kIfAbsent, 0};
  EXPECT_EQ(commit(first, {Condition::Kind::kIfVersion, 9})->kind, CommitKind::kConditionFailed);
  auto made = commit(first, absent);
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_EQ(made->kind, CommitKind::kCommitted);
  EXPECT_FALSE(made->replaced.existed);
  EXPECT_EQ(commit(second, absent)->kind, CommitKind::kConditionFailed);
  made = commit(second, {Condition::Kind::kIfVersion, 1});
  ASSERT_TRUE(made);
  EXPECT_EQ(made->kind, CommitKind::kCommitted);
  ASSERT_TRUE(made->replaced.existed && made->replaced.chunks);
  EXPECT_EQ(made->replaced.chunks->version, 1u);
  EXPECT_EQ(made->replaced.chunks->chunk_count, 3u);

  // TOUCH: the same version, another expiry.
  Value touched = second;
  touched.manifest.meta.expires_at_ms = loop.unix_ms() + 3'600'000;
  made = commit(touched, {Condition::Kind::kIfVersion, 2});
  ASSERT_TRUE(made);
  EXPECT_EQ(made->kind, CommitKind::kCommitted);
  EXPECT_FALSE(made->replaced.chunks);
  EXPECT_THAT(server.seconds_left(manifest_of("k")), AllOf(Ge(3500), Le(3603)));

  EXPECT_EQ(remove("k", {Condition::Kind::kIfVersion, 1})->kind, CommitKind::kConditionFailed);
  made = remove("k");
  ASSERT_TRUE(made);
  EXPECT_EQ(made->kind, CommitKind::kCommitted);
  ASSERT_TRUE(made->replaced.existed && made->replaced.chunks);
  EXPECT_EQ(made->replaced.chunks->chunk_count, 5u);
  EXPECT_EQ(get("k")->has_value(), false);
  made = remove("k");
  ASSERT_TRUE(made);
  EXPECT_EQ(made->kind, CommitKind::kCommitted);
  EXPECT_FALSE(made->replaced.existed);
}

TEST_F(Memcached, KeepsOneOfManyConcurrentWriters) {
  std::vector<Answer<CommitResult>> writes;
  for (base::Version v = 1; v <= 40; ++v) writes.push_back(start_commit(make_value("k", 100, v)));
  std::uint64_t first = 0;
  for (auto& write : writes) {
    const auto result = wait(write);
    ASSERT_TRUE(result) << result.error().message;
    ASSERT_EQ(result->kind, CommitKind::kCommitted) << result->cause;
    first += result->replaced.existed ? 0 : 1;
  }
  EXPECT_EQ(first, 1u) << "all but one replaced another";
}

// -- expiries ------------------------------------------------------------------------------------

TEST_F(Memcached, GivesManifestsTheirOwnExpiryAlsoBeyondThirtyDays) {
  Value value = make_value("k", 100, 1);
  value.manifest.meta.expires_at_ms = loop.unix_ms() + 31ull * kDay * 1000;
  ASSERT_EQ(commit(value)->kind, CommitKind::kCommitted);
  EXPECT_THAT(server.seconds_left(manifest_of("k")), AllOf(Ge(31 * kDay - 60), Le(31 * kDay + 4)));
  EXPECT_TRUE(get("k")->has_value());
  const Value idle = make_value("idle", 100, 2);
  ASSERT_EQ(commit(idle)->kind, CommitKind::kCommitted);
  EXPECT_THAT(server.seconds_left(manifest_of("idle")), AllOf(Ge(7 * kDay - 60), Le(7 * kDay + 4)));
}

TEST_F(Memcached, GivesEveryChunkAnExpiryAlsoTheLast) {
  // More than a batch of touches, and not a multiple of one.
  const Value value = make_value("k", 101 * 4096, 1, 4096);
  for (std::uint64_t i = 0; i < value.count(); ++i) ASSERT_TRUE(write(value, i));
  EXPECT_THAT(server.seconds_left(chunk_name(value, 100)), AllOf(Ge(540), Le(604)));
  EXPECT_EQ(expire(value.set(), 31 * hours(24), false), value.count());
  for (std::uint64_t i = 0; i < value.count(); ++i) {
    ASSERT_THAT(server.seconds_left(chunk_name(value, i)),
                AllOf(Ge(31 * kDay - 60), Le(31 * kDay + 4)))
        << i;
  }
  EXPECT_EQ(server.command("delete " + chunk_name(value, 100)), "DELETED");
  EXPECT_EQ(expire(value.set(), seconds(50), false), value.count() - 1);
  EXPECT_THAT(server.seconds_left(chunk_name(value, 99)), Le(54));
  EXPECT_EQ(expire(ChunkSet{"k", 1, 0}, seconds(50), false), 0u);
}

TEST_F(Memcached, NeverShortensTheChunksOfALiveValue) {
  Value value = make_value("k", 3 * kChunkBytes, 1);
  value.manifest.meta.expires_at_ms = loop.unix_ms() + 2ull * kDay * 1000;
  put(value);
  ASSERT_EQ(expire(value.set(), 2 * hours(24) + seconds(60), false), 3u);
  // A slow reader's renewal, while the value is there: nothing becomes shorter.
  ASSERT_EQ(expire(value.set(), seconds(60), true), 3u);
  for (std::uint64_t i = 0; i < 3; ++i) {
    EXPECT_THAT(server.seconds_left(chunk_name(value, i)), Ge(2 * kDay - 60)) << i;
  }
  // Replaced, and released: the same renewal keeps what there is for as long as it says.
  put(make_value("k", 100, 2));
  ASSERT_EQ(expire(value.set(), seconds(20), false), 3u);
  ASSERT_EQ(expire(value.set(), seconds(60), true), 3u);
  for (std::uint64_t i = 0; i < 3; ++i) {
    EXPECT_THAT(server.seconds_left(chunk_name(value, i)), AllOf(Ge(40), Le(64))) << i;
  }
}

TEST_F(Memcached, RenewsAValueWithoutAnExpiryWhenItIsRead) {
  const Value value = make_value("k", 100, 1);
  put(value);
  ASSERT_EQ(server.command("touch " + manifest_of("k") + " 100"), "TOUCHED");
  close_all();
  open_memcached(server.port());  // a daemon that doesn't know how long it will stay
  ASSERT_TRUE(get("k")->has_value());
  EXPECT_TRUE(loop.run_until([&] {
    loop.after(milliseconds(5), [] {});
    return server.seconds_left(manifest_of("k")) > 6 * kDay;
  }));
  EXPECT_TRUE(get("k")->has_value());
}

TEST_F(Memcached, DoesNotGiveWhatHasExpired) {
  Value value = make_value("k", 100, 1);
  value.manifest.meta.expires_at_ms = loop.unix_ms() + 1;
  ASSERT_EQ(commit(value)->kind, CommitKind::kCommitted);
  loop.after(milliseconds(5), [] {});
  EXPECT_TRUE(loop.run_until([&] { return loop.unix_ms() > value.manifest.meta.expires_at_ms; }));
  EXPECT_FALSE(get("k")->has_value());
  const auto again = commit(make_value("k", 100, 2), {Condition::Kind::kIfAbsent, 0});
  ASSERT_TRUE(again);
  EXPECT_EQ(again->kind, CommitKind::kCommitted) << "for a condition it isn't there either";
}

// -- what isn't as it was written ----------------------------------------------------------------

TEST_F(Memcached, ReportsAChunkThatIsGoneAsLost) {
  const Value value = make_value("k", 3 * kChunkBytes, 1);
  put(value);
  server.command("delete " + chunk_name(value, 1));
  std::vector<Answer<StoredChunk>> reads;
  for (std::uint64_t i = 0; i < 3; ++i) reads.push_back(start_read(value, i));
  EXPECT_TRUE(wait(reads[0]));
  const auto lost = wait(reads[1]);
  ASSERT_FALSE(lost);
  EXPECT_EQ(lost.error().status, Status::kValueLost);
  EXPECT_TRUE(is_missing(lost.error())) << lost.error().message;
  EXPECT_TRUE(wait(reads[2]));
}

TEST_F(Memcached, ReportsADamagedChunkAsLost) {
  const Value value = make_value("k", 5 * kChunkBytes, 1);
  put(value);
  const std::string good = stored_chunk(value, 1);
  const auto set = [&](std::uint64_t i, const std::string& bytes) {
    EXPECT_EQ(server.command("set " + chunk_name(value, i) + " 0 0 " +
                             std::to_string(bytes.size()) + "\r\n" + bytes),
              "STORED");
  };
  std::string flipped = good;
  flipped[kChunkHeaderBytes + 100] = static_cast<char>(flipped[kChunkHeaderBytes + 100] ^ 1);
  set(0, "");
  set(1, flipped);
  set(2, stored_chunk(value, 3));
  set(3, good + std::string(300'000, 'x'));  // more than was asked for
  std::vector<Answer<StoredChunk>> reads;
  for (std::uint64_t i = 0; i < 5; ++i) reads.push_back(start_read(value, i));
  for (std::uint64_t i = 0; i < 4; ++i) {
    const auto lost = wait(reads[i]);
    ASSERT_FALSE(lost) << i;
    EXPECT_EQ(lost.error().status, Status::kValueLost) << lost.error().message;
    EXPECT_FALSE(is_missing(lost.error())) << lost.error().message;
  }
  EXPECT_TRUE(wait(reads[4])) << "the neighbour of one that is too large";
}

TEST_F(Memcached, RemovesAManifestThatIsNone) {
  EXPECT_EQ(server.command("set " + manifest_of("k") + " 0 0 5\r\nhello"), "STORED");
  const auto lost = get("k");
  ASSERT_FALSE(lost);
  EXPECT_EQ(lost.error().status, Status::kValueLost);
  EXPECT_TRUE(loop.run_until([&] {
    loop.after(milliseconds(5), [] {});
    return server.value(manifest_of("k")).empty();
  }));
  EXPECT_EQ(metrics.l2_corrupt_manifests.get(), 1u);
}

TEST_F(Memcached, DiscardsOnlyTheVersionThatWasLost) {
  put(make_value("k", 100, 2));
  store->discard("k", 1);
  ASSERT_TRUE(get("k")->has_value());
  store->discard("k", 2);
  EXPECT_TRUE(loop.run_until([&] {
    loop.after(milliseconds(5), [] {});
    return server.value(manifest_of("k")).empty();
  }));
}

TEST_F(Memcached, SaysThatAnItemIsTooLargeForEver) {
  const Value value = make_value("k", 1024 * 1024, 1, 1024 * 1024);
  const auto refused = write(value, 0);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().status, Status::kL2Rejected);
  EXPECT_FALSE(proto::is_retryable(refused.error().status));
  EXPECT_THAT(refused.error().message, HasSubstr(std::to_string(1024 * 1024 + kChunkHeaderBytes)));
  EXPECT_THAT(refused.error().message, HasSubstr("l2.memcached.item_max_bytes"));
  EXPECT_TRUE(write(make_value("k", 1020 * 1024, 1, 1020 * 1024), 0)) << "the default size";
}

TEST_F(Memcached, DropsWhatIsCancelled) {
  const Value value = make_value("k", 3 * kChunkBytes, 1);
  put(value);
  Store::ReadId id = 0;
  auto dropped = start_read(value, 0, &id);
  store->cancel_read(id);
  EXPECT_TRUE(wait(start_read(value, 1)));
  EXPECT_TRUE(wait(start_read(value, 2)));
  EXPECT_FALSE(dropped.has_come());
}

}  // namespace
}  // namespace cistern::l2
