// Bringing entries near to the processor changes nothing that can be seen.
#include <thread>

#include <gtest/gtest.h>

#include "tests/support/l1_fixture.h"

namespace cistern::testing {
namespace {

constexpr std::uint64_t kMiB = proto::kMiB;

void expect_same(const l1::Stats& a, const l1::Stats& b) {
  EXPECT_EQ(a.items, b.items);
  EXPECT_EQ(a.used_bytes, b.used_bytes);
  EXPECT_EQ(a.value_bytes, b.value_bytes);
  EXPECT_EQ(a.reserved_bytes, b.reserved_bytes);
  EXPECT_EQ(a.hits, b.hits);
  EXPECT_EQ(a.misses, b.misses);
  EXPECT_EQ(a.removed, b.removed);
}

TEST(Prefetch, ChangesNothing) {
  // One shard of 512 buckets to begin with: 20,000 keys make every bucket a chain on the way.
  L1 l1(64 * kMiB, 1);
  std::vector<std::uint64_t> hashes;
  l1.cache.prefetch({});
  for (unsigned i = 0; i < 20'000; ++i) {
    const std::string key = std::to_string(i);
    hashes.push_back(L1::hash(key));
    if (i % 2 == 0) {
      l1.put(key, pattern(i, 100), {.ttl_ms = i % 4 == 0 ? 1000u : 0u});
    }
  }
  l1.put("large", pattern(1, 300'000));
  hashes.push_back(L1::hash("large"));
  l1.pass(std::chrono::seconds(2));  // some are past their time and not swept
  const l1::Stats before = l1.cache.stats();
  l1.cache.prefetch(hashes);
  expect_same(before, l1.cache.stats());
  for (unsigned i = 0; i < 20'000; ++i) {
    const bool there = i % 4 == 2;
    ASSERT_EQ(l1.get(std::to_string(i)), there ? pattern(i, 100) : "absent");
  }
  EXPECT_EQ(l1.get("large"), pattern(1, 300'000));
}

TEST(Prefetch, IsNotAUse) {
  const auto survivor = [](bool prefetched) {
    L1 l1(kMiB, 1);
    l1.put("first", pattern(1, 1000));
    for (unsigned i = 0; i < 5000; ++i) {
      l1.pass(std::chrono::milliseconds(100));
      const std::uint64_t hash = L1::hash("first");
      if (prefetched) l1.cache.prefetch({&hash, 1});
      l1.put(std::to_string(i), pattern(i, 1000));
      if (!l1.has("first")) return i;
    }
    return ~0u;
  };
  EXPECT_EQ(survivor(true), survivor(false));
  EXPECT_NE(survivor(false), ~0u);
}

TEST(Prefetch, WhileOthersWrite) {
  L1 l1(2 * kMiB, 2);
  std::vector<std::uint64_t> hashes;
  for (unsigned i = 0; i < 3000; ++i) hashes.push_back(L1::hash(std::to_string(i)));
  std::thread writer([&] {
    for (unsigned round = 0; round < 5; ++round) {
      for (unsigned i = 0; i < 3000; ++i) l1.put(std::to_string(i), pattern(i + round, i % 2000));
      for (unsigned i = 0; i < 3000; i += 3) l1.erase(std::to_string(i));
    }
  });
  for (unsigned i = 0; i < 50; ++i) l1.cache.prefetch(hashes);
  writer.join();
  EXPECT_TRUE(L1::reconciles(l1.cache.stats()));
}

}  // namespace
}  // namespace cistern::testing
