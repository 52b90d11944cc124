// A read begins before the value is there, stops when nobody reads on, and keeps to its frames.
#include <gtest/gtest.h>

#include "client/cpp/client.h"
#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/support/proxy.h"
#include "tests/support/raw_client.h"
#include "tests/support/redis_server.h"
#include "tests/support/values.h"

namespace cistern::testing {
namespace {

constexpr std::size_t kMiB = 1024 * 1024;
#ifdef CISTERN_SANITIZED
constexpr std::uint64_t kHugeBytes = 128 * kMiB;
#else
constexpr std::uint64_t kHugeBytes = 4096 * kMiB;
#endif

std::string redis_config(std::uint16_t port) {
  return "l2: {kind: redis, redis: {url: \"redis://127.0.0.1:" + std::to_string(port) + "/0\"}}\n";
}

Client client_of(const Daemon& daemon) { return Client({.endpoint = daemon.endpoint()}); }

class Streaming : public ::testing::TestWithParam<const char*> {};

// Whether L1 can keep the value or not, the first chunk passes on before the second one has come.
TEST_P(Streaming, TheFirstChunkArrivesWhileTheSecondIsWithheld) {
  RedisServer redis;
  Proxy proxy(redis.port());
  const std::vector<std::byte> value = value_of(1, 5 * kMiB);
  Daemon writer({.config = redis_config(redis.port()), .server = {}});
  client_of(writer).put("value", value);

  Daemon reader_daemon(
      {.config = std::string(GetParam()) + redis_config(proxy.port()), .server = {}});
  Client client = client_of(reader_daemon);
  proxy.close_gate_after(1, 100'000);
  std::optional<Reader> reader = client.open("value");
  ASSERT_TRUE(reader);
  std::vector<std::byte> got(value.size());
  const std::size_t first = reader->read(std::span(got).first(4096));
  EXPECT_GT(first, 0u);
  // The second is asked for when the first has come, and may still be on its way.
  EXPECT_TRUE(eventually([&] { return proxy.withheld() == 1; }, Millis(10'000)));
  EXPECT_EQ(proxy.passed(), 1u);

  proxy.open_gate();
  std::size_t have = first;
  while (const std::size_t more = reader->read(std::span(got).subspan(have))) {
    have += more;
    if (have == got.size()) break;
  }
  std::byte end[1];
  EXPECT_EQ(reader->read(end), 0u);
  EXPECT_EQ(got, value);
}

INSTANTIATE_TEST_SUITE_P(L1, Streaming,
                         ::testing::Values("l1: {max_bytes: 64MiB}\n", "l1: {max_bytes: 4MiB}\n"),
                         [](const auto& instance) {
                           return instance.index == 0 ? "Keeps" : "CannotKeep";
                         });

TEST(Cancel, AnAbandonedReadStopsTheReadsFromRedis) {
  RedisServer redis;
  Daemon daemon({.config = "l1: {max_bytes: 32MiB}\n" + redis_config(redis.port()), .server = {}});
  Client client = client_of(daemon);
  std::uint64_t sent = 0;
  client.put(
      "huge",
      [&](std::span<std::byte> target) {
        const std::size_t bytes = std::min<std::uint64_t>(target.size() / 8 * 8, kHugeBytes - sent);
        fill(target.first(bytes), 7, sent);
        sent += bytes;
        return bytes;
      },
      kHugeBytes);

  const std::uint64_t before = redis.info_number("total_net_output_bytes");
  std::optional<Reader> reader = client.open("huge");
  ASSERT_TRUE(reader);
  std::byte first[4096];
  ASSERT_GT(reader->read(first), 0u);
  const std::size_t taken = reader->info().chunk_bytes;
  reader->close();
  client.ping();  // what was asked before it has been handled
  ASSERT_TRUE(
      eventually([&] { return daemon.metric("cistern_open_streams") == 0; }, Millis(10'000)));
  const std::uint64_t at_close = redis.info_number("total_net_output_bytes");
  // What the client's own window asked for, and one prefetch window beyond.
  const std::uint64_t window = 4 * kMiB + taken;
  const std::uint64_t prefetch = 4 * (taken + 1024);
  EXPECT_LE(at_close - before, window + prefetch + kMiB);
  // Nothing goes on afterwards: a read that did would have got a chunk in most of these round trips
  // of the same daemon to the same Redis.
  for (int i = 0; i < 200; ++i) EXPECT_FALSE(client.stat("absent"));
  EXPECT_LE(redis.info_number("total_net_output_bytes") - at_close, prefetch);
  EXPECT_EQ(daemon.in_transfers(), 0);
}

TEST(Frames, AReaderGetsFramesNoLargerThanItAskedFor) {
  Daemon daemon({.config = "l1: {max_bytes: 64MiB}\n", .server = {}});
  const std::vector<std::byte> value = value_of(3, 3 * kMiB + 17);
  client_of(daemon).put("value", value);

  RawClient raw(daemon.endpoint());
  proto::GetRequest get;
  get.key = proto::as_bytes("value");
  get.credit_bytes = 16 * kMiB;
  get.frame_bytes = 64 * 1024;
  raw.request(5u, get);
  ASSERT_TRUE(raw.receive_for(5).is(proto::Type::kValue));
  std::size_t received = 0;
  while (true) {
    const Frame frame = raw.receive_for(5);
    if (frame.is(proto::Type::kEnd)) break;
    ASSERT_TRUE(frame.is(proto::Type::kData));
    const std::size_t digest = (frame.header.flags & proto::kFlagChunkEnd) != 0 ? 8 : 0;
    const std::size_t bytes = frame.payload.size() - digest;
    ASSERT_LE(bytes, 64u * 1024);
    ASSERT_EQ(std::memcmp(frame.payload.data() + digest, value.data() + received, bytes), 0);
    received += bytes;
  }
  EXPECT_EQ(received, value.size());
}

}  // namespace
}  // namespace cistern::testing
