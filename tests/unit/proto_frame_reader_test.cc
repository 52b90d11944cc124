#include <gtest/gtest.h>

#include "proto/frame_reader.h"
#include "tests/support/proto_wire.h"

namespace cistern::proto {
namespace {

using testing::Buffer;
using testing::Frame;
using testing::Random;
using testing::Split;

constexpr std::uint32_t kMaxFrame = 256 * 1024;

// A reader whose owner writes down every event, and takes the bytes of DATA into memory of its
// own, except those of streams with an odd id, which it discards.
class Recorder {
 public:
  explicit Recorder(std::uint32_t max_frame_bytes = kMaxFrame) : reader_(max_frame_bytes) {}

  // Each read is a burst of its own if `one_burst_each`, else all are one.
  void feed(Bytes wire, const Split& split, bool one_burst_each = true) {
    std::size_t done = 0;
    while (done < wire.size() && !failed_) {
      const auto areas = reader_.prepare(scratch_);
      const std::size_t left = wire.size() - done;
      const std::size_t take =
          testing::read_into(areas, wire.subspan(done, std::min(left, split(left))));
      reader_.commit(take);
      direct_ += std::min(take, areas[0].size());
      done += take;
      drain();
      if (one_burst_each) end_burst();
    }
    end_burst();
  }
  const std::vector<std::string>& events() const { return events_; }
  std::size_t direct() const { return direct_; }
  const Error& error() const { return reader_.error(); }

 private:
  void end_burst() {
    reader_.finish();
    std::fill(scratch_.begin(), scratch_.end(), std::byte{0xEE});
  }
  void drain() {
    for (;;) {
      const FrameReader::Event event = reader_.next();
      const std::string name = std::to_string(reader_.header().type) + "/" +
                               std::to_string(reader_.header().id) + "/" +
                               std::to_string(reader_.header().flags);
      switch (event) {
        case FrameReader::Event::kNeedBytes:
          return;
        case FrameReader::Event::kFrame:
          events_.push_back("frame " + name + " " + to_hex(reader_.payload()));
          break;
        case FrameReader::Event::kData:
          events_.push_back("data " + name + " " + std::to_string(reader_.data_bytes()) + " " +
                            (reader_.chunk_end() ? std::to_string(*reader_.chunk_end()) : "-"));
          if (reader_.header().id % 2 == 1) {
            reader_.discard();
          } else {
            // An allocation of exactly this size, so that AddressSanitizer sees a byte too many.
            target_.assign(reader_.data_bytes(), std::byte{0});
            target_.shrink_to_fit();
            reader_.set_target(target_);
            EXPECT_TRUE(reader_.receiving(reader_.header().id));
          }
          break;
        case FrameReader::Event::kDataEnd:
          events_.push_back("end " + name + " " +
                            (reader_.header().id % 2 == 1 ? "" : to_hex(Bytes(target_))));
          EXPECT_FALSE(reader_.receiving(reader_.header().id));
          break;
        case FrameReader::Event::kSkipped:
          events_.push_back("skipped " + name);
          break;
        case FrameReader::Event::kError:
          events_.push_back("error " + std::string(proto::name(reader_.error().status)));
          EXPECT_EQ(reader_.next(), FrameReader::Event::kError);
          failed_ = true;
          return;
      }
    }
  }

  FrameReader reader_;
  Buffer scratch_ = Buffer(kScratchBytes);
  Buffer target_;
  std::vector<std::string> events_;
  std::size_t direct_ = 0;
  bool failed_ = false;
};

Frame data(std::uint32_t id, Bytes bytes, std::optional<ChunkDigest> chunk_end = {}) {
  Buffer payload;
  if (chunk_end) {
    payload.resize(kChunkDigestBytes);
    store_le(payload.data(), *chunk_end);
  }
  testing::append(payload, bytes);
  return testing::frame(Type::kData, id, payload, chunk_end ? kFlagChunkEnd : std::uint8_t{0});
}

// One of everything.
Buffer everything() {
  Buffer wire;
  const auto add = [&wire](const Frame& frame) { testing::append(wire, frame.bytes()); };
  add(testing::frame(Type::kPing, 1, as_bytes("hello")));
  add(data(2, testing::make_value(1)));
  add(data(2, testing::make_value(300, 2), 0xABCDEF));
  add(testing::frame(Type::kCancel, 5));
  add(data(3, testing::make_value(200, 3), 7));
  add(data(3, testing::make_value(200, 4)));
  add(testing::frame(static_cast<Type>(0x40), 9, testing::make_value(100), 0xFF));  // ignorable
  add(testing::frame(static_cast<Type>(0x41), 9));
  add(testing::frame(static_cast<Type>(0x33), 9, testing::make_value(100), 0x80));  // unknown
  add(testing::frame(Type::kGet, 11, testing::make_value(150)));
  add(data(4, testing::make_value(1, 5), 8));
  add(testing::frame(Type::kEnd, 4, testing::make_value(24)));
  return wire;
}

TEST(FrameReader, GivesTheSameEventsForEverySplitInTwo) {
  const Buffer wire = everything();
  Recorder whole;
  whole.feed(wire, testing::all_at_once());
  ASSERT_EQ(whole.events().size(), 17u);
  for (std::size_t cut = 1; cut < wire.size(); ++cut) {
    Recorder recorder;
    bool first = true;
    recorder.feed(wire, [&](std::size_t left) { return std::exchange(first, false) ? cut : left; });
    ASSERT_EQ(recorder.events(), whole.events()) << "cut at " << cut;
  }
}

TEST(FrameReader, GivesTheSameEventsByteByByte) {
  const Buffer wire = everything();
  Recorder whole, bytes, one_burst;
  whole.feed(wire, testing::all_at_once());
  bytes.feed(wire, testing::byte_by_byte());
  EXPECT_EQ(bytes.events(), whole.events());
  one_burst.feed(wire, testing::byte_by_byte(), false);
  EXPECT_EQ(one_burst.events(), whole.events());
}

TEST(FrameReader, GivesTheSameEventsForRandomSplits) {
  Buffer wire = everything();
  const auto unknown = [](std::uint8_t type) {
    return testing::frame(static_cast<Type>(type), 1, testing::make_value(200'000)).bytes();
  };
  testing::append(wire, data(6, testing::make_value(200'000, 6), 1).bytes());
  testing::append(wire, testing::frame(Type::kPut, 13, testing::make_value(60'000)).bytes());
  testing::append(wire, unknown(0x7F));
  testing::append(wire, unknown(0x3F));
  testing::append(wire, everything());
  Recorder whole;
  whole.feed(wire, testing::all_at_once());
  Random random;
  SCOPED_TRACE("CISTERN_SEED=" + std::to_string(random.seed()));
  for (int round = 0; round < 6; ++round) {
    Recorder recorder;
    recorder.feed(wire, testing::random_split(random, 100'000), random.one_in(2));
    ASSERT_EQ(recorder.events(), whole.events()) << "round " << round;
  }
}

TEST(FrameReader, PutsPayloadStraightIntoTheTarget) {
  Recorder recorder;
  const Buffer wire = data(2, testing::make_value(200'000)).bytes();
  recorder.feed(wire, [](std::size_t) { return std::size_t{10'000}; });
  // All but what came with the header.
  EXPECT_EQ(recorder.direct(), 200'000 - (10'000 - kHeaderBytes));
}

TEST(FrameReader, BoundsLengths) {
  const auto events_of = [](std::uint8_t type, std::uint32_t length, std::uint8_t flags = 0) {
    Buffer wire(kHeaderBytes + kChunkDigestBytes);
    encode_header(wire.data(),
                  FrameHeader{.length = length, .type = type, .flags = flags, .id = 2});
    Recorder recorder;
    recorder.feed(wire, testing::all_at_once());
    return recorder.events();
  };
  const auto ping = static_cast<std::uint8_t>(Type::kPing);
  const auto data_type = static_cast<std::uint8_t>(Type::kData);
  const std::vector<std::string> refused = {"error PROTOCOL_ERROR"};
  for (const std::uint32_t length : {kMaxFrame, kMaxFrame + 1, 0x7FFFFFFFu, 0xFFFFFFFFu}) {
    const bool fits = length == kMaxFrame;
    EXPECT_EQ(events_of(ping, length), refused) << length;
    EXPECT_EQ(events_of(data_type, length) != refused, fits) << length;
    EXPECT_EQ(events_of(0x33, length) != refused, fits) << length;
    EXPECT_EQ(events_of(0x73, length) != refused, fits) << length;
  }
  EXPECT_EQ(events_of(ping, kMaxControlBytes), std::vector<std::string>{});  // waits for the rest
  EXPECT_EQ(events_of(ping, kMaxControlBytes + 1), refused);
  // DATA without value bytes.
  EXPECT_EQ(events_of(data_type, 0), refused);
  EXPECT_EQ(events_of(data_type, 7, kFlagChunkEnd), refused);
  EXPECT_EQ(events_of(data_type, 8, kFlagChunkEnd), refused);
  EXPECT_EQ(events_of(data_type, 9, kFlagChunkEnd).size(), 1u);
}

TEST(FrameReader, RefusesUnknownHeaderFlagsAndTheReservedField) {
  const std::vector<std::string> refused = {"error PROTOCOL_ERROR"};
  const auto events_of = [](FrameHeader header) {
    Buffer wire(kHeaderBytes + 9);
    header.length = 9;
    header.id = 2;
    encode_header(wire.data(), header);
    Recorder recorder;
    recorder.feed(wire, testing::all_at_once());
    return recorder.events();
  };
  for (unsigned bit = 0; bit < 8; ++bit) {
    const auto flags = static_cast<std::uint8_t>(1u << bit);
    EXPECT_EQ(events_of({.type = static_cast<std::uint8_t>(Type::kPing), .flags = flags}), refused);
    EXPECT_EQ(
        events_of({.type = static_cast<std::uint8_t>(Type::kData), .flags = flags}) != refused,
        bit == 0);
  }
  EXPECT_EQ(events_of({.type = static_cast<std::uint8_t>(Type::kPing), .reserved = 1}), refused);
  EXPECT_EQ(events_of({.type = static_cast<std::uint8_t>(Type::kPing), .reserved = 0x8000}),
            refused);
}

TEST(FrameReader, AStreamThatEndsInTheMiddleOfItsFrameLosesOnlyTheRest) {
  const Buffer wire = data(2, testing::make_value(1'000)).bytes();
  Buffer scratch(kScratchBytes);
  for (const std::size_t first : {12u, 13u, 500u, 1'011u}) {
    FrameReader reader(kMaxFrame);
    Buffer target(1'000);
    reader.commit(testing::read_into(reader.prepare(scratch), Bytes(wire).first(first)));
    ASSERT_EQ(reader.next(), FrameReader::Event::kData);
    reader.set_target(target);
    ASSERT_EQ(reader.next(), FrameReader::Event::kNeedBytes);
    reader.finish();
    reader.discard();
    target = Buffer();  // its memory is gone
    const auto areas = reader.prepare(scratch);
    EXPECT_TRUE(areas[0].empty());
    Buffer rest(wire.begin() + static_cast<std::ptrdiff_t>(first), wire.end());
    testing::append(rest, testing::frame(Type::kPing, 7).bytes());
    reader.commit(testing::read_into(areas, rest));
    EXPECT_EQ(reader.next(), FrameReader::Event::kDataEnd);
    EXPECT_EQ(reader.next(), FrameReader::Event::kFrame);
    EXPECT_EQ(reader.header().id, 7u);
    reader.finish();
  }
}

TEST(FrameReader, WhatAStoppedBurstLeftComesBeforeWhatIsReadNext) {
  const Buffer value = testing::make_value(1'000);
  Buffer wire = data(2, value).bytes();
  testing::append(wire, testing::frame(Type::kPing, 7).bytes());
  Buffer scratch(kScratchBytes);
  FrameReader reader(kMaxFrame);
  Buffer target(1'000);
  reader.commit(testing::read_into(reader.prepare(scratch), Bytes(wire).first(500)));
  ASSERT_EQ(reader.next(), FrameReader::Event::kData);
  reader.set_target(target);
  reader.finish();  // stopped although 488 bytes of the value lie in the scratch
  std::fill(scratch.begin(), scratch.end(), std::byte{0xEE});
  const auto areas = reader.prepare(scratch);
  EXPECT_TRUE(areas[0].empty());
  reader.commit(testing::read_into(areas, Bytes(wire).subspan(500)));
  EXPECT_EQ(reader.next(), FrameReader::Event::kDataEnd);
  EXPECT_EQ(target, value);
  EXPECT_EQ(reader.next(), FrameReader::Event::kFrame);
  EXPECT_EQ(reader.next(), FrameReader::Event::kNeedBytes);
  reader.finish();
}

TEST(FrameReader, AWholeScratchOfLeftoversFitsTheNextBurst) {
  // 128 KiB of small frames, of which one is taken in each burst.
  Buffer wire;
  while (wire.size() + kHeaderBytes <= kScratchBytes) {
    testing::append(wire, testing::frame(Type::kCancel, 1).bytes());
  }
  const std::size_t frames = wire.size() / kHeaderBytes;
  wire.resize(kScratchBytes);  // and the start of one more
  Buffer scratch(kScratchBytes);
  FrameReader reader(kMaxFrame);
  reader.commit(testing::read_into(reader.prepare(scratch), wire));
  ASSERT_EQ(reader.next(), FrameReader::Event::kFrame);
  reader.finish();
  std::size_t taken = 1;
  while (taken < frames) {
    reader.prepare(scratch);
    const std::size_t burst = taken < 4 ? 1 : 2'000;
    for (std::size_t i = 0; i < burst && taken < frames; ++i, ++taken) {
      ASSERT_EQ(reader.next(), FrameReader::Event::kFrame) << taken;
    }
    reader.finish();
    std::fill(scratch.begin(), scratch.end(), std::byte{0xEE});
  }
  reader.prepare(scratch);
  EXPECT_EQ(reader.next(), FrameReader::Event::kNeedBytes);
  reader.finish();
}

}  // namespace
}  // namespace cistern::proto
