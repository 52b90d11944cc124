// A daemon that has no memory left for more connections, and those who are in already.
#include <memory>
#include <stdexcept>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/daemon.h"
#include "tests/support/raw_client.h"
#include "tests/support/redis_server.h"

namespace cistern::testing {
namespace {

void put_at_once(RawClient& client, std::uint32_t count) {
  const std::vector<std::byte> value(300);
  proto::Out out;
  for (std::uint32_t id = 1; id <= count; ++id) {
    const std::string key = "key-" + std::to_string(id);
    proto::PutRequest put;
    put.key = proto::as_bytes(key);
    put.size = value.size();
    put.is_inline = true;
    put.inline_bytes = value;
    put.inline_digest = proto::ValueHasher::of_single(proto::chunk_digest(value),
                                                      client.welcome().chunk_bytes, value.size());
    proto::encode(out, id, put);
  }
  client.send(out);
}

// A client that keeps to the limits and takes its answers gets one for each request: what it asked
// for, or that there is no room. Newcomers never take what it needs for that.
TEST(FullDaemon, AnswersEachRequestOfAConnectionThatItHasAccepted) {
  RedisServer redis;
  Daemon daemon({.config = "memory: {limit: 64MiB}\nl2: {kind: redis, redis: {url: \"" +
                           redis.url() + "\"}}\n",
                 .server = {}});
  RawClient client(daemon.endpoint());
  std::vector<std::unique_ptr<RawClient>> others;
  EXPECT_THROW(
      while (others.size() < 1024) {
        others.push_back(std::make_unique<RawClient>(daemon.endpoint()));
      },
      std::runtime_error);

  for (std::uint32_t count = 1; count <= client.welcome().max_streams; count *= 2) {
    put_at_once(client, count);
    for (std::uint32_t answers = 0; answers < count; ++answers) {
      const std::optional<Frame> answer = client.receive();
      ASSERT_TRUE(answer) << "the connection was closed after " << answers << " of " << count;
      if (answer->is(proto::Type::kStored)) continue;
      ASSERT_TRUE(answer->is(proto::Type::kError));
      EXPECT_TRUE(proto::decode_error(answer->payload)->retryable);
    }
  }
}

// What `memory.limit: auto` makes of a container of 256 MiB has room for 200 clients, and each of
// them can make a burst of requests at the same time.
TEST(FullDaemon, TwoHundredClientsFitASmallContainer) {
  RedisServer redis;
  Daemon daemon({.config = "memory: {limit: 224MiB}\nl2: {kind: redis, redis: {url: \"" +
                           redis.url() + "\"}}\n",
                 .server = {}});
  std::vector<std::unique_ptr<RawClient>> clients;
  while (clients.size() < 200) clients.push_back(std::make_unique<RawClient>(daemon.endpoint()));
  constexpr std::uint32_t kPutsOfEach = 16;
  for (const auto& client : clients) put_at_once(*client, kPutsOfEach);
  for (const auto& client : clients) client->receive_each(kPutsOfEach, proto::Type::kStored);
}

}  // namespace
}  // namespace cistern::testing
