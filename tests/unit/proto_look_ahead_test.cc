// Keys that are seen before their requests are handled, the table of open requests, and the writer
// of frames.
#include <deque>

#include <gtest/gtest.h>

#include "proto/open_streams.h"
#include "tests/support/proto_pair.h"

namespace cistern::proto {
namespace {

using testing::Buffer;

// Checks that what is announced comes, in that order, before anything else is announced.
class Expecting final : public testing::ServerSide {
 public:
  using testing::ServerSide::ServerSide;
  std::size_t announced = 0;
  std::size_t largest_batch = 0;

  void on_keys_ahead(std::span<const Bytes> keys) override {
    if (!conn.greeted()) broken_promises.emplace_back("a key announced before HELLO");
    if (!ahead_.empty()) broken_promises.emplace_back("announced again: " + ahead_.front());
    for (const Bytes key : keys) ahead_.emplace_back(as_text(key));
    announced += keys.size();
    largest_batch = std::max(largest_batch, keys.size());
  }
  void on_get(std::uint32_t id, const GetRequest& request) override {
    comes(std::string(as_text(request.key)));
    testing::ServerSide::on_get(id, request);
  }
  void on_put(std::uint32_t id, const PutRequest& request) override {
    comes(std::string(as_text(request.key)));
    testing::ServerSide::on_put(id, request);
  }
  void on_answered(Type type, Status status) override {
    const bool was_announced = type == Type::kGet && status == Status::kKeyTooLarge;
    if (was_announced && !ahead_.empty()) ahead_.pop_front();
  }
  bool all_came() const { return ahead_.empty(); }

 private:
  void comes(const std::string& key) {
    if (ahead_.empty()) return;  // one that came alone isn't announced
    if (ahead_.front() != key) broken_promises.emplace_back(key + " before " + ahead_.front());
    ahead_.pop_front();
  }
  std::deque<std::string> ahead_;
};

void add_get(Buffer& wire, std::uint32_t id, std::string_view key) {
  encode(wire, id, GetRequest{.key = as_bytes(key), .credit_bytes = 65536});
}
void add_gets(Buffer& wire, std::uint32_t count, std::uint32_t first = 1) {
  for (std::uint32_t i = 0; i < count; ++i) add_get(wire, first + i, "key" + std::to_string(i));
}
Buffer hello() {
  Buffer wire;
  encode(wire, Hello{});
  return wire;
}
// A frame of a streamed PUT that is its only chunk.
void add_data(Buffer& wire, std::uint32_t id, std::size_t size) {
  const Buffer value = testing::make_value(size);
  Buffer payload(sizeof(ChunkDigest));
  store_le(payload.data(), chunk_digest(value));
  testing::append(payload, value);
  testing::append(wire, testing::frame(Type::kData, id, payload, kFlagChunkEnd).bytes());
}

struct LookAheadTest : ::testing::Test {
  Expecting server;

  void TearDown() override {
    EXPECT_EQ(server.broken_promises, std::vector<std::string>{});
    EXPECT_TRUE(server.all_came());
  }
  void feed(Buffer wire, const testing::Split& split = testing::all_at_once()) {
    testing::feed(server.conn, wire, split, [this] { return server.conn.process(1 << 20); });
  }
  std::size_t gets() const {
    return static_cast<std::size_t>(std::ranges::count_if(
        server.events, [](const std::string& event) { return event.starts_with("get "); }));
  }
};

TEST_F(LookAheadTest, AnnouncesTheGetsOfABatch) {
  server.exchange(hello());
  Buffer wire;
  add_gets(wire, 7);
  feed(wire);
  EXPECT_EQ(server.announced, 7u);
  EXPECT_EQ(server.largest_batch, 7u);
  EXPECT_EQ(gets(), 7u);
}

TEST_F(LookAheadTest, AnnouncesALargeBatchInParts) {
  server.exchange(hello());
  Buffer wire;
  add_gets(wire, 200);
  feed(wire);
  EXPECT_EQ(server.announced, 200u);
  EXPECT_LT(server.largest_batch, 200u);
  EXPECT_EQ(gets(), 200u);
}

TEST_F(LookAheadTest, AGetThatIsAloneIsNotAnnounced) {
  server.exchange(hello());
  Buffer wire;
  add_gets(wire, 1);
  feed(wire);
  EXPECT_EQ(server.announced, 0u);
  EXPECT_EQ(gets(), 1u);
}

TEST_F(LookAheadTest, AnnouncesNothingBeforeHello) {
  Buffer wire = hello();
  add_gets(wire, 5);
  feed(wire);
  EXPECT_EQ(server.announced, 5u);
  EXPECT_EQ(gets(), 5u);
}

TEST(LookAhead, AClientWithoutHelloIsNotLookedAhead) {
  Expecting server;
  Buffer wire;
  add_gets(wire, 5);
  server.exchange(wire);
  EXPECT_TRUE(server.conn.failed());
  EXPECT_EQ(server.announced, 0u);
}

// DATA takes the reader two events, and no GET is announced twice for it.
TEST_F(LookAheadTest, OtherFramesBetweenDoNotConfuseIt) {
  server.exchange(hello());
  Buffer wire;
  add_gets(wire, 3);
  encode(wire, 50, PutRequest{.key = as_bytes("put"), .size = 500});
  feed(wire);
  wire.clear();
  add_data(wire, 50, 500);
  add_gets(wire, 3, 10);
  add_data(wire, 50, 300);  // too much: refused
  add_data(wire, 50, 10);   // of a request that is over
  add_gets(wire, 4, 20);
  testing::append(wire, testing::frame(static_cast<Type>(0x40), 0, Buffer(20)).bytes());
  testing::append(wire, testing::frame(Type::kPing, 30).bytes());
  add_gets(wire, 5, 40);
  feed(wire);
  EXPECT_EQ(gets(), 15u);
  EXPECT_EQ(server.announced, 16u);  // and the PUT
}

TEST(LookAhead, LongUnknownFramesBetweenDoNotConfuseIt) {
  ServerLimits limits = testing::small_limits();
  limits.max_frame_bytes = 2 * kMaxControlBytes;
  Expecting server(limits);
  server.exchange(hello());
  Buffer wire;
  add_gets(wire, 2);
  const Buffer payload(kMaxControlBytes + 1);
  testing::append(wire, testing::frame(static_cast<Type>(0x33), 9, payload).bytes());
  add_gets(wire, 3, 10);
  server.exchange(wire);
  EXPECT_EQ(server.events.size(), 5u);
  EXPECT_EQ(server.announced, 5u);
  EXPECT_EQ(server.broken_promises, std::vector<std::string>{});
}

// One whose key can't be read isn't, one whose key is too long is.
TEST_F(LookAheadTest, ARefusedGetIsAnnouncedOnceAtMost) {
  server.exchange(hello());
  Buffer wire;
  add_gets(wire, 2);
  add_get(wire, 3, "");
  add_get(wire, 4, std::string(65, 'k'));  // longer than a key may be
  testing::append(wire, testing::frame(Type::kGet, 5, Buffer(3)).bytes());
  add_gets(wire, 2, 10);
  feed(wire);
  EXPECT_EQ(gets(), 4u);
  EXPECT_EQ(server.announced, 5u);
}

// What isn't whole isn't announced, wherever a batch is cut.
TEST(LookAhead, ABatchMayBeCutAnywhere) {
  Buffer wire = hello();
  add_gets(wire, 4);
  encode(wire, 50, PutRequest{.key = as_bytes("put"), .size = 40});
  add_data(wire, 50, 40);
  add_gets(wire, 4, 10);
  for (std::size_t cut = 1; cut < wire.size(); ++cut) {
    Expecting server;
    server.values["key1"] = {testing::make_value(10), 1, {}};
    bool first = true;
    const auto split = [&](std::size_t left) { return std::exchange(first, false) ? cut : left; };
    Buffer rest = wire;
    testing::feed(server.conn, rest, split, [&] { return server.conn.process(1 << 20); });
    EXPECT_EQ(server.broken_promises, std::vector<std::string>{}) << cut;
    EXPECT_TRUE(server.all_came()) << cut;
    EXPECT_EQ(std::ranges::count_if(server.events,
                                    [](const auto& event) { return event.starts_with("get "); }),
              8)
        << cut;
  }
}

// A client that doesn't read its answers stops the batch; it goes on where it stopped.
TEST_F(LookAheadTest, GoesOnAfterAPause) {
  server.exchange(hello());
  Buffer wire;
  add_gets(wire, 100);
  for (int turns = 0; turns < 200 && gets() < 100; ++turns) {
    testing::feed(server.conn, wire, testing::all_at_once(),
                  [this] { return server.conn.process(100); });
    server.output();
  }
  EXPECT_EQ(gets(), 100u);
  EXPECT_EQ(server.announced, 100u);
}

// ------------------------------------------------------------------------------------ OpenStreams

using Ids = std::vector<std::uint32_t>;

Ids sorted(Ids ids) {
  std::ranges::sort(ids);
  return ids;
}

TEST(OpenStreams, TheLatestIsFoundBeforeAndAfterItSettles) {
  OpenStreams<int> streams;
  EXPECT_EQ(streams.find(0), nullptr);  // no id is the latest when none is
  streams.open(7, 70) = 71;
  ASSERT_NE(streams.find(7), nullptr);
  EXPECT_EQ(*streams.find(7), 71);
  *streams.find(7) = 72;
  streams.settle();
  streams.settle();
  ASSERT_NE(streams.find(7), nullptr);
  EXPECT_EQ(*streams.find(7), 72);
  EXPECT_EQ(streams.size(), 1u);
}

TEST(OpenStreams, AnIdThatWasClosedBeginsAnew) {
  OpenStreams<int> streams;
  for (const bool settled : {false, true}) {
    streams.open(7, 70);
    if (settled) streams.settle();
    streams.close(7);
    EXPECT_FALSE(streams.contains(7));
    EXPECT_EQ(streams.size(), 0u);
    streams.open(7, 1);
    EXPECT_EQ(*streams.find(7), 1);
    streams.close(7);
  }
  streams.close(7);
  EXPECT_EQ(streams.ids(), Ids{});
}

TEST(OpenStreams, OpeningOneKeepsTheOthers) {
  OpenStreams<int> streams;
  for (std::uint32_t id = 1; id <= 100; ++id) streams.open(id, static_cast<int>(id));
  int* const settled = streams.find(50);
  streams.close(3);
  streams.open(101, 0);
  for (std::uint32_t id = 200; id < 300; ++id) streams.open(id, 0);
  EXPECT_EQ(streams.find(50), settled);  // stands until it is closed
  EXPECT_EQ(streams.size(), 200u);
}

TEST(OpenStreams, NamesAllWhetherSettledOrNot) {
  OpenStreams<int> streams;
  streams.open(1, 0);
  streams.open(2, 0);
  EXPECT_EQ(sorted(streams.ids()), (Ids{1, 2}));
  for (const std::uint32_t id : streams.ids()) streams.close(id);
  EXPECT_EQ(streams.size(), 0u);
}

// ---------------------------------------------------------------------------------------- Encoder

// The writer takes room ahead: nothing of it stays, wherever the frame's parts end.
TEST(FrameWriter, AppendsExactlyTheFrame) {
  for (std::size_t key_bytes = 0; key_bytes <= 400; ++key_bytes) {
    const std::string key(key_bytes, 'k');
    Out out(5, std::byte{0xAB});
    encode(out, 9, GetRequest{.key = as_bytes(key), .range = Range{1, 2}, .if_changed = 3});
    ASSERT_EQ(std::ranges::count(Bytes(out).first(5), std::byte{0xAB}), 5);
    const FrameHeader header = decode_header(out.data() + 5);
    ASSERT_EQ(out.size(), 5 + kHeaderBytes + header.length);
    const auto get = decode_get(Bytes(out).subspan(5 + kHeaderBytes));
    ASSERT_TRUE(get) << key_bytes;
    EXPECT_EQ(as_text(get->key), key);
    EXPECT_EQ(get->range->length, 2u);
    EXPECT_EQ(get->if_changed, 3u);
  }
}

TEST(FrameWriter, MetadataAndValueKeepTheirOrder) {
  for (std::size_t size = 0; size <= 400; ++size) {
    const Buffer value = testing::make_value(size);
    const Buffer metadata = testing::make_value(400 - size, 2);
    ValueHead head;
    head.flags = kValueInline;
    head.size = size;
    head.chunk_bytes = 4096;
    head.metadata = metadata;
    head.inline_bytes = value;
    Out out;
    encode(out, 1, head);
    ASSERT_EQ(out.size(), kHeaderBytes + decode_header(out.data()).length);
    const auto back = decode_value(Bytes(out).subspan(kHeaderBytes));
    ASSERT_TRUE(back) << size;
    EXPECT_TRUE(std::ranges::equal(back->metadata, metadata));
    EXPECT_TRUE(std::ranges::equal(back->inline_bytes, value));
  }
}

}  // namespace
}  // namespace cistern::proto
