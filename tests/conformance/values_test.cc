// What the application sees is the same on every second tier: each test runs on none, Redis and
// memcached, against real servers.
//
// Values are written through one daemon and read through another whose memory forgets at once, so
// that every chunk that is read comes from the second tier. With none, one daemon does both.
#include <algorithm>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/cpp/client.h"
#include "client/cpp/error.h"
#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/support/memcached_server.h"
#include "tests/support/redis_server.h"

namespace cistern::testing {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::size_t kChunkBytes = 64 * 1024;
constexpr std::size_t kInlineBytes = 16 * 1024;
const seconds kPatience(60);

std::vector<std::byte> random_bytes(std::size_t size, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// The servers of a second tier, and the configuration for it.
class Tier {
 public:
  explicit Tier(const std::string& kind) : kind_(kind) {
    if (kind == "redis") redis_ = std::make_unique<RedisServer>();
    if (kind == "memcached") {
      for (auto& server : memcached_) server = std::make_unique<MemcachedServer>();
    }
  }
  std::string config() const {
    if (kind_ == "redis") return "kind: redis, redis: {url: \"" + redis_->url() + "\"}";
    if (kind_ == "none") return "kind: none";
    return "kind: memcached, memcached: {servers: [\"" + memcached_[0]->address() + "\", \"" +
           memcached_[1]->address() + "\"]}";
  }

  // Names of what lies there under a prefix.
  std::vector<std::string> names(const std::string& prefix) {
    if (redis_) return redis_->keys(prefix + "*");
    std::vector<std::string> all;
    for (auto& server : memcached_) {
      if (!server) continue;
      for (std::string& name : server->keys(prefix)) all.push_back(std::move(name));
    }
    return all;
  }
  void remove(const std::string& name) {
    if (redis_) redis_->command({"DEL", name});
    for (auto& server : memcached_) {
      if (server) server->command("delete " + name);
    }
  }

 private:
  const std::string kind_;
  std::unique_ptr<RedisServer> redis_;
  std::unique_ptr<MemcachedServer> memcached_[2];
};

class Conformance : public ::testing::TestWithParam<const char*> {
 protected:
  Conformance() : tier_(GetParam()) {
    const std::string storage = "storage: {chunk_bytes: 64KiB}\n";
    const std::string l2 =
        "l2: {" + tier_.config() + ", provisional_ttl: 30s, replace_grace: 10s}\n";
    writing_ = std::make_unique<Daemon>(
        DaemonOptions{.config = storage + "l1: {max_bytes: 24MiB}\n" + l2, .server = {}});
    if (has_l2()) {
      reading_ = std::make_unique<Daemon>(DaemonOptions{
          .config = storage + "l1: {max_bytes: 4MiB, max_age: 1ms}\n" + l2, .server = {}});
    }
    writer_.emplace(ClientOptions{.endpoint = writing_->endpoint()});
    reader_.emplace(
        ClientOptions{.endpoint = reading_ ? reading_->endpoint() : writing_->endpoint()});
  }
  bool has_l2() const { return std::string(GetParam()) != "none"; }

  Stored put(const std::string& key, std::size_t size, std::uint64_t seed,
             const PutOptions& options = {}) {
    return writer_->put(key, random_bytes(size, seed), options);
  }
  // Read through both daemons. The reading one may know an older version for a millisecond.
  void expect_value(const std::string& key, std::size_t size, std::uint64_t seed) {
    const auto expected = random_bytes(size, seed);
    const auto value = writer_->get(key);
    ASSERT_TRUE(value) << key;
    EXPECT_EQ(value->size, size);
    EXPECT_TRUE(value->bytes == expected) << key;
    std::optional<Value> other;
    EXPECT_TRUE(eventually(
        [&] {
          other = reader_->get(key);
          return other && other->version == value->version;
        },
        kPatience))
        << key;
    ASSERT_TRUE(other);
    EXPECT_TRUE(other->bytes == expected) << key;
  }
  void expect_nothing(const std::string& key) {
    EXPECT_FALSE(writer_->get(key)) << key;
    EXPECT_FALSE(writer_->stat(key)) << key;
    EXPECT_TRUE(eventually([&] { return !reader_->get(key) && !reader_->stat(key); }, kPatience));
  }
  static Status code_of(const std::function<void()>& call) {
    try {
      call();
    } catch (const Error& error) {
      return error.status();
    }
    return Status::kOk;
  }

  Tier tier_;
  std::unique_ptr<Daemon> writing_;
  std::unique_ptr<Daemon> reading_;
  std::optional<Client> writer_;
  std::optional<Client> reader_;
};

INSTANTIATE_TEST_SUITE_P(Tiers, Conformance, ::testing::Values("none", "redis", "memcached"),
                         [](const auto& tier) { return std::string(tier.param); });

TEST_P(Conformance, GivesBackValuesOfEverySize) {
  std::vector<std::size_t> sizes = {0, 1, 100, 5 * kChunkBytes + 1, 40 * kChunkBytes + 17};
  for (const std::size_t edge : {kInlineBytes, kChunkBytes, 2 * kChunkBytes}) {
    for (const std::size_t size : {edge - 1, edge, edge + 1}) sizes.push_back(size);
  }
  for (const std::size_t size : sizes) put("v" + std::to_string(size), size, size);
  for (const std::size_t size : sizes) {
    SCOPED_TRACE(size);
    expect_value("v" + std::to_string(size), size, size);
  }
}

TEST_P(Conformance, AcceptsKeysOfAnyKind) {
  const std::vector<std::string> keys = {"plain",
                                         "with space\n",
                                         std::string(200, 'x'),
                                         std::string(201, 'x'),
                                         std::string(1024, 'y'),
                                         std::string("\0\xff#", 3),
                                         "#looks like a hash"};
  for (std::size_t i = 0; i < keys.size(); ++i) put(keys[i], 3 * kChunkBytes + i, i);
  for (std::size_t i = 0; i < keys.size(); ++i) expect_value(keys[i], 3 * kChunkBytes + i, i);
  for (const std::string& key : keys) EXPECT_TRUE(writer_->remove(key));
  for (const std::string& key : keys) expect_nothing(key);
}

TEST_P(Conformance, ReadsRangesInEveryChunk) {
  const std::size_t size = 7 * kChunkBytes + 333;
  put("k", size, 1);
  const auto whole = random_bytes(size, 1);
  for (const std::size_t offset :
       {std::size_t{0}, kChunkBytes - 1, kChunkBytes, 3 * kChunkBytes + 5, 7 * kChunkBytes - 1,
        7 * kChunkBytes, size - 1}) {
    for (const std::size_t length : {std::size_t{1}, kChunkBytes, 2 * kChunkBytes + 1}) {
      const auto value = reader_->get("k", {.range = Range{.offset = offset, .length = length}});
      ASSERT_TRUE(value);
      const std::size_t end = std::min(size, offset + length);
      EXPECT_TRUE(std::equal(value->bytes.begin(), value->bytes.end(), whole.begin() + offset,
                             whole.begin() + end))
          << offset << "+" << length;
    }
  }
  EXPECT_EQ(code_of([&] { reader_->get("k", {.range = Range{.offset = size, .length = 1}}); }),
            Status::kRangeInvalid);
}

TEST_P(Conformance, KeepsMetadataAndVersions) {
  const Stored stored = put("k", 3 * kChunkBytes, 1, {.metadata = R"({"a": [1, "ü"]})"});
  for (auto* client : {&*writer_, &*reader_}) {
    const auto info = client->stat("k");
    ASSERT_TRUE(info);
    EXPECT_EQ(info->version, stored.version);
    EXPECT_EQ(info->metadata, R"({"a": [1, "ü"]})");
    EXPECT_EQ(info->size, 3 * kChunkBytes);
    EXPECT_FALSE(info->expires_at);
    EXPECT_EQ(client->get("k")->metadata, info->metadata);
    EXPECT_TRUE(client->get("k", {.if_changed = stored.version})->not_modified);
  }
}

TEST_P(Conformance, ReplacesByLargerAndSmaller) {
  std::uint64_t seed = 0;
  for (const std::size_t size : {3 * kChunkBytes, 9 * kChunkBytes + 1, 2 * kChunkBytes,
                                 std::size_t{10}, 5 * kChunkBytes, std::size_t{0}}) {
    SCOPED_TRACE(size);
    put("k", size, ++seed);
    expect_value("k", size, seed);
  }
}

TEST_P(Conformance, ReleasesTheChunksOfWhatWasReplacedOrRemoved) {
  if (!has_l2()) GTEST_SKIP() << "no chunks lie anywhere";
  put("k", 9 * kChunkBytes, 1);
  put("k", 3 * kChunkBytes, 2);
  put("gone", 5 * kChunkBytes, 3);
  EXPECT_TRUE(writer_->remove("gone"));
  expect_value("k", 3 * kChunkBytes, 2);
  // replace_grace, to whole seconds.
  EXPECT_TRUE(eventually([&] { return tier_.names("cistern:c:").size() == 3; }, kPatience));
  expect_value("k", 3 * kChunkBytes, 2);
}

TEST_P(Conformance, RemovesTheWholeValue) {
  put("k", 6 * kChunkBytes, 1);
  EXPECT_TRUE(reader_->get("k"));
  EXPECT_TRUE(writer_->remove("k"));
  expect_nothing("k");
  EXPECT_FALSE(writer_->remove("k"));
  put("k", 2 * kChunkBytes, 2);
  expect_value("k", 2 * kChunkBytes, 2);
}

TEST_P(Conformance, ObeysConditions) {
  const Stored first = put("k", 3 * kChunkBytes, 1, {.if_absent = true});
  EXPECT_EQ(code_of([&] { put("k", 10, 2, {.if_absent = true}); }), Status::kConditionFailed);
  EXPECT_EQ(code_of([&] { put("k", 10, 2, {.if_version = first.version + 1}); }),
            Status::kConditionFailed);
  EXPECT_EQ(code_of([&] { put("none", 10, 2, {.if_version = 1}); }), Status::kConditionFailed);
  expect_value("k", 3 * kChunkBytes, 1);
  const Stored second = put("k", 2 * kChunkBytes, 3, {.if_version = first.version});
  expect_value("k", 2 * kChunkBytes, 3);
  EXPECT_EQ(code_of([&] { writer_->remove("k", {.if_version = first.version}); }),
            Status::kConditionFailed);
  EXPECT_EQ(code_of([&] { writer_->touch("k", seconds(99), {.if_version = first.version}); }),
            Status::kConditionFailed);
  EXPECT_TRUE(writer_->remove("k", {.if_version = second.version}));
  expect_nothing("k");
}

TEST_P(Conformance, LetsValuesExpire) {
  put("small", 100, 1, {.ttl = milliseconds(3000)});
  const Stored large = put("large", 4 * kChunkBytes, 2, {.ttl = milliseconds(3000)});
  ASSERT_TRUE(large.expires_at);
  for (const char* key : {"small", "large"}) {
    EXPECT_TRUE(eventually([&] { return !writer_->get(key) && !reader_->get(key); }, kPatience));
    EXPECT_GE(std::chrono::system_clock::now() + milliseconds(1), *large.expires_at - seconds(1));
    expect_nothing(key);
    put(key, 10, 3, {.if_absent = true});
  }
}

TEST_P(Conformance, TouchMovesTheExpiryOfAllChunks) {
  put("longer", 6 * kChunkBytes, 1, {.ttl = seconds(4)});
  put("shorter", 6 * kChunkBytes, 2);
  put("for ever", 6 * kChunkBytes, 3, {.ttl = seconds(4)});
  ASSERT_TRUE(writer_->touch("longer", seconds(3600)));
  ASSERT_TRUE(writer_->touch("shorter", milliseconds(2000)));
  ASSERT_TRUE(writer_->touch("for ever", milliseconds(0)));
  EXPECT_FALSE(writer_->touch("nothing", seconds(1)));
  EXPECT_TRUE(
      eventually([&] { return !reader_->get("shorter") && !writer_->get("shorter"); }, kPatience));
  // Past what the others had at first; their chunks had replace_grace more.
  const auto begun = std::chrono::steady_clock::now();
  EXPECT_TRUE(eventually(
      [&] { return std::chrono::steady_clock::now() - begun > seconds(has_l2() ? 14 : 5); },
      kPatience));
  expect_value("longer", 6 * kChunkBytes, 1);
  expect_value("for ever", 6 * kChunkBytes, 3);
  EXPECT_FALSE(reader_->stat("for ever")->expires_at);
  EXPECT_TRUE(reader_->stat("longer")->expires_at);
}

TEST_P(Conformance, AnyChunkThatIsGoneLosesTheValueCleanly) {
  if (!has_l2()) GTEST_SKIP() << "L1 evicts whole values";
  for (const std::size_t gone : {0, 3, 6}) {
    SCOPED_TRACE(gone);
    const std::string key = "k" + std::to_string(gone);
    // memcached's list of names isn't always complete: what is left of an earlier value isn't it.
    const auto earlier = tier_.names("cistern:c:");
    put(key, 6 * kChunkBytes + 1, gone);
    std::string chunk;
    ASSERT_TRUE(eventually(
        [&] {
          for (const std::string& name : tier_.names("cistern:c:")) {
            const bool is_new = std::ranges::find(earlier, name) == earlier.end();
            if (is_new && name.ends_with(":" + std::to_string(gone))) chunk = name;
          }
          return !chunk.empty();
        },
        kPatience));
    // An earlier one that was not listed before goes, too.
    for (const std::string& name : tier_.names("cistern:c:")) {
      if (name.ends_with(":" + std::to_string(gone))) tier_.remove(name);
    }
    tier_.remove(chunk);
    EXPECT_EQ(code_of([&] { reader_->get(key); }), Status::kValueLost);
    // And it is removed, which may take a moment.
    EXPECT_TRUE(eventually(
        [&] {
          bool is_gone = false;
          const Status status = code_of([&] { is_gone = !reader_->get(key); });
          EXPECT_TRUE(status == Status::kOk || status == Status::kValueLost);
          return is_gone;
        },
        kPatience));
    for (const std::string& name : tier_.names("cistern:c:")) tier_.remove(name);
  }
}

TEST_P(Conformance, AManifestThatIsGoneIsAMiss) {
  if (!has_l2()) GTEST_SKIP() << "there is none";
  put("k", 3 * kChunkBytes, 1);
  tier_.remove("cistern:m:k");
  EXPECT_FALSE(reader_->get("k"));
}

TEST_P(Conformance, AnAbandonedPutLeavesTheOldValue) {
  put("k", 3 * kChunkBytes, 1);
  {
    Writer half = writer_->writer("k", 8 * kChunkBytes);
    half.write(random_bytes(4 * kChunkBytes, 2));
  }
  expect_value("k", 3 * kChunkBytes, 1);
}

}  // namespace
}  // namespace cistern::testing
