// Random operations on the cache beside a naive model: a map that knows what each key holds. What
// the cache has evicted is learned from its misses; everything else must agree, after each
// operation.
#include <algorithm>
#include <cstdlib>
#include <map>
#include <random>

#include <gtest/gtest.h>

#include "server/l1/block.h"
#include "tests/support/l1_fixture.h"

namespace cistern::testing {
namespace {

using l1::Cache;
using l1::Removal;

std::uint64_t seed_of_run() {
  if (const char* const given = std::getenv("CISTERN_TEST_SEED"))
    return std::strtoull(given, nullptr, 10);
  return std::random_device{}();
}

#ifdef CISTERN_SANITIZED
constexpr unsigned kSteps = 3'000;
#else
constexpr unsigned kSteps = 10'000;
#endif

struct Known {
  base::Version version = 0;
  std::size_t size = 0;
  std::uint64_t expires_at_ms = 0;
};

class Random {
 public:
  Random(std::uint64_t seed, std::uint64_t budget_bytes, unsigned shards, std::size_t max_size)
      : l1_(budget_bytes, shards, Duration{0}, budget_bytes),
        budget_bytes_(budget_bytes),
        max_size_(max_size),
        random_(seed) {}

  void step() {
    const std::string key = "key" + std::to_string(below(kKeys));
    switch (below(10)) {
      case 0:
      case 1:
      case 2:
        put(key);
        break;
      case 3:
        erase(key);
        break;
      case 4:
        touch(key);
        break;
      case 5:
        pass_time();
        break;
      case 6:
        read_later(key);
        break;
      default:
        get(key);
        break;
    }
    const l1::Stats stats = l1_.cache.stats();
    ASSERT_LE(stats.used_bytes, budget_bytes_);
    ASSERT_EQ(stats.reserved_bytes, 0u);
    ASSERT_TRUE(L1::reconciles(stats));
    ASSERT_LE(evicted_seen_, L1::removed(stats, Removal::kEvicted));
  }

  // Every key by name; then nothing is left that the model doesn't know.
  void settle() {
    std::uint64_t items = 0;
    std::uint64_t bytes = 0;
    for (unsigned i = 0; i < kKeys; ++i) {
      const std::string key = "key" + std::to_string(i);
      get(key);
      if (const auto known = known_.find(key); known != known_.end()) {
        ++items;
        bytes += known->second.size;
      }
    }
    const l1::Stats stats = l1_.cache.stats();
    EXPECT_EQ(stats.items, items);
    EXPECT_EQ(stats.value_bytes, bytes);
    EXPECT_EQ(stats.inserted_by_put, stored_);
    EXPECT_EQ(L1::removed(stats, Removal::kDeleted), deleted_);
    EXPECT_EQ(stats.hits, hits_);
    EXPECT_EQ(stats.misses, misses_);
    readers_.clear();
    EXPECT_EQ(l1_.ledger.used(base::Account::kHeld), 0u);
  }

  l1::Stats stats() const { return l1_.cache.stats(); }
  std::uint64_t evicted_seen() const { return evicted_seen_; }

 private:
  static constexpr unsigned kKeys = 300;

  std::uint64_t below(std::uint64_t bound) { return random_() % bound; }

  // What the model has, if it has not expired.
  const Known* current(const std::string& key) {
    const auto found = known_.find(key);
    if (found == known_.end()) return nullptr;
    const Known& known = found->second;
    if (known.expires_at_ms != 0 && known.expires_at_ms <= l1_.unix_ms) {
      known_.erase(found);
      return nullptr;
    }
    return &known;
  }
  // What both have: an entry that the cache lacks was evicted.
  const Known* resident(const std::string& key) {
    const Known* const known = current(key);
    if (l1_.has(key)) {
      EXPECT_NE(known, nullptr) << key << " came back";
      return known;
    }
    if (known != nullptr) {
      known_.erase(key);
      ++evicted_seen_;
    }
    return nullptr;
  }

  void put(const std::string& key) {
    const Known* const before = resident(key);
    Known next{++version_, static_cast<std::size_t>(below(2) == 0 ? below(300) : below(max_size_)),
               0};
    L1::Put how{.version = next.version, .metadata = std::string(below(40), 'm')};
    if (below(3) == 0) {
      how.ttl_ms = 1 + below(5000);
      next.expires_at_ms = l1_.unix_ms + how.ttl_ms;
    }
    if (below(4) == 0) how.condition = {base::Condition::Kind::kIfAbsent, 0};
    if (below(4) == 0) how.condition = {base::Condition::Kind::kIfVersion, version_ - below(400)};
    const bool holds =
        how.condition.holds(before == nullptr ? std::nullopt : std::optional(before->version));
    const Cache::Outcome outcome = l1_.put(key, pattern(next.version, next.size), how);
    if (outcome == Cache::Outcome::kStored) {
      ++stored_;
      known_[key] = next;
    }
    EXPECT_EQ(outcome, holds ? Cache::Outcome::kStored : Cache::Outcome::kConditionFailed);
  }

  void get(const std::string& key) {
    const Known* const known = resident(key);
    const std::string got = l1_.get(key);
    ++(known == nullptr ? misses_ : hits_);
    if (known == nullptr) {
      EXPECT_EQ(got, "absent");
    } else {
      EXPECT_TRUE(got == pattern(known->version, known->size)) << key;
      EXPECT_TRUE(l1_.small);
    }
  }

  void erase(const std::string& key) {
    const Known* const known = resident(key);
    const bool right = below(2) == 0;
    const base::Condition condition{base::Condition::Kind::kIfVersion,
                                    known != nullptr && right ? known->version : ~0ull};
    const Cache::Erased outcome = l1_.erase(key, condition);
    if (known == nullptr) {
      EXPECT_EQ(outcome, Cache::Erased::kAbsent);
    } else if (!right) {
      EXPECT_EQ(outcome, Cache::Erased::kConditionFailed);
    } else {
      EXPECT_EQ(outcome, Cache::Erased::kErased);
      ++deleted_;
      known_.erase(key);
    }
  }

  void touch(const std::string& key) {
    const Known* const known = resident(key);
    const std::uint64_t ttl_ms = below(3) == 0 ? 0 : 1 + below(5000);
    const bool done = l1_.touch(key, known == nullptr ? 1 : known->version, ttl_ms);
    if (known == nullptr) {
      EXPECT_FALSE(done);
    } else if (done) {
      known_[key].expires_at_ms = ttl_ms == 0 ? 0 : l1_.unix_ms + ttl_ms;
    }
  }

  void pass_time() {
    l1_.pass(std::chrono::milliseconds(below(500)));
    l1_.cache.sweep(below(50), l1_.now);
  }

  // A reader that is slow to let go.
  void read_later(const std::string& key) {
    const bool there = resident(key) != nullptr;
    ++(there ? hits_ : misses_);
    if (base::ValuePtr value = l1_.large(key)) {
      if (readers_.size() == 8) readers_.erase(readers_.begin());
      readers_.push_back(std::move(value));
    }
    for (const base::ValuePtr& value : readers_) {
      if (!value->revoked()) {
        EXPECT_TRUE(content_of(*value) == pattern(value->meta().version, value->meta().size));
      }
    }
  }

  L1 l1_;
  const std::uint64_t budget_bytes_;
  const std::size_t max_size_;
  std::mt19937_64 random_;
  std::map<std::string, Known> known_;
  std::vector<base::ValuePtr> readers_;
  base::Version version_ = 0;
  std::uint64_t stored_ = 0, deleted_ = 0, hits_ = 0, misses_ = 0, evicted_seen_ = 0;
};

void run(std::uint64_t budget_bytes, unsigned shards, std::size_t max_size, bool evicts) {
  const std::uint64_t seed = seed_of_run();
  SCOPED_TRACE("CISTERN_TEST_SEED=" + std::to_string(seed));
  Random random(seed, budget_bytes, shards, max_size);
  for (unsigned i = 0; i < kSteps && !::testing::Test::HasFailure(); ++i) random.step();
  random.settle();
  EXPECT_EQ(random.evicted_seen() != 0, evicts);
  EXPECT_EQ(L1::removed(random.stats(), Removal::kEvicted) != 0, evicts);
}

TEST(CacheModel, SmallValuesThatAllFit) { run(16 * proto::kMiB, 4, 4096, false); }
TEST(CacheModel, SmallValuesThatDoNot) { run(512 * proto::kKiB, 1, 4096, true); }
TEST(CacheModel, SmallValuesOverShardsThatDoNot) { run(1024 * proto::kKiB, 8, 4096, true); }
TEST(CacheModel, ValuesOfAllSizes) { run(3 * proto::kMiB, 4, 150'000, true); }
TEST(CacheModel, ValuesOfAllSizesInOneShard) { run(1 * proto::kMiB, 1, 60'000, true); }

// The order of eviction, exactly, against two lists: one shard, entries of one size, and uses that
// are far enough apart to be counted each.
TEST(CacheModel, SegmentedOrderIsThatOfTwoLists) {
  const std::uint64_t seed = seed_of_run();
  SCOPED_TRACE("CISTERN_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  constexpr std::uint64_t kBudget = 512 * proto::kKiB;
  L1 l1(kBudget);
  const auto name = [](std::uint64_t i) { return "key" + std::to_string(1000 + i); };
  const std::string value(1060, 'v');
  const std::uint64_t slot_bytes =
      l1::kClassBytes[l1::class_of(l1::block_bytes(false, false, false, 7, 0, value.size()))];
  std::vector<std::string> lists[2];  // probation and protected, the oldest first
  std::size_t capacity = 0;
  for (unsigned step = 0; step < 20'000; ++step) {
    l1.pass(std::chrono::seconds(3));
    const std::string key = name(random() % 800 * (random() % 800) / 800);
    std::vector<std::string>* in = nullptr;
    for (auto& list : lists) {
      if (std::ranges::find(list, key) != list.end()) in = &list;
    }
    ASSERT_EQ(l1.get(key) != "absent", in != nullptr) << key << " at step " << step;
    if (in == nullptr) {
      ASSERT_EQ(l1.put(key, value), Cache::Outcome::kStored);
      if (capacity == 0 && L1::removed(l1.cache.stats(), Removal::kEvicted) != 0) {
        capacity = lists[0].size() + lists[1].size();
      }
      if (capacity != 0) {
        auto& from = lists[0].empty() ? lists[1] : lists[0];
        from.erase(from.begin());
      }
      lists[0].push_back(key);
    } else {
      in->erase(std::ranges::find(*in, key));
      lists[1].push_back(key);
      while (lists[1].size() * slot_bytes > kBudget / 100 * 80) {
        lists[0].push_back(lists[1].front());
        lists[1].erase(lists[1].begin());
      }
    }
    ASSERT_EQ(l1.cache.stats().items, lists[0].size() + lists[1].size());
  }
  EXPECT_GT(capacity, 350u);
}

}  // namespace
}  // namespace cistern::testing
