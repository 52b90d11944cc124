// TOUCH beside what else can happen to the value in the same moment.
#include <thread>

#include <gtest/gtest.h>

#include "client/cpp/client.h"
#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/support/proxy.h"
#include "tests/support/redis_server.h"

namespace cistern::testing {
namespace {

// Between the look at the value and the write of its new expiry it is gone: then it is not there,
// and no condition that nobody gave has failed.
TEST(Touch, OfAValueThatExpiresMeanwhileFindsNothing) {
  RedisServer redis;
  Proxy proxy(redis.port());
  Daemon daemon({.config = "l2: {kind: redis, redis: {op_timeout: 5s, url: \"redis://127.0.0.1:" +
                           std::to_string(proxy.port()) + "/0\"}}\n",
                 .server = {}});
  Client client({.endpoint = daemon.endpoint()});
  client.put("key", as_bytes("value"), {.ttl = Millis(1500)});
  proxy.hold_requests(containing("EVALSHA"));
  std::thread other([&] {
    EXPECT_TRUE(proxy.wait_held(Millis(10'000)));
    EXPECT_TRUE(eventually([&] { return redis.keys("cistern:m:*").empty(); }, Millis(10'000)));
    proxy.release_held();
  });
  try {
    EXPECT_FALSE(client.touch("key", Millis(60'000)));
  } catch (const Error& error) {
    ADD_FAILURE() << error.what();
  }
  other.join();
}

}  // namespace
}  // namespace cistern::testing
