// The store that compresses, above one in memory whose operations can be held.
#include <gtest/gtest.h>

#include "server/l2/codec_store.h"
#include "tests/support/asio_loop.h"
#include "tests/support/log_text.h"
#include "tests/support/memory_store.h"
#include "tests/support/values.h"
#include "tests/unit/l2_answer.h"

namespace cistern::l2 {
namespace {

using base::Account;
using base::Bytes;
using base::Status;
using std::chrono::seconds;
using testing::MemoryL2;
using testing::MemoryStore;
using testing::Point;
using testing::Step;

constexpr std::size_t kChunk = proto::kDefaultChunkBytes;
constexpr base::Version kVersion = 0x1234;

class CodecStoreTest : public ::testing::Test {
 protected:
  void open(CodecOptions options = {}) {
    options_ = options;
    open(options, codec_memory(options, 1, 64 * proto::kMiB));
  }
  void open(const CodecOptions& options, const CodecMemory& memory) {
    ledger_.emplace(base::Ledger::Budgets{.limit = 64 * proto::kMiB, .codec = memory.total()});
    pool_.emplace(options, memory, *ledger_);
    auto below = std::make_unique<MemoryStore>(l2_, loop_, seconds(60));
    memory_ = below.get();
    store_ = std::make_unique<CodecStore>(std::move(below), *pool_, loop_, metrics_);
  }
  ~CodecStoreTest() override {
    store_.reset();
    EXPECT_EQ(ledger_->used(Account::kCodec), pool_->memory().contexts);
  }

  static base::ChunkPtr chunk_of(const std::vector<std::byte>& bytes) {
    const auto chunk = base::Chunk::allocate(bytes.size());
    std::copy(bytes.begin(), bytes.end(), chunk->space().begin());
    chunk->seal(bytes.size(), proto::chunk_digest(bytes));
    return chunk;
  }
  static base::ChunkPtr text(std::size_t size, std::uint64_t seed = 1) {
    return chunk_of(testing::log_text(seed, size));
  }
  static base::ChunkPtr noise(std::size_t size, std::uint64_t seed = 1) {
    return chunk_of(testing::value_of(seed, size));
  }

  Answer<void> start_write(const base::ChunkPtr& chunk, std::uint64_t index = 0,
                           base::Version version = kVersion) {
    Answer<void> answer;
    store_->write_chunk("key", version, index, StoredChunk::raw(chunk), answer.take());
    EXPECT_FALSE(answer.has_come());
    return answer;
  }
  void write(const base::ChunkPtr& chunk, std::uint64_t index = 0,
             base::Version version = kVersion) {
    const Result<void> written = wait(start_write(chunk, index, version));
    ASSERT_TRUE(written) << written.error().message;
  }
  Answer<StoredChunk> start_read(std::size_t raw_bytes, std::uint64_t index = 0,
                                 Form form = Form::kRaw, Store::ReadId* id = nullptr) {
    base::ValueMeta meta;
    meta.version = kVersion;
    meta.chunk_bytes = static_cast<std::uint32_t>(raw_bytes);
    meta.size = raw_bytes * (index + 1);
    Answer<StoredChunk> answer;
    const auto given = store_->read_chunk("key", meta, index, form, answer.take());
    if (id != nullptr) *id = given;
    EXPECT_FALSE(answer.has_come());
    return answer;
  }
  Result<StoredChunk> read(std::size_t raw_bytes, std::uint64_t index = 0, Form form = Form::kRaw) {
    return wait(start_read(raw_bytes, index, form));
  }
  template <typename T>
  Result<T> wait(Answer<T> answer) {
    EXPECT_TRUE(loop_.run_until([&] { return answer.has_come(); }));
    EXPECT_EQ(answer.calls(), 1);
    return std::move(*answer);
  }
  MemoryL2::Stored& stored(std::uint64_t index = 0, base::Version version = kVersion) {
    return l2_.chunks.at({"key", version, index});
  }
  // A compressed chunk at index 30, put there past the store.
  void stored_frame() {
    const auto raw = text(kChunk);
    std::vector<std::byte> frame(kChunk);
    frame.resize(codec::Encoder(1).encode(raw->bytes(), frame));
    l2_.chunks[{"key", kVersion, 30}] = {chunk_of(frame), loop_.now() + seconds(60), Codec::kZstd,
                                         static_cast<std::uint32_t>(kChunk), raw->digest()};
  }
  std::uint64_t taken() const { return ledger_->used(Account::kCodec) - pool_->memory().contexts; }
  // Until the threads have nothing to do.
  void settle() {
    EXPECT_TRUE(loop_.run_until([&] { return pool_->stats().queued == decltype(idle_){}; }));
    pool_->wait_for(store_.get());
    while (loop_.io().poll() > 0) {
    }
  }

  const std::array<std::uint64_t, CodecPool::kKinds> idle_{};
  CodecOptions options_;
  testing::AsioLoop loop_;
  base::WorkerMetrics metrics_;
  MemoryL2 l2_;
  std::optional<base::Ledger> ledger_;
  std::optional<CodecPool> pool_;
  MemoryStore* memory_ = nullptr;
  std::unique_ptr<CodecStore> store_;
};

TEST_F(CodecStoreTest, TextLiesThereSmallAndComesBackAsItWas) {
  open();
  std::uint64_t index = 0;
  // On both sides of what is sampled, and of what is decoded on the loop.
  for (const std::size_t size :
       {std::size_t{4096}, std::size_t{kDecodeInlineBytes}, std::size_t{kDecodeInlineBytes} + 1,
        std::size_t{80'000}, kChunk}) {
    const auto chunk = text(size, size);
    write(chunk, index);
    EXPECT_EQ(stored(index).codec, Codec::kZstd);
    EXPECT_LT(stored(index).chunk->size(), size / 3 + 200);
    const auto back = read(size, index);
    ASSERT_TRUE(back) << back.error().message;
    EXPECT_EQ(back->codec, Codec::kRaw);
    EXPECT_EQ(back->raw_bytes, size);
    EXPECT_EQ(back->bytes->digest(), chunk->digest());
    EXPECT_TRUE(std::ranges::equal(back->bytes->bytes(), chunk->bytes()));
    ++index;
  }
  EXPECT_EQ(metrics_.codec_packed.get(), index);
  EXPECT_EQ(metrics_.codec_unpacked.get(), index);
  EXPECT_EQ(metrics_.codec_packed_to.get(), metrics_.codec_unpacked_from.get());
  EXPECT_EQ(metrics_.codec_packed_from.get(), metrics_.codec_unpacked_to.get());
  EXPECT_EQ(taken(), 0u);
}

TEST_F(CodecStoreTest, WhoWantsItAsItLiesGetsThat) {
  open();
  write(text(kChunk));
  const auto chunk = read(kChunk, 0, Form::kStored);
  ASSERT_TRUE(chunk);
  EXPECT_EQ(chunk->codec, Codec::kZstd);
  EXPECT_EQ(chunk->bytes->size(), stored().chunk->size());
  EXPECT_EQ(metrics_.codec_unpacked.get(), 0u);
  // And what a writer has compressed is stored as it came.
  Answer<void> written;
  store_->write_chunk("key", kVersion, 7, *chunk, written.take());
  ASSERT_TRUE(wait(written));
  EXPECT_EQ(stored(7).codec, Codec::kZstd);
  EXPECT_EQ(stored(7).chunk, chunk->bytes);
  EXPECT_EQ(metrics_.codec_given.get(), 1u);
}

TEST_F(CodecStoreTest, WhatDoesNotShrinkIsHardlyTried) {
  open();
  for (std::uint64_t index = 0; index < 100; ++index) write(noise(128 * 1024, index), index);
  // Four refusals, then every 16th of the other 96.
  EXPECT_EQ(metrics_.codec_refused.get(), 4u + 96 / 16);
  EXPECT_EQ(metrics_.codec_untried.get(), 96u - 96 / 16);
  EXPECT_EQ(metrics_.codec_packed.get(), 0u);
  EXPECT_EQ(stored(99).codec, Codec::kRaw);
  const auto back = read(128 * 1024, 99);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->bytes->digest(), stored(99).chunk->digest());
  // Another value begins anew, and the same one once something of it has shrunk.
  write(noise(128 * 1024), 0, kVersion + 1);
  EXPECT_EQ(metrics_.codec_refused.get(), 4u + 96 / 16 + 1);
  for (std::uint64_t index = 100; index < 116; ++index) write(text(128 * 1024), index);
  EXPECT_EQ(metrics_.codec_packed.get(), 1u);
  write(text(128 * 1024), 116);
  EXPECT_EQ(metrics_.codec_packed.get(), 2u);
}

// Samples that promise what the whole doesn't keep.
TEST_F(CodecStoreTest, TheWholeMustShrinkToo) {
  open();
  std::vector<std::byte> bytes = testing::value_of(1, kChunk);
  const auto sample = testing::log_text(1, 8192);
  for (const std::size_t part : {1, 3, 5}) {
    std::copy(sample.begin(), sample.end(),
              bytes.begin() + static_cast<std::ptrdiff_t>((kChunk - 8192) * part / 6));
  }
  write(chunk_of(bytes));
  EXPECT_EQ(stored().codec, Codec::kRaw);
  EXPECT_EQ(metrics_.codec_refused.get(), 1u);
}

TEST_F(CodecStoreTest, ThePolicyIsKept) {
  open({.packing = Packing::kZstd, .min_bytes = 10'000});
  write(text(9'999));
  EXPECT_EQ(stored().codec, Codec::kRaw);
  write(text(10'000));
  EXPECT_EQ(stored().codec, Codec::kZstd);
  // `zstd` takes any saving, and tries every chunk.
  for (std::uint64_t index = 0; index < 20; ++index) write(noise(128 * 1024), index);
  EXPECT_EQ(metrics_.codec_refused.get(), 20u);
  EXPECT_EQ(stored(19).codec, Codec::kRaw);
}

TEST_F(CodecStoreTest, WithoutCompressionWhatOthersCompressedIsRead) {
  open({.packing = Packing::kNone});
  EXPECT_EQ(pool_->memory().encoding, 0u);
  write(text(kChunk));
  EXPECT_EQ(stored().codec, Codec::kRaw);
  std::vector<std::byte> frame(kChunk);
  const auto raw = text(kChunk);
  frame.resize(codec::Encoder(1).encode(raw->bytes(), frame));
  stored() = {chunk_of(frame), stored().expires_at, Codec::kZstd,
              static_cast<std::uint32_t>(kChunk), raw->digest()};
  const auto back = read(kChunk);
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(back->bytes->digest(), raw->digest());
}

// ---- What lies there isn't what it says

TEST_F(CodecStoreTest, AFrameThatIsNotWhatItSaysIsALostChunk) {
  open();
  for (const std::size_t size : {std::size_t{20'000}, kChunk}) {
    write(text(size));
    const MemoryL2::Stored good = stored();
    const auto fault_of = [&](std::vector<std::byte> frame, proto::ChunkDigest digest) {
      std::array<std::uint64_t, codec::kFaultCount> before{};
      for (std::size_t i = 0; i < before.size(); ++i) before[i] = metrics_.decode_faults[i].get();
      stored().chunk = chunk_of(frame);
      stored().raw_digest = digest;
      const auto back = read(size);
      EXPECT_FALSE(back);
      if (back) return codec::kFaultCount;
      EXPECT_EQ(back.error().status, Status::kValueLost);
      EXPECT_FALSE(is_missing(back.error()));
      for (std::size_t i = 0; i < before.size(); ++i) {
        if (metrics_.decode_faults[i].get() == before[i]) continue;
        EXPECT_NE(back.error().message.find(codec::kFaultTexts[i]), std::string::npos);
        return i;
      }
      return codec::kFaultCount;
    };
    const auto at = [](codec::Fault fault) { return static_cast<std::size_t>(fault); };
    const Bytes frame = good.chunk->bytes();
    const std::vector<std::byte> bytes(frame.begin(), frame.end());
    auto shorter = bytes;
    shorter.pop_back();
    EXPECT_EQ(fault_of(shorter, good.raw_digest), at(codec::Fault::kDamaged));
    auto longer = bytes;
    longer.push_back(std::byte{1});
    EXPECT_EQ(fault_of(longer, good.raw_digest), at(codec::Fault::kMore));
    EXPECT_EQ(fault_of(bytes, good.raw_digest ^ 1), at(codec::Fault::kWrongDigest));
    std::vector<std::byte> another(size);
    another.resize(codec::Encoder(1).encode(text(size - 1)->bytes(), another));
    EXPECT_EQ(fault_of(another, good.raw_digest), at(codec::Fault::kWrongSize));
    EXPECT_EQ(fault_of(testing::log_text(1, 100), good.raw_digest), at(codec::Fault::kNoFrame));
  }
  EXPECT_EQ(metrics_.l2_corrupt_chunks.get(), 10u);
  EXPECT_EQ(metrics_.codec_unpacked.get(), 0u);
  EXPECT_EQ(taken(), 0u);
}

TEST_F(CodecStoreTest, AChunkThatCouldNeverBeDecodedSaysWhy) {
  const CodecOptions options;
  CodecMemory memory = codec_memory(options, 1, 64 * proto::kMiB);
  memory.decoding = base::Chunk::allocated_for(kChunk);
  open(options, memory);
  write(text(kChunk));
  stored().raw_bytes = 2 * kChunk;
  const auto back = read(2 * kChunk);
  ASSERT_FALSE(back);
  EXPECT_EQ(back.error().status, Status::kTransferTooLarge);
  EXPECT_NE(back.error().message.find("raise memory.limit"), std::string::npos);
}

// ---- Ends

TEST_F(CodecStoreTest, ACancelledReadIsNotAnsweredAndHoldsNothing) {
  open();
  for (std::uint64_t index = 0; index < 12; ++index) write(text(kChunk, index), index);
  std::vector<Answer<StoredChunk>> answers;
  std::vector<Store::ReadId> ids(12);
  for (std::uint64_t index = 0; index < 12; ++index) {
    answers.push_back(start_read(kChunk, index, Form::kRaw, &ids[index]));
  }
  // Some are decoded, one is being decoded, the others wait.
  ASSERT_TRUE(loop_.run_until([&] { return answers[0].has_come(); }));
  std::size_t come = 0;
  for (std::size_t i = 0; i < 12; ++i) {
    if (answers[i].has_come()) {
      ++come;
    } else {
      store_->cancel_read(ids[i]);
    }
  }
  EXPECT_LT(come, 12u);
  settle();
  EXPECT_EQ(std::ranges::count_if(answers, [](auto& each) { return each.has_come(); }),
            static_cast<std::ptrdiff_t>(come));
  EXPECT_EQ(taken(), 0u);
}

TEST_F(CodecStoreTest, ClosingEndsWhatWaits) {
  open();
  for (std::uint64_t index = 0; index < 4; ++index) write(text(kChunk, index), index);
  std::vector<Answer<void>> writes;
  std::vector<Answer<StoredChunk>> reads;
  for (std::uint64_t index = 0; index < 4; ++index) reads.push_back(start_read(kChunk, index));
  for (std::uint64_t index = 4; index < 20; ++index) {
    writes.push_back(start_write(text(kChunk), index));
  }
  bool closed = false;
  ASSERT_TRUE(loop_.run_until([&] { return reads[0].has_come(); }));
  store_->close([&] { closed = true; });
  ASSERT_TRUE(loop_.run_until([&] { return closed; }));
  std::size_t refused = 0;
  for (auto& answer : writes) {
    ASSERT_TRUE(answer.has_come());
    EXPECT_EQ(answer.calls(), 1);
    if (*answer) continue;
    EXPECT_EQ((*answer).error().status, Status::kShuttingDown);
    ++refused;
  }
  EXPECT_GT(refused, 0u);
  for (auto& answer : reads) EXPECT_EQ(answer.calls(), 1);
  settle();
  for (auto& answer : writes) EXPECT_EQ(answer.calls(), 1);
}

TEST_F(CodecStoreTest, CanBeDestroyedWhileTheThreadsWork) {
  open();
  for (std::uint64_t index = 0; index < 2; ++index) write(text(kChunk, index), index);
  std::vector<Answer<void>> writes;
  for (std::uint64_t index = 2; index < 8; ++index) {
    writes.push_back(start_write(text(kChunk), index));
  }
  const auto back = start_read(kChunk, 0);
  while (loop_.io().poll() > 0) {
  }
  store_.reset();
  while (loop_.io().poll() > 0) {
  }
}

// ---- Bounds

TEST_F(CodecStoreTest, FramesThatL2DoesNotTakeHoldOnlyWhatIsTheirs) {
  open();
  ASSERT_LT(pool_->memory().encoding, 3 * kChunk);
  memory_->pause(Step::kWrite, Point::kBefore);
  std::vector<Answer<void>> writes;
  for (std::uint64_t index = 0; index < 20; ++index) {
    writes.push_back(start_write(text(kChunk, index), index));
  }
  // The first frames are with L2; the next have no room while it holds them.
  ASSERT_TRUE(loop_.run_until([&] { return memory_->held(Step::kWrite, Point::kBefore) > 0; }));
  pool_->wait_for(store_.get());
  EXPECT_GT(pool_->stats().queued[0], 0u);
  EXPECT_LE(ledger_->used(Account::kCodec), pool_->memory().total());
  // Nothing of that keeps a reader from its chunk.
  stored_frame();
  ASSERT_TRUE(read(kChunk, 30));
  memory_->resume(Step::kWrite, Point::kBefore);
  for (auto& answer : writes) ASSERT_TRUE(wait(answer));
  EXPECT_EQ(metrics_.codec_packed.get(), 20u);
  EXPECT_EQ(taken(), 0u);
}

TEST_F(CodecStoreTest, TooManyThatWaitAreStoredAsTheyAre) {
  open({.packing = Packing::kZstd});
  memory_->pause(Step::kWrite, Point::kBefore);
  const auto chunk = text(4096);
  const std::size_t room = pool_->memory().encoding / base::Chunk::allocated_for(1000);
  std::vector<Answer<void>> writes;
  for (std::uint64_t index = 0; index < CodecPool::kMaxQueued + room + 100; ++index) {
    writes.push_back(start_write(chunk, index));
  }
  EXPECT_GE(metrics_.codec_crowded.get(), 100u);
  memory_->resume(Step::kWrite, Point::kBefore);
  for (auto& answer : writes) ASSERT_TRUE(wait(answer));
  EXPECT_EQ(metrics_.codec_packed.get() + metrics_.codec_crowded.get(), writes.size());
}

}  // namespace
}  // namespace cistern::l2
