// ClientConn against a server that sends what it shouldn't.
#include <gtest/gtest.h>

#include "proto/client_conn.h"
#include "tests/support/proto_pair.h"

namespace cistern::proto {
namespace {

using testing::Buffer;
using testing::ClientSide;

template <typename... Parts>
Buffer encoded(const Parts&... parts) {
  Out out;
  encode(out, parts...);
  return out;
}
Buffer plain(std::uint32_t id, Type type, Bytes payload = {}, std::uint8_t flags = 0) {
  return testing::frame(type, id, payload, flags).bytes();
}
Buffer welcome() {
  return encoded(Welcome{.max_value_bytes = 1 << 20,
                         .max_frame_bytes = static_cast<std::uint32_t>(kMinFrameBytes),
                         .chunk_bytes = 4096,
                         .max_key_bytes = 64,
                         .max_metadata_bytes = 64,
                         .max_inline_bytes = 16384,
                         .max_streams = 8,
                         .stream_window_bytes = 65536,
                         .name = "s"});
}
void receive(ClientSide& client, Buffer wire) {
  testing::feed(client.conn, wire, testing::all_at_once(), [&] {
    client.conn.process();
    return true;
  });
}
ValueHead head_of(std::uint64_t size) {
  ValueHead head;
  head.size = size;
  head.chunk_bytes = 4096;
  return head;
}
Buffer data(std::uint32_t id, std::size_t size, bool ends_chunk) {
  Buffer payload(ends_chunk ? 8 : 0);
  if (ends_chunk) store_le(payload.data(), chunk_digest(testing::make_value(size)));
  testing::append(payload, testing::make_value(size));
  return plain(id, Type::kData, payload, ends_chunk ? 1 : 0);
}
Buffer operator+(Buffer a, const Buffer& b) {
  testing::append(a, b);
  return a;
}

// Greeted, with a GET (id 1, credit 5000), a PUT (2), a STAT (3) and a DELETE (4) under way.
struct ClientConnTest : ::testing::Test {
  ClientSide client;
  void SetUp() override {
    client.by_hand = true;
    client.conn.hello("c");
    receive(client, welcome());
    ASSERT_EQ(client.get("k", 5'000), 1u);
    ASSERT_EQ(client.put("k", testing::make_value(10), 4096), 2u);
    ASSERT_EQ(client.conn.stat(KeyRequest{as_bytes("k")}), 3u);
    ASSERT_EQ(client.conn.remove(KeyRequest{as_bytes("k")}), 4u);
    testing::collect_all(client.conn);
  }
  void TearDown() override { EXPECT_EQ(client.broken_promises, std::vector<std::string>{}); }
};

TEST_F(ClientConnTest, LosesAServerThatBreaksTheRules) {
  ValueHead odd_cover = head_of(10'000), past_cover = head_of(10'000), chunk = head_of(1);
  odd_cover.cover = Range{5, 4096};
  past_cover.cover = Range{8192, 5'000};
  chunk.chunk_bytes = 4095;
  ValueHead large_chunk = head_of(1), large = head_of(kMaxValueBytes + 1), inlined = head_of(2);
  large_chunk.chunk_bytes = static_cast<std::uint32_t>(kMaxChunkBytes) + 1;
  inlined.flags = kValueInline;
  inlined.cover = Range{0, 2};
  inlined.inline_bytes = as_bytes("ab");
  ValueHead uncovered = head_of(5'001);
  const Buffer large_value = testing::make_value(5'001);
  uncovered.flags = kValueInline;
  uncovered.inline_bytes = large_value;
  const Buffer value = encoded(1u, head_of(10'000));
  const std::pair<std::string, Buffer> cases[] = {
      {"a second WELCOME", welcome()},
      {"an unknown type", plain(1, static_cast<Type>(0x33))},
      {"a client's frame", plain(1, Type::kPing)},
      {"VALUE for a PUT", encoded(2u, head_of(1))},
      {"VALUE twice", value + value},
      {"VALUE with id 0", encoded(0u, head_of(1))},
      {"a cover that begins within a chunk", encoded(1u, odd_cover)},
      {"a cover past the end", encoded(1u, past_cover)},
      {"chunks that are too small", encoded(1u, chunk)},
      {"chunks that are too large", encoded(1u, large_chunk)},
      {"a value that is too large", encoded(1u, large)},
      {"an inline value with a cover", encoded(1u, inlined)},
      {"an inline value past the credit", encoded(1u, uncovered)},
      {"a malformed VALUE", plain(1, Type::kValue)},
      {"DATA before VALUE", data(1, 5, false)},
      {"DATA with id 0", data(0, 5, false)},
      {"DATA for a PUT", data(2, 5, false)},
      {"DATA past its credit", value + data(1, 4096, true) + data(1, 905, false)},
      {"DATA across a chunk's end", value + data(1, 4097, false)},
      {"a chunk without digest", value + data(1, 4096, false)},
      {"a digest too early", value + data(1, 4095, true)},
      {"DATA past the end", encoded(1u, head_of(10)) + data(1, 11, true)},
      {"END before VALUE", encoded(1u, End{})},
      {"END too early", value + encoded(1u, End{{}, 10'000})},
      {"END with another size",
       encoded(1u, head_of(1)) + data(1, 1, true) + encoded(1u, End{{}, 2})},
      {"STORED for a GET", encoded(1u, Stored{})},
      {"DONE for a STAT", encoded(3u, Done{})},
      {"INFO for a DELETE", encoded(4u, Info{})},
      {"PONG for a STAT", plain(3, Type::kPong)},
      {"STATS_RESULT for a STAT", plain(3, Type::kStatsResult)},
      {"EXPLANATION for a STAT", plain(3, Type::kExplanation)},
      {"CREDIT for a GET", plain(1, Type::kCredit, as_bytes("abcd"))},
      {"a malformed ERROR", plain(3, Type::kError)},
      {"GOAWAY with an id", plain(3, Type::kGoaway)},
      {"STORED with id 0", encoded(0u, Stored{})},
  };
  for (const auto& [what, wire] : cases) {
    SCOPED_TRACE(what);
    ClientSide other;
    other.by_hand = true;
    other.conn.hello("c");
    receive(other, welcome());
    other.get("k", 5'000);
    other.put("k", testing::make_value(10), 4096);
    other.conn.stat(KeyRequest{as_bytes("k")});
    other.conn.remove(KeyRequest{as_bytes("k")});
    receive(other, wire);
    ASSERT_TRUE(other.lost);
    EXPECT_EQ(other.lost->status, Status::kProtocolError) << other.lost->message;
    EXPECT_TRUE(other.conn.failed());
    EXPECT_EQ(other.conn.open_requests(), 0u);
    EXPECT_EQ(other.broken_promises, std::vector<std::string>{});
  }
}

TEST_F(ClientConnTest, IgnoresFramesOfRequestsThatAreOver) {
  receive(client, encoded(99u, Stored{}) + data(99, 5, false) + plain(99, Type::kPong) +
                      testing::frame(static_cast<Type>(0x55), 1, {}, 0xFF).bytes());
  EXPECT_FALSE(client.lost);
  EXPECT_EQ(client.conn.open_requests(), 4u);
}

TEST_F(ClientConnTest, ACancelledRequestStaysOpenUntilItsAnswer) {
  client.conn.cancel(1);
  client.conn.cancel(1);
  Buffer out = testing::collect_all(client.conn);
  EXPECT_EQ(testing::take_frames(out).size(), 1u);
  EXPECT_EQ(client.conn.open_requests(), 4u);
  // What was on its way is dropped, also past the credit of someone who isn't there any more.
  receive(client, encoded(1u, head_of(10'000)) + data(1, 4096, true) + data(1, 4096, true));
  EXPECT_EQ(client.conn.open_requests(), 4u);
  receive(client, encoded(1u, Type::kError, ErrorMessage{.code = 37, .retryable = true}));
  EXPECT_EQ(client.conn.open_requests(), 3u);
  EXPECT_EQ(client.events, std::vector<std::string>{"welcome s"});
}

TEST_F(ClientConnTest, CodesItDoesNotKnowKeepTheirRetryableBit) {
  receive(
      client,
      encoded(3u, Type::kError, ErrorMessage{.code = 999, .retryable = true, .message = "new"}) +
          encoded(4u, Type::kError,
                  ErrorMessage{.code = 998, .retryable = false, .message = "new"}) +
          encoded(1u, Type::kError,
                  ErrorMessage{.code = 257, .retryable = true, .message = "the client's own"}) +
          encoded(2u, Type::kError,
                  ErrorMessage{.code = 0, .retryable = false, .message = "no error"}));
  EXPECT_EQ(client.events,
            (std::vector<std::string>{"welcome s", "error INTERNAL 3", "error BAD_REQUEST 4",
                                      "error INTERNAL 1", "error BAD_REQUEST 2"}));
}

TEST_F(ClientConnTest, AnErrorOfTheConnectionEndsEverything) {
  receive(client, encoded(0u, Type::kError,
                          ErrorMessage{.code = 33, .retryable = true, .message = "full"}));
  ASSERT_TRUE(client.lost);
  EXPECT_EQ(client.lost->status, Status::kTooManyConnections);
  EXPECT_EQ(client.lost->message, "full");
}

TEST(ClientConnWelcome, MustComeFirstAndMakeSense) {
  const auto lost = [](const Buffer& wire) {
    ClientSide client;
    client.conn.hello("c");
    client.conn.ping({});
    receive(client, wire);
    return client.lost.has_value();
  };
  EXPECT_FALSE(lost(welcome()));
  EXPECT_TRUE(lost(plain(1, Type::kPong)));
  EXPECT_TRUE(lost(data(1, 1, false)));
  Buffer with_id = welcome();
  with_id[8] = std::byte{1};
  EXPECT_TRUE(lost(with_id));
  const auto changed = [](const std::function<void(Welcome&)>& change) {
    const Buffer bytes = welcome();
    Welcome message = *decode_welcome(Bytes(bytes).subspan(kHeaderBytes));
    change(message);
    return encoded(message);
  };
  EXPECT_TRUE(lost(changed([](Welcome& w) { w.version = 2; })));
  EXPECT_TRUE(lost(changed([](Welcome& w) { w.chunk_bytes = 4095; })));
  EXPECT_TRUE(lost(changed([](Welcome& w) { w.chunk_bytes = 0xFFFFFFFF; })));
  EXPECT_TRUE(lost(changed([](Welcome& w) { w.max_frame_bytes = 65535; })));
  EXPECT_FALSE(lost(changed([](Welcome& w) { w.features = 77; })));
}

TEST(ClientConnFrames, AreAskedForNoLargerThanWhatIsRead) {
  ClientSide client(static_cast<std::uint32_t>(kMinFrameBytes));
  for (const std::uint32_t asked : {0u, 0xFFFFFFFFu, 2048u}) {
    client.get("k", 100, asked);
    Buffer out = testing::collect_all(client.conn);
    const auto frames = testing::take_frames(out);
    const auto request = decode_get(frames.at(0).payload);
    EXPECT_EQ(request->frame_bytes, asked == 2048 ? 2048 : kMinFrameBytes - kChunkDigestBytes);
  }
}

TEST(ClientConnFrames, AreSentNoLargerThanTheServerReads) {
  ClientSide client;
  client.conn.hello("c");
  receive(client, welcome());
  const auto id = client.put("k", testing::make_value(200'000), 1 << 20, true, 1 << 20);
  Buffer credit(4);
  store_le(credit.data(), std::uint32_t{200'000});
  receive(client, plain(id, Type::kCredit, credit));
  Buffer out = testing::collect_all(client.conn);
  for (const auto& frame : testing::take_frames(out)) {
    EXPECT_LE(frame.header.length, kMinFrameBytes);
  }
}

}  // namespace
}  // namespace cistern::proto
