#include <gtest/gtest.h>

#include "server/base/memory.h"
#include "server/base/memory_governor.h"
#include "server/base/memory_probe.h"
#include "tests/support/machine.h"

namespace cistern::base {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::Machine;

constexpr std::uint64_t kMiB = proto::kMiB;

TEST(Memory, TightestLimitOnTheWayUpV2) {
  Machine machine;
  machine.put("proc/self/cgroup", "0::/a/b/c\n");
  machine.put("cgroup/a/b/c/memory.max", "max\n");
  machine.put("cgroup/a/b/memory.max", "268435456\n");
  machine.put("cgroup/a/memory.max", "536870912\n");
  const auto limit = cgroup_memory_limit(machine.paths);
  ASSERT_TRUE(limit);
  EXPECT_EQ(limit->bytes, 256 * kMiB);
  EXPECT_EQ(limit->file, machine.paths.cgroup + "/a/b/memory.max");
  EXPECT_EQ(automatic_memory_limit(machine.paths).bytes, 224 * kMiB);  // less 32 MiB
}

TEST(Memory, V1AndItsUnlimited) {
  Machine machine;
  machine.put("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/1\n1:name=systemd:/\n");
  machine.put("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_FALSE(cgroup_memory_limit(machine.paths));
  // Inside the container its folder is the root of the mount.
  machine.put("cgroup/memory/memory.limit_in_bytes", "1073741824\n");
  ASSERT_TRUE(cgroup_memory_limit(machine.paths));
  EXPECT_EQ(automatic_memory_limit(machine.paths).bytes, 1024 * kMiB - 1024 * kMiB / 10);
}

TEST(Memory, NoCgroupTakesAShareOfTheMachine) {
  Machine machine;
  EXPECT_EQ(machine_memory_bytes(machine.paths), 8192 * kMiB);
  EXPECT_EQ(automatic_memory_limit(machine.paths).bytes, 8192 * kMiB / 100 * kMachineSharePercent);
  // A limit above the machine's memory is none; one that leaves the namespace is the root's.
  machine.put("proc/self/cgroup", "0::/../../x\n");
  machine.put("cgroup/memory.max", "99999999999999\n");
  EXPECT_FALSE(cgroup_memory_limit(machine.paths));
}

TEST(Memory, TinyLimitKeepsHalf) {
  Machine machine;
  machine.put("proc/self/cgroup", "0::/\n");
  machine.put("cgroup/memory.max", "41943040\n");
  EXPECT_EQ(automatic_memory_limit(machine.paths).bytes, 20 * kMiB);
}

TEST(Memory, UsageOfThisProcess) {
  const MemoryUsage usage = memory_usage();
  EXPECT_GT(usage.resident_bytes, kMiB);
  EXPECT_GE(usage.peak_resident_bytes, usage.resident_bytes);
  EXPECT_GT(usage.anonymous_bytes, 0u);
}

TEST(Memory, TightestLimitOnTheWayUpV1) {
  Machine machine;
  // Both hierarchies at once, of which the second has no controller for memory.
  machine.put("proc/self/cgroup", "4:memory:/a/b\n0::/elsewhere\n");
  machine.put("cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
  machine.put("cgroup/memory/a/memory.limit_in_bytes", "536870912\n");
  machine.put("cgroup/memory/memory.limit_in_bytes", "1073741824\n");
  const MemoryLimit limit = automatic_memory_limit(machine.paths);
  EXPECT_EQ(limit.bytes, 512 * kMiB - 512 * kMiB / 10);
  ASSERT_TRUE(limit.cgroup);
  EXPECT_EQ(limit.cgroup->path, machine.paths.cgroup + "/memory/a");
  EXPECT_FALSE(limit.cgroup->unified);
  EXPECT_NE(limit.source.find("/memory/a/memory.limit_in_bytes"), std::string::npos);
}

TEST(Memory, AMachineWithoutALimitHasNoCgroup) {
  Machine machine;
  machine.put("proc/self/cgroup", "0::/a\n");
  machine.put("cgroup/a/memory.max", "max\n");
  EXPECT_FALSE(automatic_memory_limit(machine.paths).cgroup);
}

// --------------------------------------------------------------------------------------- The probe

TEST(MemoryProbe, SumsACgroupsAnonymousSharedAndSocketBytesV2) {
  Machine machine;
  const std::string stat = "cgroup/a/memory.stat";
  machine.put(stat, "anon 1000\nfile 70000\nkernel 5\nsock 30\nshmem 200\nanon_thp 4000\n");
  const MemoryProbe probe(CgroupFolder{machine.paths.cgroup + "/a", true}, machine.paths);
  EXPECT_EQ(probe.source(), "cgroup");
  EXPECT_EQ(probe.used_bytes(), 1230u);
  machine.put(stat, "anon 1001\nfile 70000\nkernel 5\nsock 30\nshmem 200\nanon_thp 4000\n");
  EXPECT_EQ(probe.used_bytes(), 1231u);
}

TEST(MemoryProbe, SumsACgroupsAnonymousSharedAndSocketBytesV1) {
  Machine machine;
  const std::optional<CgroupFolder> folder = CgroupFolder{machine.paths.cgroup + "/memory", false};
  machine.put("cgroup/memory/memory.stat",
              "cache 9\nrss 10\nshmem 1\ntotal_cache 90\ntotal_rss 1000\ntotal_rss_huge 7\n");
  // Old kernels have no total_shmem, and one may be built without accounting of sockets.
  EXPECT_EQ(MemoryProbe(folder, machine.paths).used_bytes(), 1000u);
  machine.put("cgroup/memory/memory.stat", "rss 10\ntotal_rss 1000\ntotal_shmem 200\n");
  machine.put("cgroup/memory/memory.kmem.tcp.usage_in_bytes", "30\n");
  EXPECT_EQ(MemoryProbe(folder, machine.paths).used_bytes(), 1230u);
}

TEST(MemoryProbe, TakesTheProcessWithoutACgroupThatTells) {
  Machine machine;
  machine.put("proc/self/status",
              "Name:\tcisternd\nVmRSS:\t 900 kB\nRssAnon:\t     100 kB\nRssFile:\t 700 kB\n"
              "RssShmem:\t      20 kB\n");
  for (const auto& cgroup : {std::optional<CgroupFolder>(),
                             std::optional<CgroupFolder>({machine.paths.cgroup + "/no", true})}) {
    const MemoryProbe probe(cgroup, machine.paths);
    EXPECT_EQ(probe.source(), "process");
    EXPECT_EQ(probe.used_bytes(), 120 * proto::kKiB);
  }
}

TEST(MemoryProbe, KnowsThisProcess) {
  const MemoryProbe probe({});
  const std::uint64_t before = probe.used_bytes().value();
  EXPECT_GT(before, 256 * proto::kKiB);
  const std::vector<char> touched(32 * kMiB, 'x');
  EXPECT_GT(probe.used_bytes().value(), before + 24 * kMiB) << touched.size();
}

TEST(MemoryProbe, SaysNothingWhereTheKernelDoes) {
  const Machine machine;
  EXPECT_FALSE(MemoryProbe({}, machine.paths).used_bytes());
}

// ------------------------------------------------------------------------------------ The governor

// A process whose memory is what L1 holds and what others take; L1 obeys at once or not at all.
class Governed : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kLimit = 320 * kMiB;  // marks at 300 and 310 MiB
  static constexpr std::uint64_t kBudget = 200 * kMiB;

  MemoryGovernor::Orders update(milliseconds passed = milliseconds(100)) {
    now_ += passed;
    const auto orders = governor_.update({l1_ + others_ + spare_, spare_, l1_, now_});
    shrinks_ += orders.shrunk ? 1 : 0;
    EXPECT_LE(orders.l1_ceiling_bytes, kBudget);
    EXPECT_LE(orders.release_spare_bytes, spare_);
    return orders;
  }
  void obey(const MemoryGovernor::Orders& orders) {
    spare_ -= orders.release_spare_bytes;
    l1_ = std::min(l1_, orders.l1_ceiling_bytes);
  }

  MemoryGovernor governor_{kLimit, kBudget};
  TimePoint now_{std::chrono::hours(1)};
  std::uint64_t l1_ = kBudget;
  std::uint64_t others_ = 0;
  std::uint64_t spare_ = 0;
  unsigned shrinks_ = 0;
};

TEST_F(Governed, DoesNothingBelowTheHighMark) {
  others_ = 110 * kMiB;
  const auto orders = update();
  EXPECT_EQ(orders.l1_ceiling_bytes, kBudget);
  EXPECT_EQ(orders.release_spare_bytes, 0u);
  EXPECT_EQ(shrinks_, 0u);
}

TEST_F(Governed, SpareChunksGoFirst) {
  others_ = 80 * kMiB;
  spare_ = 32 * kMiB;
  const auto orders = update();
  EXPECT_EQ(orders.release_spare_bytes, 12 * kMiB);  // down to the low mark
  EXPECT_EQ(orders.l1_ceiling_bytes, kBudget);
  EXPECT_EQ(shrinks_, 0u);
}

TEST_F(Governed, ThenL1GivesWayByWhatIsTooMuch) {
  others_ = 106 * kMiB;
  spare_ = 5 * kMiB;
  const auto orders = update();
  EXPECT_EQ(orders.release_spare_bytes, 5 * kMiB);
  EXPECT_EQ(orders.l1_ceiling_bytes, kBudget - 6 * kMiB);
  EXPECT_EQ(shrinks_, 1u);
  obey(orders);
  EXPECT_EQ(update().l1_ceiling_bytes, kBudget - 6 * kMiB);
  EXPECT_EQ(shrinks_, 1u);
}

// An L1 that isn't full: what counts is what it holds.
TEST_F(Governed, TheCeilingIsBelowWhatL1Takes) {
  l1_ = 150 * kMiB;
  others_ = 161 * kMiB;
  EXPECT_EQ(update().l1_ceiling_bytes, 139 * kMiB);
}

TEST_F(Governed, IsPatientWhileWhatItAskedForDoesNotShow) {
  others_ = 115 * kMiB;
  const std::uint64_t ceiling = update().l1_ceiling_bytes;
  EXPECT_EQ(ceiling, kBudget - 15 * kMiB);
  EXPECT_EQ(update().l1_ceiling_bytes, ceiling);  // L1 is still evicting
  l1_ = ceiling;
  others_ += 15 * kMiB;  // and the allocator hasn't returned it yet
  EXPECT_EQ(update().l1_ceiling_bytes, ceiling);
  // What others take in addition counts at once.
  others_ += 7 * kMiB;
  EXPECT_EQ(update().l1_ceiling_bytes, ceiling - 7 * kMiB);
  EXPECT_EQ(shrinks_, 2u);
  l1_ = ceiling - 7 * kMiB;
  // It never showed: it was others' after all.
  EXPECT_LT(update(seconds(2)).l1_ceiling_bytes, ceiling - 7 * kMiB);
  EXPECT_EQ(shrinks_, 3u);
}

TEST_F(Governed, RegrowsSlowlyOnceItIsOver) {
  others_ = 150 * kMiB;
  obey(update());
  const std::uint64_t low = l1_;
  EXPECT_EQ(low, 150 * kMiB);
  others_ = 140 * kMiB;
  EXPECT_EQ(update().l1_ceiling_bytes, low + kBudget / 1000);
  EXPECT_EQ(update(seconds(1)).l1_ceiling_bytes, low + kBudget / 1000 + kBudget / 100);
  // A sample that came late is no reason to jump.
  EXPECT_EQ(update(seconds(60)).l1_ceiling_bytes, low + kBudget / 1000 + kBudget / 50);
  for (int i = 0; i < 1000; ++i) update();
  EXPECT_EQ(update().l1_ceiling_bytes, kBudget);
  EXPECT_EQ(shrinks_, 1u);
}

TEST_F(Governed, DoesNotSwing) {
  others_ = 150 * kMiB;
  for (int i = 0; i < 10'000; ++i) {
    obey(update());
    l1_ = std::min(kBudget, l1_ + kMiB / 4);  // it is filled as fast as it may
    l1_ = std::min(l1_, update().l1_ceiling_bytes);
  }
  EXPECT_EQ(shrinks_, 1u);
  EXPECT_GE(l1_ + others_, 300 * kMiB - kMiB);
}

TEST_F(Governed, LeavesL1ALittleWhateverOthersTake) {
  others_ = 400 * kMiB;
  obey(update());
  for (int i = 0; i < 100; ++i) obey(update());
  EXPECT_EQ(l1_, kBudget / 16);
  // And an L1 that is empty doesn't grow meanwhile.
  l1_ = 0;
  EXPECT_EQ(update().l1_ceiling_bytes, kBudget / 16);
}

}  // namespace
}  // namespace cistern::base
