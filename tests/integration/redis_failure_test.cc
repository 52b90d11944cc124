// Redis dies, freezes or loses connections in the middle of things, and so does the daemon.
#include <chrono>
#include <future>
#include <set>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "client/cpp/client.h"
#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/support/proxy.h"
#include "tests/support/redis_server.h"
#include "tests/support/values.h"

namespace cistern::testing {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kMiB = 1024 * 1024;
const Millis kPatience(60'000);
// op_timeout, the margin of a commit, and the machine's own slowness.
constexpr auto kDeadline = std::chrono::seconds(15);

std::string config_for(std::uint16_t port) {
  return "l1: {max_bytes: 16MiB}\n"
         "l2: {kind: redis, provisional_ttl: 6s, replace_grace: 2s, redis: {url: "
         "\"redis://127.0.0.1:" +
         std::to_string(port) + "/0\", op_timeout: 1s}}\n";
}

// The error of a call that must fail.
template <typename Call>
Error error_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "the call succeeded";
  return Error(Status::kOk, "");
}

class RedisDies : public ::testing::Test {
 protected:
  RedisDies()
      : daemon_({.config = config_for(redis_.port()), .server = {}}),
        client_({.endpoint = daemon_.endpoint()}) {}

  // What L1 holds is served without Redis.
  void expect_hits() {
    Client other({.endpoint = daemon_.endpoint()});
    for (int i = 0; i < 20; ++i) {
      EXPECT_EQ(other.get("small")->text(), "in memory");
      EXPECT_EQ(other.get("medium")->bytes, medium_);
    }
  }

  void expect_recovery() {
    redis_.start();
    EXPECT_TRUE(eventually(
        [&] {
          try {
            client_.put("after", large_);
            return true;
          } catch (const Error& error) {
            EXPECT_TRUE(error.retryable()) << error.what();
            return false;
          }
        },
        kPatience));
    EXPECT_EQ(client_.get("after")->bytes, large_);
    EXPECT_TRUE(daemon_.process().running());
  }

  const std::vector<std::byte> medium_ = value_of(4, 2 * kMiB);
  const std::vector<std::byte> large_ = value_of(5, 32 * kMiB);
  RedisServer redis_;
  Daemon daemon_;
  Client client_;
};

TEST_F(RedisDies, InTheMiddleOfAPut) {
  client_.put("small", as_bytes("in memory"));
  client_.put("medium", medium_);
  Writer writer = client_.writer("victim", large_.size());
  const std::span<const std::byte> bytes(large_);
  writer.write(bytes.first(8 * kMiB));
  redis_.kill();
  const auto began = Clock::now();
  const Error error = error_of([&] {
    writer.write(bytes.subspan(8 * kMiB));
    writer.commit();
  });
  EXPECT_TRUE(error.retryable()) << error.what();
  EXPECT_LT(Clock::now() - began, kDeadline);
  expect_hits();
  const Error not_there = error_of([&] { client_.get("elsewhere"); });
  EXPECT_TRUE(not_there.retryable()) << "\"could not look\" must not be \"not there\"";
  expect_recovery();
}

TEST_F(RedisDies, InTheMiddleOfAGet) {
  client_.put("large", large_);
  client_.put("small", as_bytes("in memory"));
  client_.put("medium", medium_);
  std::optional<Reader> reader = client_.open("large");
  ASSERT_TRUE(reader);
  std::vector<std::byte> piece(kMiB);
  ASSERT_GT(reader->read(piece), 0u);
  redis_.kill();
  const auto began = Clock::now();
  const Error error = error_of([&] {
    while (reader->read(piece) > 0) {
    }
  });
  EXPECT_TRUE(error.retryable()) << error.what();
  EXPECT_LT(Clock::now() - began, kDeadline);
  expect_hits();
  expect_recovery();
}

TEST_F(RedisDies, OrOnlyFreezes) {
  client_.put("large", large_);
  client_.put("small", as_bytes("in memory"));
  client_.put("medium", medium_);
  redis_.freeze();
  const auto began = Clock::now();
  EXPECT_TRUE(error_of([&] { client_.get("large"); }).retryable());
  EXPECT_TRUE(error_of([&] { client_.put("x", as_bytes("y")); }).retryable());
  EXPECT_LT(Clock::now() - began, 2 * kDeadline);
  expect_hits();
  redis_.thaw();
  EXPECT_TRUE(eventually(
      [&] {
        try {
          return client_.get("large")->bytes == large_;
        } catch (const Error&) {
          return false;
        }
      },
      kPatience));
}

// A commit that was sent on a connection that then broke must not happen after a later PUT.
class LateCommit : public ::testing::TestWithParam<std::size_t> {};

std::uint64_t scripts_run(RedisServer& redis) {
  const std::string counted = redis.info("cmdstat_evalsha");  // calls=3,usec=...
  return std::stoull(counted.substr(counted.find('=') + 1));
}

TEST_P(LateCommit, HeldOnTheWayIsRefusedOnceALaterPutIsAcknowledged) {
  RedisServer redis;
  Proxy proxy(redis.port());
  Daemon daemon({.config = config_for(proxy.port()), .server = {}});
  Client client({.endpoint = daemon.endpoint()});
  const std::vector<std::byte> first = value_of(1, GetParam());
  const std::vector<std::byte> second = value_of(2, GetParam());
  const std::vector<std::byte> third = value_of(3, GetParam());
  client.put("key", first);

  proxy.hold_requests(containing("EVALSHA"));
  auto late = std::async(std::launch::async, [&] {
    Client other({.endpoint = daemon.endpoint()});
    return error_of([&] { other.put("key", second); });
  });
  ASSERT_TRUE(proxy.wait_held(kPatience));
  proxy.cut();
  const Error unknown = late.get();
  EXPECT_EQ(unknown.status(), Status::kOutcomeUnknown) << unknown.what();
  // The next PUT goes over a connection of its own, while the first commit is still held.
  proxy.hold_requests([](std::string_view) { return false; });
  ASSERT_TRUE(eventually(
      [&] {
        try {
          client.put("key", third);
          return true;
        } catch (const Error& error) {
          EXPECT_TRUE(error.retryable()) << error.what();
          return false;
        }
      },
      kPatience));
  const std::uint64_t scripts = scripts_run(redis);
  proxy.release_held();
  // The late commit has been executed, and refused, once Redis has run one script more.
  ASSERT_TRUE(eventually([&] { return scripts_run(redis) > scripts; }, kPatience));
  Daemon cold({.config = config_for(redis.port()), .server = {}});
  EXPECT_EQ(Client({.endpoint = cold.endpoint()}).get("key")->bytes, third);
  EXPECT_EQ(client.get("key")->bytes, third);
}

TEST_P(LateCommit, InAFrozenRedisIsRefusedOnceItGoesOn) {
  RedisServer redis;
  Daemon daemon({.config = config_for(redis.port()), .server = {}});
  Client client({.endpoint = daemon.endpoint()});
  const std::vector<std::byte> first = value_of(1, GetParam());
  const std::vector<std::byte> second = value_of(2, GetParam());
  const std::vector<std::byte> third = value_of(3, GetParam());
  client.put("key", first);
  redis.freeze();
  const Error error = error_of([&] { client.put("key", second); });
  EXPECT_TRUE(error.retryable()) << error.what();
  redis.thaw();
  ASSERT_TRUE(eventually(
      [&] {
        try {
          client.put("key", third);
          return true;
        } catch (const Error& again) {
          EXPECT_TRUE(again.retryable()) << again.what();
          return false;
        }
      },
      kPatience));
  Daemon cold({.config = config_for(redis.port()), .server = {}});
  Client reader({.endpoint = cold.endpoint()});
  EXPECT_EQ(reader.get("key")->bytes, third);
  EXPECT_EQ(client.get("key")->bytes, third);
}

INSTANTIATE_TEST_SUITE_P(Sizes, LateCommit, ::testing::Values(100, 3 * kMiB),
                         [](const auto& instance) {
                           return instance.param < kMiB ? "Inline" : "Chunked";
                         });

// kill -9 of the daemon while one of its requests is on the way to Redis.
// The chunks of a value outlive it by replace_grace, also when nobody is left to release them.
constexpr auto kOldTtl = std::chrono::seconds(10);
constexpr auto kNewTtl = std::chrono::seconds(25);

struct Step {
  const char* name;
  const char* holds;  // the daemon is killed when this is on its way
  bool arrives;       // whether that request still reaches Redis
};

// What a test's name shows.
void PrintTo(const Step& step, std::ostream* out) { *out << step.name; }

class DaemonDies : public ::testing::TestWithParam<Step> {};

TEST_P(DaemonDies, ReadersFindTheOldValueOrTheNewOneAndNoOrphanStays) {
  const Step& step = GetParam();
  RedisServer redis;
  Proxy proxy(redis.port());
  const std::vector<std::byte> old_value = value_of(1, 5 * kMiB);
  const std::vector<std::byte> new_value = value_of(2, 3 * kMiB);
  {
    Daemon daemon({.config = config_for(proxy.port()), .server = {}});
    Client client({.endpoint = daemon.endpoint()});
    client.put("key", old_value, {.ttl = kOldTtl});
    proxy.hold_requests(containing(step.holds));
    auto doomed = std::async(std::launch::async, [&] {
      Client other({.endpoint = daemon.endpoint()});
      try {
        other.put("key", new_value, {.ttl = kNewTtl});
      } catch (const Error&) {  // the daemon was killed
      }
    });
    ASSERT_TRUE(proxy.wait_held(kPatience)) << step.holds;
    daemon.process().signal(SIGKILL);
    doomed.get();
  }
  if (step.arrives) {
    proxy.release_held();
  } else {
    proxy.cut();
  }
  Daemon daemon({.config = config_for(redis.port()), .server = {}});
  Client client({.endpoint = daemon.endpoint()});
  const auto expect_one_of_both = [&] {
    const std::optional<Value> value = client.get("key");
    ASSERT_TRUE(value);
    EXPECT_TRUE(value->bytes == old_value || value->bytes == new_value);
  };
  expect_one_of_both();

  // Nothing in Redis is there for ever.
  for (const std::string& key : redis.keys("cistern:[mc]:*")) {
    EXPECT_GT(redis.command({"PTTL", key}).integer, 0) << key;
  }
  // While the value lives there come to be exactly its own chunks, and afterwards none.
  const auto holds_chunks_of_the_value_alone = [&] {
    const std::optional<ValueInfo> info = client.stat("key");
    const std::vector<std::string> chunks = redis.keys("cistern:c:*");
    if (!info) return chunks.empty();
    for (const std::string& chunk : chunks) {
      if (chunk.find(to_hex(info->version)) == std::string::npos) return false;
    }
    return chunks.size() == (info->size + info->chunk_bytes - 1) / info->chunk_bytes;
  };
  EXPECT_TRUE(eventually(holds_chunks_of_the_value_alone, kPatience))
      << fmt::format("{}", fmt::join(redis.keys("cistern:c:*"), " "));
  EXPECT_TRUE(eventually([&] { return redis.keys("cistern:[mc]:*").empty(); }, kPatience))
      << fmt::format("{}", fmt::join(redis.keys("cistern:[mc]:*"), " "));
}

INSTANTIATE_TEST_SUITE_P(
    Steps, DaemonDies,
    ::testing::Values(Step{"FirstChunk", "CSCH", false}, Step{"FirstChunkArrives", "CSCH", true},
                      Step{"Commit", "EVALSHA", false}, Step{"CommitArrives", "EVALSHA", true},
                      Step{"Raise", "PEXPIRE", false}, Step{"RaiseArrives", "PEXPIRE", true}),
    [](const auto& instance) { return std::string(instance.param.name); });

}  // namespace
}  // namespace cistern::testing
