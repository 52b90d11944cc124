#include <gtest/gtest.h>

#include "server/base/chunk.h"
#include "server/l1/memory_keeper.h"
#include "tests/support/l1_fixture.h"
#include "tests/support/machine.h"
#include "tests/support/manual_loop.h"

namespace cistern::l1 {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::L1;
using testing::Machine;
using testing::ManualLoop;
using testing::pattern;
using Outcome = Cache::Outcome;

constexpr std::uint64_t kMiB = proto::kMiB;
constexpr std::uint64_t kKiB = proto::kKiB;

void fill_with_small(L1& l1, unsigned count) {
  for (unsigned i = 0; i < count; ++i) {
    ASSERT_EQ(l1.put("small" + std::to_string(i), pattern(i, 100)), Outcome::kStored) << i;
    l1.pass(milliseconds(1));
  }
}

// ------------------------------------------------------------------------------------- The ceiling

TEST(Ceiling, NothingGoesByItselfAndShrinkEvictsInSteps) {
  L1 l1(8 * kMiB, 4);
  fill_with_small(l1, 20'000);
  const std::uint64_t before = l1.cache.used_bytes();
  ASSERT_GT(before, 3 * kMiB);
  l1.cache.set_ceiling(kMiB);
  EXPECT_EQ(l1.cache.used_bytes(), before);
  EXPECT_EQ(l1.cache.stats().ceiling_bytes, kMiB);
  EXPECT_EQ(l1.cache.stats().budget_bytes, 8 * kMiB);
  unsigned steps = 1;
  for (std::uint64_t last = before; l1.cache.shrink(64 * kKiB, l1.now); ++steps) {
    // A step may end in the middle of a page's entries, and takes no more than a few pages beyond.
    EXPECT_LE(last - l1.cache.used_bytes(), 192 * kKiB);
    last = l1.cache.used_bytes();
  }
  EXPECT_GE(steps, (before - kMiB) / (192 * kKiB));
  EXPECT_LE(l1.cache.used_bytes(), kMiB);
  EXPECT_GE(l1.cache.used_bytes(), kMiB - 192 * kKiB);
  EXPECT_TRUE(L1::reconciles(l1.cache.stats()));
  // The oldest went.
  EXPECT_FALSE(l1.has("small0"));
  EXPECT_TRUE(l1.has("small19999"));
}

TEST(Ceiling, NewEntriesFindTheirRoomBelowIt) {
  L1 l1(8 * kMiB);
  fill_with_small(l1, 20'000);
  l1.cache.set_ceiling(2 * kMiB);
  ASSERT_EQ(l1.put("large", pattern(1, kMiB)), Outcome::kStored);
  EXPECT_LE(l1.cache.used_bytes(), 2 * kMiB);
  fill_with_small(l1, 20'000);
  EXPECT_LE(l1.cache.used_bytes(), 2 * kMiB);
  // Higher again, and what is free may be taken at once.
  l1.cache.set_ceiling(100 * kMiB);
  EXPECT_EQ(l1.cache.stats().ceiling_bytes, 8 * kMiB);
  ASSERT_EQ(l1.put("larger", pattern(2, 5 * kMiB)), Outcome::kStored);
}

TEST(Ceiling, AValueLargerThanItIsRefusedForNowOnly) {
  L1 l1(8 * kMiB);
  ASSERT_EQ(l1.put("old", pattern(1, kMiB)), Outcome::kStored);
  l1.cache.set_ceiling(2 * kMiB);
  const std::uint64_t cost = 4 * kMiB;
  EXPECT_TRUE(l1.cache.could_hold(cost));
  EXPECT_FALSE(l1.cache.claim(cost));
  EXPECT_EQ(l1.put("large", pattern(2, 3 * kMiB)), Outcome::kNoRoom);
  EXPECT_TRUE(l1.has("old"));  // nothing was evicted for it
  l1.cache.set_ceiling(8 * kMiB);
  EXPECT_EQ(l1.put("large", pattern(2, 3 * kMiB)), Outcome::kStored);
  EXPECT_EQ(l1.cache.stats().reserved_bytes, 0u);
}

TEST(Ceiling, RoomsAndClaimsThatWereGivenAreHonoured) {
  L1 l1(8 * kMiB);
  fill_with_small(l1, 30'000);
  const std::string content = pattern(1, 3 * kMiB - 64 * kKiB);
  Room taken = l1.reserve("taken", content.size());
  ASSERT_TRUE(taken);
  Room claimed = l1.cache.claim(3 * kMiB);
  ASSERT_TRUE(claimed);
  l1.cache.set_ceiling(kMiB);
  // The rooms are more than the ceiling: everything else goes, and they don't.
  while (l1.cache.shrink(kMiB, l1.now)) {
  }
  EXPECT_EQ(l1.cache.stats().items, 0u);
  EXPECT_GE(l1.cache.used_bytes(), taken.bytes());
  const base::Bytes key = proto::as_bytes("claimed");
  while (claimed.missing_bytes() > 0) {
    ASSERT_TRUE(l1.cache.make(claimed, key, L1::hash("claimed"), 128 * kKiB, l1.now));
  }
  EXPECT_FALSE(l1.cache.claim(4 * kKiB));
  // What comes into them is stored, and is then the first to go.
  base::ValueMeta meta;
  meta.chunk_bytes = 64 * kKiB;
  meta.version = 7;
  NewEntry entry;
  entry.large = testing::chunked(meta, content);
  EXPECT_EQ(l1.cache.insert(proto::as_bytes("taken"), L1::hash("taken"), entry, std::move(taken),
                            {}, Source::kPut, {}, l1.now, l1.unix_ms),
            Outcome::kStored);
  claimed = {};
  EXPECT_GT(l1.cache.used_bytes(), kMiB);
  while (l1.cache.shrink(kMiB, l1.now)) {
  }
  EXPECT_LE(l1.cache.used_bytes(), kMiB);
  EXPECT_EQ(l1.cache.stats().reserved_bytes, 0u);
  EXPECT_TRUE(L1::reconciles(l1.cache.stats()));
}

// -------------------------------------------------------------------------------------- The keeper

// A daemon of 64 MiB (marks at 60 and 62) whose memory used is what the test says.
class Keeper : public ::testing::Test {
 protected:
  Keeper() {
    use(0);
    base::Chunk::set_spare_limit(0);
    base::Chunk::set_storage_budget(l1_bytes);
    keeper_.emplace(l1_.cache, ledger_,
                    base::MemoryProbe(base::CgroupFolder{machine_.paths.cgroup, true}));
  }
  ~Keeper() override {
    base::Chunk::set_storage_budget(0);
    base::Chunk::set_spare_limit(0);
  }
  void use(std::uint64_t bytes) {
    // As many digits each time: a file that is rewritten in place is never seen half.
    std::string text = std::to_string(bytes);
    text.insert(0, 20 - text.size(), '0');
    machine_.put("cgroup/memory.stat", "anon " + text + "\n");
  }

  static constexpr std::uint64_t l1_bytes = 32 * kMiB;
  Machine machine_;
  base::Ledger ledger_{{.limit = 64 * kMiB, .l1 = l1_bytes, .base = 8 * kMiB}};
  L1 l1_{l1_bytes};
  ManualLoop loop_;
  std::optional<MemoryKeeper> keeper_;
};

TEST_F(Keeper, SamplesAndLetsL1GiveWayTurnByTurn) {
  for (int i = 0; i < 7; ++i) l1_.put("k" + std::to_string(i), pattern(1, 4 * kMiB));
  const std::uint64_t full = l1_.cache.used_bytes();
  ASSERT_GT(full, 28 * kMiB);
  use(61 * kMiB);
  keeper_->run(loop_);
  loop_.run_posted();
  EXPECT_EQ(keeper_->used_bytes(), 61 * kMiB);
  EXPECT_EQ(keeper_->source(), "cgroup");
  EXPECT_EQ(l1_.cache.used_bytes(), full);
  EXPECT_EQ(keeper_->shrinks_total(), 0u);
  use(66 * kMiB);
  loop_.advance(milliseconds(100));  // turns as many as there are
  EXPECT_EQ(keeper_->shrinks_total(), 1u);
  EXPECT_EQ(l1_.cache.stats().ceiling_bytes, full - 6 * kMiB);
  EXPECT_LE(l1_.cache.used_bytes(), full - 6 * kMiB);
  EXPECT_GE(l1_.cache.used_bytes(), full - 9 * kMiB);
  // And what L1 let go of isn't kept as spare memory.
  EXPECT_LE(base::Chunk::spare_bytes(), 2 * kMiB);
  use(50 * kMiB);
  loop_.advance(seconds(100));
  EXPECT_EQ(l1_.cache.stats().ceiling_bytes, l1_bytes);
  EXPECT_EQ(keeper_->shrinks_total(), 1u);
}

TEST_F(Keeper, SpareChunksGoBeforeL1Does) {
  l1_.put("a", pattern(1, 8 * kMiB));
  l1_.put("b", pattern(2, 8 * kMiB));
  l1_.erase("a");
  const std::uint64_t spare = base::Chunk::spare_bytes();
  ASSERT_GE(spare, 8 * kMiB);
  use(63 * kMiB);
  keeper_->sample(loop_.now());
  // One turn frees a bounded part.
  EXPECT_TRUE(keeper_->step(loop_.now()));
  EXPECT_LE(spare - base::Chunk::spare_bytes(), 2 * kMiB);
  while (keeper_->step(loop_.now())) {
  }
  EXPECT_LE(base::Chunk::spare_bytes(), spare - 3 * kMiB);
  EXPECT_GE(base::Chunk::spare_bytes(), spare - 4 * kMiB);
  EXPECT_TRUE(l1_.has("b"));
  EXPECT_EQ(l1_.cache.stats().ceiling_bytes, l1_bytes);
}

TEST_F(Keeper, TheBaseIsWhatWasMeasured) {
  use(9 * kMiB);
  keeper_->measure_base();
  EXPECT_EQ(ledger_.used(base::Account::kBase), 9 * kMiB);
  EXPECT_EQ(ledger_.budget(base::Account::kBase), 8 * kMiB);
  EXPECT_EQ(keeper_->used_bytes(), 9 * kMiB);
}

}  // namespace
}  // namespace cistern::l1
