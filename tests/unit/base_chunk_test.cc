#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "server/base/chunk.h"
#include "server/base/fresh_memory.h"
#include "server/base/rng.h"
#include "server/base/value.h"

namespace cistern::base {
namespace {

class ChunkTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Chunk::set_spare_limit(0);
    live_ = Chunk::live_bytes();
  }
  void TearDown() override {
    EXPECT_EQ(Chunk::live_bytes(), live_);
    Chunk::set_spare_limit(8 * proto::kMiB);
    Chunk::set_storage_budget(0);
  }
  std::uint64_t live_ = 0;
};

std::shared_ptr<Chunk> filled(std::size_t capacity, std::size_t size, char with) {
  auto chunk = Chunk::allocate(capacity);
  std::memset(chunk->space().data(), with, size);
  chunk->seal(size, 42);
  return chunk;
}

TEST_F(ChunkTest, HoldsWhatWasWritten) {
  for (const std::size_t size : {1u, 100u, 4096u, 65535u, 65536u, 1044480u, 16777216u}) {
    const auto chunk = filled(size, size, 'x');
    EXPECT_EQ(chunk->size(), size);
    EXPECT_EQ(chunk->digest(), 42u);
    EXPECT_EQ(chunk->allocated_bytes(), Chunk::allocated_for(size));
    EXPECT_GE(chunk->allocated_bytes(), size);
    EXPECT_LE(chunk->allocated_bytes(), size + size / 4 + 4096 + 128);
    EXPECT_EQ(proto::as_text(chunk->bytes()), std::string(size, 'x'));
  }
}

std::size_t resident_pages(MutableBytes area) {
  std::vector<unsigned char> pages(area.size() / 4096);
  EXPECT_EQ(::mincore(area.data(), area.size(), pages.data()), 0);
  return static_cast<std::size_t>(
      std::ranges::count_if(pages, [](unsigned char page) { return (page & 1) != 0; }));
}

// Whose pages come one by one, however the system is set up.
std::shared_ptr<Chunk> fresh_chunk() {
  auto chunk = Chunk::allocate(proto::kMiB);
  ::madvise(chunk->space().data(), proto::kMiB, MADV_NOHUGEPAGE);  // a kernel without has none
  return chunk;
}

TEST_F(ChunkTest, FreshMemoryIsPopulatedInSteps) {
  const auto chunk = fresh_chunk();
  const MutableBytes space = chunk->space();
  ASSERT_EQ(resident_pages(space), 0u);
  populate_fresh(space.first(100'000));
  if (resident_pages(space) == 0) GTEST_SKIP() << "this kernel has no MADV_POPULATE_WRITE";
  EXPECT_EQ(resident_pages(space), 25u);  // rounded up to the page that the next step begins in
  populate_fresh(space.subspan(100'000, 100'000));
  EXPECT_EQ(resident_pages(space), 49u);
  populate_fresh(space.subspan(200'704, 1));
  EXPECT_EQ(resident_pages(space), 65u);  // not page by page
  // What was populated before is left alone.
  ::madvise(space.data(), 65 * 4096, MADV_DONTNEED);
  populate_fresh(space.first(200'000));
  EXPECT_EQ(resident_pages(space), 0u);
  populate_fresh(space);
  EXPECT_EQ(resident_pages(space), 256u - 65u);
}

TEST_F(ChunkTest, FreshMemoryThatHasGoneIsForgotten) {
  std::byte* place = nullptr;
  for (int i = 0; i < 100; ++i) {
    const auto chunk = fresh_chunk();
    place = chunk->space().data();
    populate_fresh(chunk->space().first(4096));
  }
  // Nothing is mapped there now.
  populate_fresh({place, proto::kMiB});
  const auto probe = fresh_chunk();
  populate_fresh(probe->space());
  if (resident_pages(probe->space()) == 0) GTEST_SKIP() << "no MADV_POPULATE_WRITE";
  EXPECT_EQ(resident_pages(probe->space()), 256u);
  // And a slow one isn't, whatever others come and go.
  const auto slow = fresh_chunk();
  for (int i = 0; i < 100; ++i) populate_fresh(fresh_chunk()->space());
  populate_fresh(slow->space());
  EXPECT_EQ(resident_pages(slow->space()), 256u);
}

TEST_F(ChunkTest, WhatItTakesOnceSealedFollowsFromItsSize) {
  for (const std::size_t capacity : {1u, 5000u, 65536u, 1044480u}) {
    for (std::size_t size = 0; size <= capacity; size += capacity / 7 + 1) {
      const auto chunk = filled(capacity, size, 'y');
      EXPECT_EQ(chunk->allocated_bytes(), Chunk::allocated_for(std::max<std::size_t>(size, 1)));
      EXPECT_EQ(proto::as_text(chunk->bytes()), std::string(size, 'y'));
      EXPECT_EQ(Chunk::live_bytes() - live_, chunk->allocated_bytes());
    }
  }
}

TEST_F(ChunkTest, EqualSizesAreRecycledWithinTheLimit) {
  Chunk::set_spare_limit(3 * proto::kMiB);
  const std::byte* const data = filled(proto::kMiB, proto::kMiB, 'a')->bytes().data();
  EXPECT_EQ(Chunk::spare_bytes(), proto::kMiB);
  {
    const auto again = Chunk::allocate(proto::kMiB);
    EXPECT_EQ(again->space().data(), data);
    EXPECT_EQ(Chunk::spare_bytes(), 0u);
  }
  std::vector<std::shared_ptr<Chunk>> many;
  for (int i = 0; i < 10; ++i) many.push_back(Chunk::allocate(proto::kMiB));
  many.clear();
  EXPECT_EQ(Chunk::spare_bytes(), 3 * proto::kMiB);
  // A size that is no longer asked for makes way for one that is.
  Chunk::allocate(2 * proto::kMiB).reset();
  EXPECT_LE(Chunk::spare_bytes(), 3 * proto::kMiB);
  const std::uint64_t before = Chunk::spare_bytes();
  const auto recycled = Chunk::allocate(2 * proto::kMiB);
  EXPECT_EQ(Chunk::spare_bytes(), before - 2 * proto::kMiB);
  Chunk::set_spare_limit(0);
  EXPECT_EQ(Chunk::spare_bytes(), 0u);
}

TEST_F(ChunkTest, SparesTakeWhatStorageLeavesOfItsBudget) {
  constexpr std::uint64_t kSlack = 4096;  // the chunks' bookkeeping
  const std::uint64_t storage = live_ + 10 * proto::kMiB + kSlack;
  Chunk::set_storage_budget(storage);
  std::vector<std::shared_ptr<Chunk>> chunks;
  for (int i = 0; i < 10; ++i) chunks.push_back(Chunk::allocate(proto::kMiB));
  std::set<std::byte*> places;
  for (const auto& chunk : chunks) places.insert(chunk->space().data());
  chunks.clear();
  EXPECT_EQ(Chunk::spare_bytes(), 10 * proto::kMiB);
  // All of them serve again.
  for (int i = 0; i < 10; ++i) {
    chunks.push_back(Chunk::allocate(proto::kMiB));
    EXPECT_EQ(places.count(chunks.back()->space().data()), 1u);
  }
  EXPECT_EQ(Chunk::spare_bytes(), 0u);
  chunks.clear();
  // Whatever else is stored takes their place: chunks of another size, small values.
  const auto other = Chunk::allocate(3 * proto::kMiB);
  EXPECT_EQ(Chunk::spare_bytes(), 7 * proto::kMiB);
  Chunk::add_other_storage(2 * proto::kMiB);
  EXPECT_EQ(Chunk::spare_bytes(), 5 * proto::kMiB);
  Chunk::add_other_storage(-2 * static_cast<std::int64_t>(proto::kMiB));
  EXPECT_EQ(Chunk::spare_bytes(), 5 * proto::kMiB);
  Chunk::set_storage_budget(0);
  EXPECT_EQ(Chunk::spare_bytes(), 0u);
}

TEST_F(ChunkTest, SparesThatNobodyAsksForGoBackInTime) {
  Chunk::set_spare_limit(proto::kMiB);
  Chunk::set_storage_budget(live_ + 100 * proto::kMiB);
  std::vector<std::shared_ptr<Chunk>> chunks;
  for (int i = 0; i < 50; ++i) chunks.push_back(Chunk::allocate(proto::kMiB));
  chunks.clear();
  const TimePoint now = std::chrono::steady_clock::now();
  Chunk::release_old_spares(now);
  EXPECT_EQ(Chunk::spare_bytes(), 50 * proto::kMiB);
  const TimePoint later = now + std::chrono::seconds(10);
  Chunk::release_old_spares(later);
  EXPECT_LT(Chunk::spare_bytes(), 50 * proto::kMiB);
  EXPECT_GT(Chunk::spare_bytes(), proto::kMiB);  // not all at once
  for (int i = 0; i < 10; ++i) Chunk::release_old_spares(later);
  EXPECT_EQ(Chunk::spare_bytes(), proto::kMiB);
}

TEST_F(ChunkTest, TailPagesGoBackToTheKernel) {
  const auto chunk = Chunk::allocate(proto::kMiB);
  std::byte* const data = chunk->space().data();
  std::memset(data, 1, proto::kMiB);
  chunk->seal(100'000, 0);
  unsigned char resident[256];
  EXPECT_EQ(::mincore(data, 102'400, resident), 0);
  // Not mapped any more.
  EXPECT_NE(::mincore(data + 102'400, proto::kMiB - 102'400, resident), 0);
}

TEST_F(ChunkTest, ThreadsShareThePool) {
  Chunk::set_spare_limit(2 * proto::kMiB);
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      std::mt19937 random(t);
      std::vector<std::shared_ptr<Chunk>> held;
      for (int i = 0; i < 500; ++i) {
        const auto with = static_cast<char>(random() % 256);
        held.push_back(filled(65536u << random() % 3, 1 + random() % 65536, with));
        const auto& one = held[random() % held.size()];
        const auto bytes = proto::as_text(one->bytes());
        EXPECT_EQ(bytes.front(), bytes.back());
        if (held.size() > 8) held.erase(held.begin());
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_LE(Chunk::spare_bytes(), 2 * proto::kMiB);
}

ValueMeta meta_of(std::uint64_t size, std::string metadata = {}) {
  ValueMeta meta;
  meta.size = size;
  meta.chunk_bytes = 64 * 1024;
  meta.metadata = std::move(metadata);
  return meta;
}

std::vector<ChunkPtr> chunks_of(const ValueMeta& meta, std::size_t capacity) {
  std::vector<ChunkPtr> chunks;
  for (std::uint64_t i = 0; i < meta.chunk_count(); ++i) {
    const std::size_t size = meta.size_of_chunk(i);
    chunks.push_back(filled(capacity == 0 ? size : capacity, size, 'c'));
  }
  return chunks;
}

TEST_F(ChunkTest, CostOfAValueIsKnownBeforehand) {
  for (const std::uint64_t size : {0u, 1u, 65535u, 65536u, 65537u, 500'000u}) {
    for (const std::size_t metadata : {0u, 15u, 16u, 4000u}) {
      for (const std::size_t capacity : {0u, 65536u}) {
        const ValueMeta meta = meta_of(size, std::string(metadata, 'm'));
        const ChunkedValue value(meta, chunks_of(meta, capacity));
        EXPECT_EQ(value.cost_bytes(), ChunkedValue::cost_for(size, meta.chunk_bytes, metadata))
            << size << " " << metadata << " " << capacity;
        EXPECT_GE(value.cost_bytes(), size + metadata);
      }
    }
  }
}

TEST_F(ChunkTest, RevokedValueLetsGoOfItsChunks) {
  const ValueMeta meta = meta_of(200'000);
  ChunkedValue value(meta, chunks_of(meta, 0));
  const ChunkPtr in_hand = value.chunk(1);
  value.revoke();
  EXPECT_TRUE(value.revoked());
  EXPECT_EQ(value.chunk(1), nullptr);
  EXPECT_EQ(in_hand->size(), 65536u);
  EXPECT_EQ(Chunk::live_bytes() - live_, in_hand->allocated_bytes());
}

TEST_F(ChunkTest, HeldValueGivesBackAtItsEnd) {
  Ledger::Budgets budgets;
  budgets.transfers = budgets.held = proto::kMiB;
  Ledger ledger(budgets);
  {
    const ValueMeta meta = meta_of(200'000);
    ChunkedValue value(meta, chunks_of(meta, 0));
    value.hold(ledger.try_reserve(Account::kHeld, value.cost_bytes()));
    EXPECT_EQ(ledger.used(Account::kHeld), value.cost_bytes());
    EXPECT_NE(value.chunk(0), nullptr);
  }
  EXPECT_EQ(ledger.used(Account::kHeld), 0u);
}

TEST(Rng, VersionsDiffer) {
  std::vector<Version> versions;
  for (int i = 0; i < 10'000; ++i) versions.push_back(random_version());
  std::thread([&] {
    for (int i = 0; i < 10'000; ++i) versions.push_back(random_version());
  }).join();
  std::ranges::sort(versions);
  EXPECT_EQ(std::ranges::adjacent_find(versions), versions.end());
  EXPECT_NE(versions.front(), 0u);
}

TEST(HashKey, IsStableWithinTheProcess) {
  EXPECT_EQ(hash_key(proto::as_bytes("key")), hash_key(proto::as_bytes("key")));
  EXPECT_NE(hash_key(proto::as_bytes("key")), hash_key(proto::as_bytes("kez")));
}

}  // namespace
}  // namespace cistern::base
