// Both sides together: what one sends the other takes, whatever the network does to the bytes.
#include "tests/support/proto_pair.h"

#include <gtest/gtest.h>

namespace cistern::proto {
namespace {

using testing::Buffer;
using testing::make_value;
using testing::Pair;
using testing::Random;

constexpr std::uint32_t kChunk = 4096;
const std::vector<std::string> kNone;

TEST(Pair, GreetsAndAnswersSmallThings) {
  Pair pair;
  EXPECT_TRUE(pair.client.has("welcome test"));
  const Buffer value = make_value(100);
  const auto put = pair.client.put_inline("k", value, kChunk);
  pair.run();
  EXPECT_TRUE(pair.client.has("stored " + std::to_string(put)));
  const auto get = pair.client.get("k", 65536);
  const auto absent = pair.client.get("nothing", 65536);
  const auto stat = pair.client.conn.stat(KeyRequest{as_bytes("k")});
  const auto touch = pair.client.conn.touch(TouchRequest{as_bytes("k"), 5});
  const auto ping = pair.client.conn.ping(as_bytes("hi"));
  const auto stats = pair.client.conn.stats();
  const auto explain = pair.client.conn.explain(KeyRequest{as_bytes("k")});
  const auto remove = pair.client.conn.remove(KeyRequest{as_bytes("k")});
  pair.run();
  EXPECT_TRUE(pair.client.has("inline " + std::to_string(get)));
  EXPECT_EQ(pair.client.downloads.at(get).bytes, value);
  EXPECT_TRUE(pair.client.has("error NOT_FOUND " + std::to_string(absent)));
  EXPECT_TRUE(pair.client.has("info " + std::to_string(stat)));
  EXPECT_TRUE(pair.client.has("done " + std::to_string(touch)));
  EXPECT_TRUE(pair.client.has("pong " + std::to_string(ping)));
  EXPECT_TRUE(pair.client.has("stats " + std::to_string(stats)));
  EXPECT_TRUE(pair.client.has("explanation " + std::to_string(explain)));
  EXPECT_TRUE(pair.client.has("done " + std::to_string(remove)));
  EXPECT_EQ(pair.client.conn.open_requests(), 0u);
  EXPECT_EQ(pair.server.conn.open_streams(), 0u);
  EXPECT_EQ(pair.broken_promises(), kNone);
}

TEST(Pair, RequestsMayBeSentBeforeTheWelcome) {
  Pair pair(testing::small_limits(), false);
  pair.client.conn.hello("x");
  const auto ping = pair.client.conn.ping({});
  pair.run();
  EXPECT_TRUE(pair.client.has("pong " + std::to_string(ping)));
}

TEST(Pair, StreamsValuesOfEverySizeAroundAChunk) {
  for (const std::size_t size :
       {0u, 1u, 1025u, 4095u, 4096u, 4097u, 8191u, 8192u, 8193u, 50'000u}) {
    for (const bool declare : {true, false}) {
      SCOPED_TRACE(std::to_string(size) + (declare ? " declared" : " unknown"));
      Pair pair;
      const Buffer value = make_value(size);
      const auto put = pair.client.put("k", value, kChunk, declare, 1000);
      pair.run();
      ASSERT_TRUE(pair.client.has("stored " + std::to_string(put)));
      ASSERT_EQ(pair.server.values.at("k").bytes, value);
      const auto get = pair.client.get("k", 5000, 1024);
      pair.run();
      EXPECT_EQ(pair.client.downloads.at(get).bytes, value);
      EXPECT_LE(pair.client.downloads.at(get).largest_frame, 1024u);
      EXPECT_EQ(pair.client.conn.open_requests(), 0u);
      EXPECT_EQ(pair.broken_promises(), kNone);
    }
  }
}

TEST(Pair, ARangeComesInWholeChunks) {
  Pair pair;
  const Buffer value = make_value(10'000);
  pair.server.values["k"] = {value, 1, {}};
  const auto middle = pair.client.get("k", 65536, 0, Range{5000, 10});
  const auto across = pair.client.get("k", 65536, 0, Range{4095, 2});
  const auto tail = pair.client.get("k", 65536, 0, Range{9'999, kUnknownSize});
  const auto past = pair.client.get("k", 65536, 0, Range{10'000, 1});
  pair.run();
  const auto got = [&](std::uint32_t id) { return pair.client.downloads.at(id).bytes; };
  EXPECT_EQ(got(middle), Buffer(value.begin() + 4096, value.begin() + 8192));
  EXPECT_EQ(got(across), Buffer(value.begin(), value.begin() + 8192));
  EXPECT_EQ(got(tail), Buffer(value.begin() + 8192, value.end()));
  EXPECT_TRUE(pair.client.has("error RANGE_INVALID " + std::to_string(past)));
  EXPECT_EQ(pair.broken_promises(), kNone);
}

TEST(Pair, DataStopsExactlyWhereCreditEnds) {
  Pair pair;
  pair.client.by_hand = true;
  pair.server.values["k"] = {make_value(10'000), 1, {}};
  const auto id = pair.client.get("k", 1);
  pair.run();
  auto& download = pair.client.downloads.at(id);
  std::size_t granted = 1;
  EXPECT_EQ(download.bytes.size(), granted);
  for (const std::uint32_t more : {1u, 4094u, 1u, 5'000u, 902u}) {
    pair.client.grant(id, more);
    granted += more;
    pair.run();
    EXPECT_EQ(download.bytes.size(), granted);
    EXPECT_FALSE(pair.client.has("end " + std::to_string(id)));
  }
  pair.client.grant(id, 1);
  pair.run();
  EXPECT_TRUE(pair.client.has("end " + std::to_string(id)));
  EXPECT_EQ(pair.broken_promises(), kNone);
}

TEST(Pair, EndNeedsNoCredit) {
  Pair pair;
  pair.client.by_hand = true;
  pair.server.values["k"] = {make_value(8192), 1, {}};
  const auto id = pair.client.get("k", 8192);
  pair.run();
  EXPECT_TRUE(pair.client.has("end " + std::to_string(id)));
  // The same for a PUT: its credit ends with its last byte.
  pair.server.window = 8192;
  pair.server.by_hand = true;
  const auto put = pair.client.put("p", make_value(8192), kChunk);
  pair.run();
  pair.server.grant(put, 8192);
  pair.run();
  EXPECT_EQ(pair.server.events.back(), "end " + std::to_string(put));
}

TEST(Pair, AStreamWithoutCreditStopsNobody) {
  Pair pair;
  pair.client.by_hand = true;
  pair.server.values["k"] = {make_value(100'000), 1, {}};
  pair.server.values["small"] = {make_value(10), 1, {}};
  const auto stuck = pair.client.get("k", 5'000);
  pair.run();
  const auto small = pair.client.get("small", 10);
  const auto other = pair.client.get("k", 100'000);
  pair.run();
  EXPECT_TRUE(pair.client.has("inline " + std::to_string(small)));
  EXPECT_TRUE(pair.client.has("end " + std::to_string(other)));
  EXPECT_EQ(pair.client.downloads.at(stuck).bytes.size(), 5'000u);
  pair.client.grant(stuck, 95'000);
  pair.run();
  EXPECT_TRUE(pair.client.has("end " + std::to_string(stuck)));
  EXPECT_EQ(pair.broken_promises(), kNone);
}

TEST(Pair, FramesAreSmallWhileOthersWait) {
  ServerLimits limits = testing::small_limits();
  limits.max_frame_bytes = 1 << 20;
  limits.chunk_bytes = 1 << 20;
  limits.max_value_bytes = 1 << 30;
  Pair pair(limits, false);
  // A client that can take frames of this size.
  testing::ClientSide client(1 << 20);
  client.conn.hello("x");
  pair.server.values["k"] = {make_value(1 << 20), 1, {}};
  const auto alone = client.get("k", 1 << 20);
  const auto exchange = [&] {
    while (client.conn.has_output() || pair.server.conn.has_output()) {
      Buffer up = testing::collect_all(client.conn);
      testing::feed(pair.server.conn, up, testing::all_at_once(),
                    [&] { return pair.server.conn.process(1 << 20); });
      Buffer down = testing::collect_all(pair.server.conn);
      testing::feed(client.conn, down, testing::all_at_once(), [&] {
        client.conn.process();
        return true;
      });
    }
  };
  exchange();
  EXPECT_GT(client.downloads.at(alone).largest_frame, kFairFrameBytes);
  const auto a = client.get("k", 1 << 20);
  const auto b = client.get("k", 1 << 20);
  exchange();
  EXPECT_LE(client.downloads.at(a).largest_frame, kFairFrameBytes);
  // The last one is alone at its end at most.
  EXPECT_EQ(client.downloads.at(b).bytes, make_value(1 << 20));
  EXPECT_EQ(client.broken_promises, kNone);
}

TEST(Pair, GoawayLetsOpenRequestsFinish) {
  Pair pair;
  pair.client.by_hand = true;
  pair.server.values["k"] = {make_value(10'000), 1, {}};
  const auto old = pair.client.get("k", 5'000);
  pair.run();
  pair.server.conn.go_away(Error{Status::kShuttingDown, "bye"});
  pair.server.conn.go_away(Error{Status::kShuttingDown, "twice"});
  pair.run();
  EXPECT_EQ(
      std::count(pair.client.events.begin(), pair.client.events.end(), "goaway SHUTTING_DOWN"), 1);
  const auto late = pair.client.get("k", 5'000);
  const auto ping = pair.client.conn.ping({});
  pair.client.grant(old, 5'000);
  pair.run();
  EXPECT_TRUE(pair.client.has("error SHUTTING_DOWN " + std::to_string(late)));
  EXPECT_TRUE(pair.client.has("pong " + std::to_string(ping)));
  EXPECT_TRUE(pair.client.has("end " + std::to_string(old)));
}

TEST(Pair, TooManyStreamsAreRefusedAndTheOthersGoOn) {
  Pair pair;
  pair.server.by_hand = true;
  std::vector<std::uint32_t> ids;
  for (std::uint32_t i = 0; i < pair.server.limits.max_streams + 2; ++i) {
    ids.push_back(pair.client.conn.stat(KeyRequest{as_bytes("k")}));
  }
  const auto ping = pair.client.conn.ping({});
  pair.run();
  EXPECT_EQ(pair.server.conn.open_streams(), pair.server.limits.max_streams);
  EXPECT_TRUE(pair.client.has("error TOO_MANY_STREAMS " + std::to_string(ids[8])));
  EXPECT_TRUE(pair.client.has("error TOO_MANY_STREAMS " + std::to_string(ids[9])));
  EXPECT_TRUE(pair.client.has("pong " + std::to_string(ping)));
  pair.server.conn.answer(ids[0], Status::kNotFound);
  const auto again = pair.client.conn.stat(KeyRequest{as_bytes("again")});
  pair.run();
  EXPECT_EQ(pair.server.events.back(), "stat " + std::to_string(again) + " again");
}

TEST(Pair, AClientThatDoesNotReadStopsBeingRead) {
  Pair pair;
  pair.server.values["k"] = {make_value(1'000), 1, {}};
  Buffer requests;
  for (int i = 0; i < 200; ++i) pair.client.get("k", 1'000);
  requests = testing::collect_all(pair.client.conn);
  const std::size_t bound = 20'000;
  // Nothing is collected meanwhile.
  testing::feed(pair.server.conn, requests, testing::all_at_once(),
                [&] { return pair.server.conn.process(bound); });
  EXPECT_LE(pair.server.conn.owed_bytes(), bound + 1'200);
  EXPECT_LT(pair.server.events.size(), 30u);
  // Once the answers have drained, the kept requests are handled.
  pair.max_owed = bound;
  pair.to_client = testing::collect_all(pair.server.conn);
  for (int i = 0; i < 100; ++i) {
    testing::feed(pair.server.conn, requests, testing::all_at_once(),
                  [&] { return pair.server.conn.process(bound); });
    pair.run();
  }
  EXPECT_EQ(pair.client.conn.open_requests(), 0u);
  EXPECT_EQ(pair.broken_promises(), kNone);
}

TEST(Pair, ManyTransfersAtOnceInAnySplit) {
  Random random;
  SCOPED_TRACE("CISTERN_SEED=" + std::to_string(random.seed()));
  for (int round = 0; round < 25; ++round) {
    Pair pair;
    pair.split = testing::random_split(random, random.one_in(2) ? 100 : 30'000);
    pair.enough_bytes = 1 + random.below(50'000);
    pair.max_owed = 1 + random.below(50'000);
    pair.server.window = static_cast<std::uint32_t>(1 + random.below(20'000));
    std::map<std::uint32_t, Buffer> expected;
    std::map<std::string, Buffer> written;
    for (int i = 0; i < 40; ++i) {
      const std::string key = "k" + std::to_string(random.below(6));
      const std::size_t size = random.one_in(3) ? random.below(30'000) : random.below(2'000);
      if (random.one_in(2)) {
        const Buffer value = make_value(size, static_cast<unsigned>(i));
        const std::uint32_t id =
            size <= 1'000 && random.one_in(2)
                ? pair.client.put_inline(key, value, kChunk)
                : pair.client.put(key, value, kChunk, random.one_in(2),
                                  1 + static_cast<std::uint32_t>(random.below(9'000)));
        if (random.one_in(8)) {
          for (std::size_t n = random.below(6); n > 0; --n) pair.step();
          pair.client.conn.cancel(id);
        }
      } else {
        const std::uint32_t id =
            pair.client.get(key, static_cast<std::uint32_t>(1 + random.below(10'000)),
                            static_cast<std::uint32_t>(1024 + random.below(8'000)));
        if (random.one_in(8)) {
          for (std::size_t n = random.below(6); n > 0; --n) pair.step();
          pair.client.conn.cancel(id);
        }
      }
      if (random.one_in(4)) pair.run();
    }
    pair.run();
    ASSERT_FALSE(pair.client.lost) << pair.client.lost->message;
    ASSERT_EQ(pair.client.conn.open_requests(), 0u);
    ASSERT_EQ(pair.server.conn.open_streams(), 0u);
    ASSERT_TRUE(pair.server.open.empty());
    ASSERT_EQ(pair.broken_promises(), kNone);
  }
}

TEST(Pair, DroppingEndsEveryRequestOnce) {
  Pair pair;
  pair.server.by_hand = true;
  pair.client.get("a", 10);
  pair.client.put("b", make_value(10), kChunk);
  pair.client.conn.remove(KeyRequest{as_bytes("c")});
  pair.run();
  ASSERT_EQ(pair.server.open.size(), 3u);
  pair.server.conn.drop(Error{Status::kCancelled, "the peer is gone"});
  pair.server.conn.drop(Error{Status::kCancelled, "again"});
  EXPECT_TRUE(pair.server.open.empty());
  EXPECT_FALSE(pair.server.conn.has_output());
  pair.client.conn.drop(Error{Status::kConnectionLost, "gone"});
  EXPECT_EQ(pair.client.lost->status, Status::kConnectionLost);
  EXPECT_EQ(pair.client.conn.open_requests(), 0u);
  EXPECT_EQ(pair.broken_promises(), kNone);
}

}  // namespace
}  // namespace cistern::proto
