// Both sides together: how requests end before their time.
#include <gtest/gtest.h>

#include "tests/support/proto_pair.h"

namespace cistern::proto {
namespace {

using testing::Buffer;
using testing::make_value;
using testing::Pair;

constexpr std::uint32_t kChunk = 4096;
const std::vector<std::string> kNone;

TEST(PairEnds, CancelAtEveryPointOfAGet) {
  // The client's cancel meets the server's answer at every byte of it.
  Buffer answer;
  {
    Pair pair;
    pair.server.values["k"] = {make_value(6'000), 1, {}};
    pair.client.get("k", 100'000);
    answer = testing::collect_all(pair.client.conn);
    testing::feed(pair.server.conn, answer, testing::all_at_once(),
                  [&] { return pair.server.conn.process(1 << 20); });
    answer = testing::collect_all(pair.server.conn);
  }
  for (std::size_t at = 0; at <= answer.size(); at += (at % 4096 < 60 ? 1 : 97)) {
    SCOPED_TRACE(at);
    Pair pair;
    pair.server.values["k"] = {make_value(6'000), 1, {}};
    pair.client.by_hand = true;
    const auto id = pair.client.get("k", 100'000);
    Buffer up = testing::collect_all(pair.client.conn);
    testing::feed(pair.server.conn, up, testing::all_at_once(),
                  [&] { return pair.server.conn.process(1 << 20); });
    Buffer down = testing::collect_all(pair.server.conn);
    ASSERT_EQ(down.size(), answer.size());
    Buffer first(down.begin(), down.begin() + static_cast<std::ptrdiff_t>(at));
    const auto take = [&] {
      pair.client.conn.process();
      return true;
    };
    testing::feed(pair.client.conn, first, testing::all_at_once(), take);
    const bool ended = pair.client.has("end " + std::to_string(id));
    pair.client.conn.cancel(id);
    const auto events = pair.client.events;
    pair.to_client.assign(down.begin() + static_cast<std::ptrdiff_t>(at), down.end());
    pair.run();
    EXPECT_EQ(pair.client.events, events);  // nothing more is heard of it
    EXPECT_EQ(ended, at == answer.size());
    EXPECT_FALSE(pair.client.conn.failed());
    EXPECT_FALSE(pair.server.conn.failed());
    EXPECT_EQ(pair.client.conn.open_requests(), 0u);
    EXPECT_EQ(pair.broken_promises(), kNone);
  }
}

TEST(PairEnds, CancelOfAGetStopsItsSource) {
  Pair pair;
  pair.server.values["k"] = {make_value(500'000), 1, {}};
  pair.enough_bytes = 1;
  const auto id = pair.client.get("k", 8'000, 1024);
  for (int i = 0; i < 10; ++i) pair.step();
  pair.client.conn.cancel(id);
  pair.run();
  EXPECT_EQ(pair.server.events.back(), "abort " + std::to_string(id) + " CANCELLED");
  EXPECT_TRUE(pair.server.sources.empty());
  EXPECT_EQ(pair.client.conn.open_requests(), 0u);
  EXPECT_EQ(pair.broken_promises(), kNone);
}

TEST(PairEnds, CancelOfAPutBeforeItsEndStoresNothing) {
  for (const int steps : {0, 1, 2, 3, 5, 8}) {
    SCOPED_TRACE(steps);
    Pair pair;
    pair.enough_bytes = 1;
    const auto id = pair.client.put("k", make_value(100'000), kChunk, true, 1000);
    for (int i = 0; i < steps; ++i) pair.step();
    pair.client.conn.cancel(id);
    pair.run();
    EXPECT_TRUE(pair.server.values.empty());
    EXPECT_TRUE(pair.server.uploads.empty());
    EXPECT_EQ(pair.client.conn.open_requests(), 0u);
    EXPECT_FALSE(pair.client.has("error CANCELLED " + std::to_string(id)));
    EXPECT_EQ(pair.broken_promises(), kNone);
  }
}

TEST(PairEnds, CancelOfACompleteWriteIsIgnored) {
  Pair pair;
  pair.server.by_hand = true;
  const auto put = pair.client.put("p", make_value(10), kChunk);
  const auto small = pair.client.put_inline("s", make_value(10), kChunk);
  const auto remove = pair.client.conn.remove(KeyRequest{as_bytes("d")});
  const auto touch = pair.client.conn.touch(TouchRequest{as_bytes("t"), 1});
  const auto stat = pair.client.conn.stat(KeyRequest{as_bytes("i")});
  pair.run();
  pair.server.grant(put, 10);
  pair.run();
  const auto before = pair.server.events;
  for (const auto id : {put, small, remove, touch}) pair.client.conn.cancel(id);
  pair.run();
  EXPECT_EQ(pair.server.events, before);
  EXPECT_EQ(pair.server.conn.open_streams(), 5u);
  EXPECT_EQ(pair.client.conn.open_requests(), 5u);
  pair.client.conn.cancel(stat);
  pair.run();
  EXPECT_EQ(pair.server.events.back(), "abort " + std::to_string(stat) + " CANCELLED");
  pair.server.conn.answer(put, Stored{});
  pair.server.conn.answer(small, Stored{});
  pair.server.conn.answer(remove, Done{});
  pair.server.conn.answer(touch, Status::kNotFound);
  pair.run();
  EXPECT_EQ(pair.client.conn.open_requests(), 0u);
  EXPECT_FALSE(pair.client.lost);
}

TEST(PairEnds, AnErrorMayComeAfterData) {
  Pair pair;
  pair.server.by_hand = true;
  const auto id = pair.client.get("k", 100'000);
  pair.run();
  testing::ServerSide::Stored stored{make_value(50'000), 1, {}};
  pair.server.start(id, stored, {});
  pair.server.sources.at(id).break_at = 5'000;
  pair.run();
  EXPECT_EQ(pair.client.downloads.at(id).bytes.size(), 5'000u);
  EXPECT_TRUE(pair.client.has("error L2_TIMEOUT " + std::to_string(id)));
  EXPECT_EQ(pair.server.events.back(), "sent " + std::to_string(id) + " failed");
  // And from the handler rather than the source.
  const auto second = pair.client.get("k", 100'000);
  pair.run();
  pair.server.start(second, stored, {});
  pair.server.sources.at(second).hold_at = 7'000;
  pair.run();
  EXPECT_EQ(pair.client.downloads.at(second).bytes.size(), 7'000u);
  pair.server.conn.answer(second, Error{Status::kEvicted, "gone"});
  pair.server.conn.ready(second);
  pair.run();
  EXPECT_TRUE(pair.client.has("error EVICTED " + std::to_string(second)));
  EXPECT_FALSE(pair.client.lost);
}

TEST(PairEnds, ASourceThatWaitsIsAskedAgainWhenReady) {
  Pair pair;
  pair.server.by_hand = true;
  const auto id = pair.client.get("k", 100'000);
  pair.run();
  pair.server.start(id, {make_value(10'000), 1, {}}, {});
  pair.server.sources.at(id).hold_at = 0;
  pair.run();
  EXPECT_FALSE(pair.server.conn.has_output());
  EXPECT_TRUE(pair.client.has("value " + std::to_string(id)));
  pair.server.sources.at(id).hold_at = 6'000;
  pair.server.conn.ready(id);
  pair.run();
  EXPECT_EQ(pair.client.downloads.at(id).bytes.size(), 6'000u);
  pair.server.sources.at(id).hold_at = 10'000;
  pair.server.conn.ready(id);
  pair.run();
  EXPECT_TRUE(pair.client.has("end " + std::to_string(id)));
}

TEST(PairEnds, AFailedSourceOfAPutCancelsIt) {
  Pair pair;
  const auto id = pair.client.put("k", make_value(50'000), kChunk);
  pair.client.sources.at(id).break_at = 9'000;
  pair.run();
  EXPECT_TRUE(pair.client.has("error L2_TIMEOUT " + std::to_string(id)));
  EXPECT_EQ(pair.server.events.back(), "abort " + std::to_string(id) + " CANCELLED");
  EXPECT_TRUE(pair.server.values.empty());
  EXPECT_EQ(pair.client.conn.open_requests(), 0u);
}

TEST(PairEnds, ARefusedPutSendsNoPayload) {
  Pair pair;
  pair.server.by_hand = true;
  const auto id = pair.client.put("k", make_value(50'000), kChunk);
  pair.run();
  pair.server.conn.answer(id, Error{Status::kValueTooLarge, "too large"});
  pair.run();
  EXPECT_TRUE(pair.client.has("error VALUE_TOO_LARGE " + std::to_string(id)));
  EXPECT_EQ(pair.client.sources.at(id).at, 0u);
}

TEST(PairEnds, AnErrorInTheMiddleOfAPutEndsItAndTheRestIsIgnored) {
  Pair pair;
  pair.server.by_hand = true;
  const auto id = pair.client.put("k", make_value(50'000), kChunk);
  pair.run();
  pair.server.grant(id, 50'000);
  // The client has answered with all of it before it hears of the error.
  pair.step();
  Buffer wire = testing::collect_all(pair.client.conn);
  ASSERT_GT(wire.size(), 50'000u);
  Buffer first(wire.begin(), wire.begin() + 9'000);
  testing::feed(pair.server.conn, first, testing::all_at_once(),
                [&] { return pair.server.conn.process(1 << 20); });
  pair.server.conn.answer(id, Error{Status::kL2Unavailable, "gone"});
  pair.server.open.erase(id);
  pair.server.uploads.erase(id);
  pair.to_server.assign(wire.begin() + 9'000, wire.end());
  const auto ping = pair.client.conn.ping({});
  pair.run();
  EXPECT_TRUE(pair.client.has("error L2_UNAVAILABLE " + std::to_string(id)));
  EXPECT_TRUE(pair.client.has("pong " + std::to_string(ping)));
  EXPECT_EQ(pair.broken_promises(), kNone);
}

}  // namespace
}  // namespace cistern::proto
