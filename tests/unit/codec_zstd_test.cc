// Frames of chunks: what goes in comes out, and nothing else does.
#include <zstd.h>

#include <cstring>

#include <gtest/gtest.h>

#include "codec/zstd.h"
#include "tests/support/log_text.h"
#include "tests/support/proto_wire.h"

namespace cistern::codec {
namespace {

using proto::chunk_digest;
using testing::Buffer;
using testing::log_text;
using testing::make_value;

constexpr std::size_t kChunk = 1020 * 1024;

Buffer packed(Bytes raw, int level = 1) {
  Encoder encoder(level);
  Buffer frame(raw.size());
  frame.resize(encoder.encode(raw, frame));
  return frame;
}

// What is decoded, or the fault. The memory given is of `claimed` bytes.
struct Decoded {
  std::optional<Fault> fault;
  Buffer raw;
};
Decoded decode(Bytes frame, std::size_t claimed, proto::ChunkDigest digest) {
  Decoder decoder;
  Decoded result{std::nullopt, Buffer(claimed)};
  result.fault = decoder.decode(frame, result.raw, digest);
  return result;
}

TEST(Zstd, GivesBackWhatItTook) {
  for (const int level : {kMinLevel, 3, kMaxLevel}) {
    for (const std::size_t size : {512ul, 4097ul, 32768ul, 65537ul, kChunk}) {
      const Buffer raw = log_text(size, size);
      const Buffer frame = packed(raw, level);
      ASSERT_GT(frame.size(), 0u) << size;
      EXPECT_LT(frame.size(), raw.size());
      EXPECT_FALSE(check_frame(frame, size));
      const Decoded decoded = decode(frame, size, chunk_digest(raw));
      EXPECT_FALSE(decoded.fault) << size;
      EXPECT_EQ(decoded.raw, raw);
    }
  }
}

TEST(Zstd, TextTakesLessThanAThird) { EXPECT_LT(packed(log_text(1, kChunk)).size(), kChunk / 3); }

TEST(Zstd, SaysWhenItDoesNotFit) {
  const Buffer random = make_value(kChunk);
  Buffer to(kChunk - 1);
  Encoder encoder(1);
  EXPECT_EQ(encoder.encode(random, to), 0u);
  // The next one is not troubled by it.
  const Buffer text = log_text(1, kChunk);
  EXPECT_GT(encoder.encode(text, to), 0u);
}

TEST(Zstd, SamplesPromiseWhatTheWholeKeeps) {
  Encoder encoder(1);
  EXPECT_TRUE(encoder.promises(log_text(1, kChunk)));
  EXPECT_TRUE(encoder.promises(log_text(1, kSampleFromBytes)));
  EXPECT_FALSE(encoder.promises(make_value(kChunk)));
  EXPECT_FALSE(encoder.promises(make_value(kSampleFromBytes)));
  // Of a chunk whose first third is text, a quarter can be saved.
  Buffer mixed = make_value(kChunk);
  const Buffer text = log_text(1, kChunk / 3);
  std::copy(text.begin(), text.end(), mixed.begin());
  EXPECT_TRUE(encoder.promises(mixed));
}

TEST(Zstd, AnEncoderTakesWhatWasPlanned) {
  for (const int level : {kMinLevel, 3}) {
    const std::size_t planned = Encoder::memory_for(level, kChunk);
    Encoder encoder(level);
    Buffer to(kChunk);
    for (const std::size_t size : {4096ul, 40000ul, 200000ul, 300000ul, kChunk}) {
      encoder.encode(log_text(1, size), to);
      encoder.encode(make_value(size), to);
    }
    EXPECT_TRUE(encoder.promises(log_text(1, kChunk)));
    EXPECT_LE(encoder.memory_bytes(), planned) << level;
    EXPECT_GT(planned, 100'000u);
  }
}

TEST(Zstd, DecodingTakesNoMemoryOfItsOwn) {
  Decoder decoder;
  const std::size_t before = decoder.memory_bytes();
  const Buffer raw = log_text(1, kChunk);
  Buffer to(kChunk);
  ASSERT_FALSE(decoder.decode(packed(raw), to, chunk_digest(raw)));
  EXPECT_EQ(decoder.memory_bytes(), before);
}

// ---- What isn't exactly the frame

TEST(Zstd, TruncatedAnywhereIsAFault) {
  const Buffer raw = log_text(7, 5000);
  const Buffer frame = packed(raw);
  for (std::size_t size = 0; size < frame.size(); ++size) {
    const auto decoded = decode(Bytes(frame).first(size), raw.size(), chunk_digest(raw));
    EXPECT_TRUE(decoded.fault) << size;
  }
}

TEST(Zstd, NoFlippedBitGivesOtherBytes) {
  const Buffer raw = log_text(7, 5000);
  const Buffer frame = packed(raw);
  for (std::size_t bit = 0; bit < 8 * frame.size(); ++bit) {
    Buffer flipped = frame;
    flipped[bit / 8] ^= std::byte{1} << (bit % 8);
    const Decoded decoded = decode(flipped, raw.size(), chunk_digest(raw));
    // Some bits of a frame mean nothing, such as one that is reserved.
    if (decoded.fault) continue;
    EXPECT_EQ(decoded.raw, raw) << bit;
  }
}

TEST(Zstd, ClaimsMustBeWhatIsRecorded) {
  const Buffer raw = log_text(7, 5000);
  const Buffer frame = packed(raw);
  const auto digest = chunk_digest(raw);
  EXPECT_EQ(check_frame(frame, raw.size() - 1), Fault::kWrongSize);
  EXPECT_EQ(check_frame(frame, raw.size() + 1), Fault::kWrongSize);
  EXPECT_EQ(decode(frame, raw.size() - 1, digest).fault, Fault::kWrongSize);
  EXPECT_EQ(decode(frame, raw.size(), digest ^ 1).fault, Fault::kWrongDigest);
  EXPECT_EQ(check_frame({}, raw.size()), Fault::kNoFrame);
  EXPECT_EQ(check_frame(raw, raw.size()), Fault::kNoFrame);
}

TEST(Zstd, OneFrameAndNothingElse) {
  const Buffer raw = log_text(7, 5000);
  const Buffer frame = packed(raw);
  Buffer longer = frame;
  longer.push_back(std::byte{0});
  EXPECT_EQ(check_frame(longer, raw.size()), Fault::kMore);
  Buffer twice = frame;
  testing::append(twice, frame);
  EXPECT_EQ(check_frame(twice, raw.size()), Fault::kMore);
  // A frame that is to be skipped, of 4 bytes, before or instead of it.
  Buffer skipped(12);
  proto::store_le<std::uint32_t>(skipped.data(), ZSTD_MAGIC_SKIPPABLE_START);
  proto::store_le<std::uint32_t>(skipped.data() + 4, 4);
  EXPECT_EQ(check_frame(skipped, raw.size()), Fault::kNoFrame);
  testing::append(skipped, frame);
  EXPECT_EQ(check_frame(skipped, raw.size()), Fault::kNoFrame);
  // What libzstd may still know of its releases before 1.0.
  Buffer old = frame;
  for (const std::uint32_t magic : {0xFD2FB527u, 0xFD2FB526u, 0xFD2FB525u, 0xFD2FB524u}) {
    proto::store_le(old.data(), magic);
    EXPECT_EQ(check_frame(old, raw.size()), Fault::kNoFrame);
  }
}

class Context {
 public:
  Context() : context_(ZSTD_createCCtx()) {}
  ~Context() { ZSTD_freeCCtx(context_); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  Buffer operator()(Bytes raw) {
    Buffer frame(ZSTD_compressBound(raw.size()));
    frame.resize(ZSTD_compress2(context_, frame.data(), frame.size(), raw.data(), raw.size()));
    return frame;
  }
  ZSTD_CCtx* get() { return context_; }

 private:
  ZSTD_CCtx* const context_;
};

TEST(Zstd, TheSizeOfItsContentIsNamed) {
  const Buffer raw = log_text(7, 5000);
  Context context;
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_contentSizeFlag, 0);
  EXPECT_EQ(check_frame(context(raw), raw.size()), Fault::kWrongSize);
}

TEST(Zstd, NoDictionaryIsUsed) {
  const Buffer raw = log_text(7, 5000);
  Buffer dictionary = log_text(8, 2000);
  Context context;
  // A dictionary without an id leaves no trace in the frame, but for what it decodes to.
  ZSTD_CCtx_loadDictionary(context.get(), dictionary.data(), dictionary.size());
  EXPECT_TRUE(decode(context(raw), raw.size(), chunk_digest(raw)).fault);
  // One with an id is named in it: here by hand, at the end of the frame's head.
  Buffer named = packed(raw);
  const auto flags = static_cast<unsigned>(named[4]);
  ASSERT_EQ(flags & 3u, 0u);
  named[4] |= std::byte{1};
  // With a single segment the id follows at once.
  const std::ptrdiff_t at = (flags & 0x20u) != 0 ? 5 : 6;
  named.insert(named.begin() + at, std::byte{9});
  EXPECT_EQ(check_frame(named, raw.size()), Fault::kDictionary);
}

// A window of 2 GiB: the content is 5,000 bytes all the same, and so is what is taken.
TEST(Zstd, AWindowOfAnySizeTakesNothing) {
  const Buffer raw = log_text(7, 5000);
  Buffer frame = packed(raw);
  const auto flags = static_cast<unsigned>(frame[4]);
  ASSERT_NE(flags & 0x20u, 0u);  // a single segment, with a content size of two bytes
  ASSERT_EQ(flags >> 6, 1u);
  frame[4] = static_cast<std::byte>(flags & ~0x20u);
  frame.insert(frame.begin() + 5, static_cast<std::byte>(21 << 3));
  Decoder decoder;
  const std::size_t before = decoder.memory_bytes();
  Buffer to(raw.size());
  EXPECT_FALSE(decoder.decode(frame, to, chunk_digest(raw)));
  EXPECT_EQ(to, raw);
  EXPECT_EQ(decoder.memory_bytes(), before);
}

}  // namespace
}  // namespace cistern::codec
