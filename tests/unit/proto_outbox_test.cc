#include <gtest/gtest.h>

#include "proto/outbox.h"
#include "tests/support/proto_wire.h"

namespace cistern::proto {
namespace {

using testing::Buffer;
using testing::Frame;

// Sources by id, and what became of them.
struct Sources : Outbox::Streams {
  std::map<std::uint32_t, testing::Source> by_id;
  std::vector<std::uint32_t> asked;
  std::vector<std::string> events;

  Piece next_piece(std::uint32_t id, std::size_t max_bytes) override {
    asked.push_back(id);
    return by_id.at(id).next(max_bytes);
  }
  void sent_end(std::uint32_t id) override { events.push_back("end " + std::to_string(id)); }
  void source_failed(std::uint32_t id, const Error& error) override {
    events.push_back("failed " + std::to_string(id) + " " + std::string(name(error.status)));
  }
};

struct Fixture : ::testing::Test {
  Sources sources;
  Outbox outbox{sources};

  void open(std::uint32_t id, std::size_t size, std::uint64_t credit, std::size_t frame = 1000) {
    sources.by_id[id] = testing::Source(testing::make_value(size, id), 4096);
    outbox.open(id, credit, frame);
  }
  std::vector<Frame> collect(std::size_t enough = 1 << 20) {
    Batch batch;
    outbox.collect(batch, enough);
    Buffer wire;
    testing::append_segments(wire, batch);
    EXPECT_EQ(wire.size(), batch.bytes);
    auto frames = testing::take_frames(wire);
    EXPECT_TRUE(wire.empty());
    return frames;
  }
  static std::vector<std::uint32_t> ids(const std::vector<Frame>& frames) {
    std::vector<std::uint32_t> all;
    for (const Frame& frame : frames) all.push_back(frame.header.id);
    return all;
  }
  using Ids = std::vector<std::uint32_t>;
};

using OutboxTest = Fixture;

TEST_F(OutboxTest, SendsInTurn) {
  open(1, 2'500, 10'000);
  open(2, 1'500, 10'000);
  EXPECT_EQ(ids(collect()), (Ids{1, 2, 1, 2, 1, 2, 1}));  // the last of each is its END
  EXPECT_FALSE(outbox.has_output());
  EXPECT_EQ(sources.events, (std::vector<std::string>{"end 2", "end 1"}));
}

TEST_F(OutboxTest, AnIdThatIsUsedAgainHasOneTurn) {
  open(1, 10'000, 10'000);
  for (int i = 0; i < 100; ++i) {
    outbox.close(2);
    open(2, 10'000, 10'000);
  }
  const auto frames = collect(8'000);
  EXPECT_EQ(ids(frames), (Ids{1, 2, 1, 2, 1, 2, 1, 2}));
  outbox.close(1);
  outbox.close(2);
  EXPECT_FALSE(outbox.has_output());
  EXPECT_TRUE(collect().empty());
}

TEST_F(OutboxTest, ControlGoesFirst) {
  open(1, 3'000, 10'000);
  EXPECT_EQ(collect(1'000).size(), 1u);
  encode_plain(outbox.control(), 9, Type::kPong, {});
  EXPECT_EQ(ids(collect(1'000)).front(), 9u);
}

TEST_F(OutboxTest, StopsWhenThereIsEnough) {
  open(1, 50'000, 1 << 20);
  Batch batch;
  outbox.collect(batch, 3'500);
  EXPECT_GE(batch.bytes, 3'500u);
  EXPECT_LE(batch.bytes, 3'500u + 1'000 + kHeaderBytes + kChunkDigestBytes);
}

TEST_F(OutboxTest, WithoutCreditOnlyAnEndIsTaken) {
  open(1, 1'000, 0);
  open(2, 0, 0);
  EXPECT_EQ(ids(collect()), (Ids{2}));
  EXPECT_FALSE(outbox.has_output());
  EXPECT_TRUE(outbox.add_credit(1, 999));
  EXPECT_EQ(collect().at(0).header.length, 999u);
  EXPECT_TRUE(outbox.add_credit(1, 1));
  EXPECT_EQ(ids(collect()), (Ids{1, 1}));
}

TEST_F(OutboxTest, CreditHasABound) {
  open(1, 1'000, kMaxCreditBytes - 1);
  EXPECT_TRUE(outbox.add_credit(1, 1));
  EXPECT_FALSE(outbox.add_credit(1, 1));
  EXPECT_FALSE(outbox.add_credit(1, ~std::uint64_t{0}));
  EXPECT_TRUE(outbox.add_credit(77, 5));
}

TEST_F(OutboxTest, AFailedSourceIsRemoved) {
  open(1, 1'000, 10'000);
  sources.by_id.at(1).break_at = 500;
  EXPECT_EQ(collect().size(), 1u);
  EXPECT_EQ(sources.events, std::vector<std::string>{"failed 1 L2_TIMEOUT"});
  EXPECT_FALSE(outbox.has(1));
}

TEST_F(OutboxTest, AWaitingSourceIsNotAskedUntilItIsReady) {
  open(1, 1'000, 10'000);
  sources.by_id.at(1).hold_at = 0;
  collect();
  EXPECT_EQ(sources.asked, (Ids{1}));
  EXPECT_FALSE(outbox.has_output());
  sources.by_id.at(1).hold_at = 1'000;
  outbox.ready(1);
  outbox.ready(1);
  EXPECT_TRUE(outbox.has_output());
  EXPECT_EQ(ids(collect()), (Ids{1, 1}));
}

TEST_F(OutboxTest, PayloadIsNeverCopied) {
  open(1, 1'000, 10'000);
  Batch batch;
  outbox.collect(batch, 1 << 20);
  ASSERT_EQ(batch.segments.size(), 3u);  // head, value bytes, END
  EXPECT_TRUE(batch.segments[0].is_control());
  EXPECT_FALSE(batch.segments[1].is_control());
  EXPECT_EQ(batch.segments[1].data,
            static_cast<const Buffer*>(batch.segments[1].owner.get())->data());
  EXPECT_EQ(batch.control.size(), 2 * kHeaderBytes + kChunkDigestBytes + kValueDigestBytes + 8);
}

TEST_F(OutboxTest, ALargeBatchLeavesNoLargeStorageBehind) {
  Batch batch;
  for (int i = 0; i < 3; ++i) {
    outbox.control().resize(100'000);
    outbox.collect(batch, 1);
    EXPECT_EQ(batch.bytes, 100'000u);
    batch.clear();
    EXPECT_LE(batch.control.capacity() + outbox.control().capacity(), 2 * Batch::kKeptBytes);
  }
}

TEST_F(OutboxTest, ASourceThatBreaksItsContractEndsTheProcess) {
  struct Bad : Outbox::Streams {
    Piece next_piece(std::uint32_t, std::size_t) override {
      static const std::byte bytes[16] = {};
      Piece piece;
      piece.kind = Piece::Kind::kBytes;
      piece.bytes = Segment{.data = bytes, .size = 16};
      return piece;
    }
    void sent_end(std::uint32_t) override {}
    void source_failed(std::uint32_t, const Error&) override {}
  };
  Bad bad;
  Outbox too_much(bad);
  too_much.open(1, 15, 1'000);
  Batch batch;
  EXPECT_DEATH(too_much.collect(batch, 1'000), "");
}

}  // namespace
}  // namespace cistern::proto
