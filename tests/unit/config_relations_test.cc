// Settings that contradict each other.
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "config/config.h"

namespace cistern::config {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<std::string> problems(const std::string& yaml, const Environment& environment = {}) {
  const Result result = load_text(yaml, "c.yaml", environment);
  std::vector<std::string> messages;
  if (!result) {
    for (const Problem& problem : result.error()) messages.push_back(to_string(problem));
  }
  return messages;
}

TEST(Relations, AFrameFitsTheWindow) {
  EXPECT_THAT(problems("limits:\n  max_frame_bytes: 2MiB\n"),
              ElementsAre("c.yaml:2: limits.max_frame_bytes: found 2MiB; expected at most "
                          "limits.stream_window_bytes, which is 1MiB by default: a frame larger "
                          "than the window could never be sent"));
  EXPECT_THAT(problems("limits:\n  max_frame_bytes: 2MiB\n  stream_window_bytes: 1200KiB\n"),
              ElementsAre("c.yaml:3: limits.stream_window_bytes: found 1200KiB; expected at least "
                          "limits.max_frame_bytes, which is 2MiB in line 2: a frame larger than "
                          "the window could never be sent"));
  EXPECT_THAT(problems("limits: {max_frame_bytes: 2MiB, stream_window_bytes: 2MiB}"), IsEmpty());
}

TEST(Relations, AChunkFitsTheWindow) {
  EXPECT_THAT(problems("storage:\n  chunk_bytes: 2MiB\n"),
              ElementsAre(HasSubstr("c.yaml:2: storage.chunk_bytes: found 2MiB; expected at most "
                                    "limits.stream_window_bytes, which is 1MiB by default")));
  // A chunk may be cut into any number of frames.
  EXPECT_THAT(problems("limits: {max_frame_bytes: 64KiB}"), IsEmpty());
}

TEST(Relations, L1LeavesRoomInTheLimit) {
  EXPECT_THAT(problems("memory: {limit: 64MiB}\nl1: {max_bytes: 64MiB}\n"),
              ElementsAre(HasSubstr("c.yaml:1: memory.limit: found 64MiB; expected more than "
                                    "l1.max_bytes, which is 64MiB in line 2")));
  EXPECT_THAT(problems("memory: {limit: 64MiB}\nl1: {max_bytes: 63MiB}\n"), IsEmpty());
  EXPECT_THAT(problems("l1: {max_bytes: 1TiB}\n"), IsEmpty()) << "memory.limit is auto";
  EXPECT_THAT(problems("limits: {max_value_bytes: 1TiB}\nl1: {max_bytes: 1MiB}\n"), IsEmpty());
}

TEST(Relations, AWindowLeavesRoomInTheLimit) {
  EXPECT_THAT(problems("memory: {limit: 32MiB}\nlimits: {stream_window_bytes: 32MiB}\n"),
              ElementsAre(HasSubstr("1: memory.limit: found 32MiB; expected more than "
                                    "limits.stream_window_bytes")));
}

TEST(Relations, ExpiriesOutliveTheOperationsThatRenewThem) {
  EXPECT_THAT(problems("l2:\n  kind: redis\n  provisional_ttl: 2s\n"),
              ElementsAre(HasSubstr("c.yaml:3: l2.provisional_ttl: found 2s; expected more than "
                                    "l2.redis.op_timeout, which is 2s by default")));
  EXPECT_THAT(problems("l2:\n  kind: redis\n  replace_grace: 1s\n"),
              ElementsAre(HasSubstr("c.yaml:3: l2.replace_grace: found 1s; expected at least "
                                    "l2.redis.op_timeout, which is 2s by default")));
  EXPECT_THAT(problems("l2:\n  kind: redis\n  max_idle: 1m\n"),
              ElementsAre(HasSubstr("c.yaml:3: l2.max_idle: found 1m; expected at least "
                                    "l2.provisional_ttl, which is 10m by default")));
  EXPECT_THAT(problems("l2: {provisional_ttl: 1s, max_idle: 1s, replace_grace: 1s}"), IsEmpty())
      << "without an L2 they mean nothing";
}

TEST(Relations, RequestsOutliveOneOperation) {
  EXPECT_THAT(problems("l2: {kind: redis}\nlimits:\n  request_timeout: 2s\n"),
              ElementsAre(HasSubstr("c.yaml:3: limits.request_timeout: found 2s; expected more "
                                    "than l2.redis.op_timeout, which is 2s by default")));
  EXPECT_THAT(problems("limits: {request_timeout: 1s}"), IsEmpty());
}

TEST(Relations, AChunkFitsAnItemOfMemcached) {
  // A value of exactly 1 MiB does not fit an item of 1 MiB.
  EXPECT_THAT(problems("l2: {kind: memcached}\nstorage:\n  chunk_bytes: 1MiB\n"),
              ElementsAre("c.yaml:3: storage.chunk_bytes: found 1MiB; expected at most "
                          "l2.memcached.item_max_bytes less 386 bytes for key and headers "
                          "(l2.memcached.item_max_bytes is 1MiB by default): a chunk has to fit an "
                          "item of memcached"));
  EXPECT_THAT(problems("l2: {kind: memcached, memcached: {item_max_bytes: 512KiB}}\n"),
              ElementsAre(HasSubstr("c.yaml:1: l2.memcached.item_max_bytes: found 512KiB; expected "
                                    "at least storage.chunk_bytes plus 386 bytes")));
  EXPECT_THAT(problems("l2: {kind: memcached}\nstorage: {chunk_bytes: 1020KiB}\n"), IsEmpty());
  EXPECT_THAT(problems("l2: {kind: redis}\nstorage: {chunk_bytes: 1MiB}\n"), IsEmpty());
}

TEST(Relations, MemcachedServersHaveWeightsAndThreads) {
  const auto with = [](const std::string& settings) {
    return problems("l2: {kind: memcached, memcached: {" + settings + "}}\n");
  };
  EXPECT_THAT(with("servers: [\"a:1\", \"[::1]:2\", \"c:3\"], weights: [1, 2, 3]"), IsEmpty());
  EXPECT_THAT(with("servers: [\"a:1\", \"b:2\", \"c:3\", \"d:4\", \"e:5\"]"), IsEmpty());
  EXPECT_THAT(with("servers: [\"a:1\", \"b:2\"], weights: [1, 2, 3]"),
              ElementsAre(HasSubstr("found 3 weights; expected one for each of "
                                    "l2.memcached.servers, which are 2, or a single 1")));
  EXPECT_THAT(with("servers: [\"a:1\", \"b:2\", \"a:1\"]"),
              ElementsAre(HasSubstr("l2.memcached.servers: found \"a:1\"; expected each server "
                                    "once")));
  EXPECT_THAT(with("servers: [\"a:1\", \"b:2\", \"c:3\"], pool_threads: 2"),
              ElementsAre(HasSubstr("l2.memcached.pool_threads: found 2; expected at least one for "
                                    "each of l2.memcached.servers, which are 3")));
  EXPECT_THAT(with("servers: [\"unix:///x\"]"), ElementsAre(HasSubstr("only TCP is possible")));
  EXPECT_THAT(with("servers: [\"a:0\"]"), ElementsAre(HasSubstr("HOST:PORT or [IPV6]:PORT")));
  EXPECT_THAT(with("servers: []"), ElementsAre(HasSubstr("at least one")));
  EXPECT_THAT(with("key_prefix: \"a b\""),
              ElementsAre(HasSubstr("printable ASCII without spaces")));
  EXPECT_THAT(with("key_prefix: " + std::string(49, 'x')),
              ElementsAre(HasSubstr("text of 0 to 48 bytes")));
  EXPECT_THAT(problems("l2: {memcached: {key_prefix: \"a b\", weights: [7, 7]}}\n"), IsEmpty())
      << "with another second tier they mean nothing";
}

TEST(Relations, NothingLeavesL1EarlyWithoutAnL2) {
  EXPECT_THAT(problems("l1:\n  ttl_jitter: 10%\n"),
              ElementsAre("c.yaml:2: l1.ttl_jitter: found 0.1; expected 0, since l2.kind is none "
                          "by default: a value that leaves L1 early would be lost before its "
                          "time"));
  EXPECT_THAT(problems("l1: {ttl_jitter: 0.1}\nl2: {kind: none}\n"),
              ElementsAre(HasSubstr("since l2.kind is none in line 2")));
  EXPECT_THAT(problems("l1: {ttl_jitter: 0}\n"), IsEmpty());
  EXPECT_THAT(problems("l1: {ttl_jitter: 0.5}\nl2: {kind: redis}\n"), IsEmpty());
}

TEST(Relations, ListenersDoNotCollide) {
  EXPECT_THAT(problems("server:\n  listen: [\"tcp://127.0.0.1:1\", \"tcp://127.0.0.1:1\"]\n"),
              ElementsAre("c.yaml:2: server.listen: found \"tcp://127.0.0.1:1\"; expected "
                          "endpoints that do not collide; the list also has "
                          "\"tcp://127.0.0.1:1\""));
  EXPECT_THAT(problems("server: {listen: [\"tcp://127.0.0.1:1\", \"tcp://0.0.0.0:1\"]}"),
              ElementsAre(HasSubstr("the list also has \"tcp://127.0.0.1:1\"")));
  EXPECT_THAT(problems("server: {listen: [\"unix:///a\", \"unix:///a\"]}"),
              ElementsAre(HasSubstr("found \"unix:///a\"")));
  EXPECT_THAT(problems("server: {listen: [\"tcp://127.0.0.1:0\", \"tcp://127.0.0.1:0\"]}\n"
                       "admin: {listen: \"127.0.0.1:0\"}"),
              IsEmpty());
}

TEST(Relations, TheAdminEndpointHasItsOwnPort) {
  EXPECT_THAT(problems("admin:\n  listen: 127.0.0.1:7400\n"),
              ElementsAre("c.yaml:2: admin.listen: found \"tcp://127.0.0.1:7400\"; expected "
                          "another port than server.listen has by default"));
  EXPECT_THAT(problems("server:\n  listen: [\"tcp://0.0.0.0:7401\"]\n"),
              ElementsAre("c.yaml:2: server.listen: found \"tcp://0.0.0.0:7401\"; expected "
                          "another port than admin.listen, which is \"127.0.0.1:7401\""));
  EXPECT_THAT(problems("server: {listen: [\"tcp://0.0.0.0:7401\"]}\nadmin: {listen: none}\n"),
              IsEmpty());
}

TEST(Relations, NameTheVariableThatSetOne) {
  EXPECT_THAT(problems("limits:\n  stream_window_bytes: 1MiB\n",
                       {{"CISTERN_LIMITS_MAX_FRAME_BYTES", "2MiB"}}),
              ElementsAre(HasSubstr("c.yaml:2: limits.stream_window_bytes: found 1MiB; expected "
                                    "at least limits.max_frame_bytes, which is 2MiB by "
                                    "CISTERN_LIMITS_MAX_FRAME_BYTES")));
}

TEST(Relations, ARefusedSettingIsReportedOnce) {
  EXPECT_THAT(problems("limits: {max_frame_bytes: 2MiB, stream_window_bytes: 1}"),
              ElementsAre(HasSubstr("stream_window_bytes: found \"1\"")));
}

}  // namespace
}  // namespace cistern::config
