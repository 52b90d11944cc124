// A value far larger than the daemon's memory limit, from a file through the daemon into Redis or
// memcached and back; and what the daemon does with large values when it is alone.
#include <fcntl.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/support/daemon.h"
#include "tests/support/files.h"
#include "tests/support/memcached_server.h"
#include "tests/support/redis_server.h"

namespace cistern::testing {
namespace {

constexpr std::uint64_t kMiB = 1024 * 1024;
constexpr std::uint64_t kLimitBytes = 256 * kMiB;
constexpr std::uint64_t kCommandLimitBytes = 48 * kMiB;
constexpr std::uint64_t kFlatBytes = 8 * kMiB;
const Millis kPatience(600'000);

#ifdef CISTERN_SANITIZED
// A sanitizer multiplies memory: sizes are small and no bound on memory is judged.
constexpr bool kJudgeMemory = false;
constexpr std::uint64_t kBigBytes = 96 * kMiB;
constexpr std::uint64_t kSmallerBytes = 32 * kMiB;
#else
constexpr bool kJudgeMemory = true;
constexpr std::uint64_t kBigBytes = 4096 * kMiB;
constexpr std::uint64_t kSmallerBytes = 256 * kMiB;
#endif

class BigValue : public ::testing::Test {
 protected:
  void start(const std::string& l2) {
    if (kJudgeMemory) cgroup_ = Cgroup::create(kLimitBytes);
    DaemonOptions options;
    options.config = "l1: {max_bytes: 128MiB}\n" + l2;
    options.cgroup = cgroup_.get();
    daemon_ = std::make_unique<Daemon>(options);
  }

  // What the daemon took at most, and whether it was ever killed.
  void check_daemon_memory() {
    ASSERT_TRUE(daemon_->process().running()) << daemon_->process().errors();
    if (!kJudgeMemory) return;
    const std::uint64_t peak = daemon_->process().status_bytes("VmHWM");
    RecordProperty("daemon_peak_mib", static_cast<int>(peak / kMiB));
    std::printf("daemon: VmHWM %.1f MiB", static_cast<double>(peak) / kMiB);
    EXPECT_LT(peak, kLimitBytes);
    if (cgroup_) {
      const std::uint64_t usage = cgroup_->max_usage_bytes();
      const std::uint64_t cache = cgroup_->file_cache_bytes();
      std::printf(", cgroup max usage %.1f MiB of which page cache %.1f MiB",
                  static_cast<double>(usage) / kMiB, static_cast<double>(cache) / kMiB);
      EXPECT_LT(usage, kLimitBytes + cache);
      EXPECT_EQ(cgroup_->oom_kills(), 0u);
    }
    std::printf("\n");
  }

  // Puts and gets `path`, compares, and returns the larger of the command's two peaks.
  std::uint64_t round_trip(const std::string& endpoint, const std::string& path) {
    const std::string key = "big:" + path;
    const std::string back = dir_.file("back");
    const Finished put = cistern(endpoint, {"put", key, path}, kPatience);
    EXPECT_EQ(put.status, 0) << put.errors;
    const Finished get = cistern(endpoint, {"get", key, "-o", back}, kPatience);
    EXPECT_EQ(get.status, 0) << get.errors;
    EXPECT_EQ(difference(path, back), "");
    std::filesystem::remove(back);
    const std::uint64_t peak = std::max(put.max_resident_bytes, get.max_resident_bytes);
    std::printf("command over %s: %.1f MiB at most for %.0f MiB\n", endpoint.substr(0, 4).c_str(),
                static_cast<double>(peak) / kMiB, static_cast<double>(size_of(path)) / kMiB);
    if (kJudgeMemory) {
      EXPECT_LT(peak, kCommandLimitBytes);
    }
    return peak;
  }

  TempDir dir_;
  std::unique_ptr<Cgroup> cgroup_;
  std::unique_ptr<Daemon> daemon_;
};

TEST_F(BigValue, GoesThroughRedisAndBackInBoundedMemory) {
  RedisServer redis;
  start("l2: {kind: redis, redis: {url: \"" + redis.url() + "\"}}\n");
  const std::string big = dir_.file("big");
  const std::string smaller = dir_.file("smaller");
  make_random_file(big, kBigBytes, 1);
  make_random_file(smaller, kSmallerBytes, 2);

  const std::uint64_t for_smaller = round_trip(daemon_->endpoint(), smaller);
  const std::uint64_t for_big = round_trip(daemon_->endpoint(), big);
  if (kJudgeMemory) {
    EXPECT_LT(for_big, for_smaller + kFlatBytes);
    EXPECT_LT(for_smaller, for_big + kFlatBytes);
  }
  check_daemon_memory();

  // Over the unix socket, from and to a pipe. The key is new: `put -` must not need the size.
  const std::string back = dir_.file("back");
  const int in = open(big.c_str(), O_RDONLY | O_CLOEXEC);
  int pipe_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
  Process cat({"/bin/cat"}, {.environment = {}, .stdin_fd = in, .stdout_fd = pipe_ends[1]});
  close(pipe_ends[1]);
  const Finished put = cistern(daemon_->unix_endpoint(), {"put", "piped", "-"}, kPatience,
                               {.environment = {}, .stdin_fd = pipe_ends[0]});
  close(pipe_ends[0]);
  close(in);
  EXPECT_EQ(put.status, 0) << put.errors;
  const int out = open(back.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  const Finished get = cistern(daemon_->unix_endpoint(), {"get", "piped"}, kPatience,
                               {.environment = {}, .stdout_fd = out});
  close(out);
  EXPECT_EQ(get.status, 0) << get.errors;
  EXPECT_EQ(difference(big, back), "");
  if (kJudgeMemory) {
    EXPECT_LT(put.max_resident_bytes, kCommandLimitBytes);
    EXPECT_LT(get.max_resident_bytes, kCommandLimitBytes);
  }
  check_daemon_memory();
  EXPECT_EQ(daemon_->stop(), 0);
}

// Past an item limit of 1 MiB, which is memcached's default.
TEST_F(BigValue, GoesThroughMemcachedAndBackInBoundedMemory) {
  MemcachedServer memcached({"-m", "8192"});
  start("l2: {kind: memcached, memcached: {servers: [\"" + memcached.address() + "\"]}}\n");
  const std::string big = dir_.file("big");
  make_random_file(big, kBigBytes, 1);
  round_trip(daemon_->endpoint(), big);
  check_daemon_memory();
  EXPECT_EQ(daemon_->stop(), 0);
}

TEST_F(BigValue, AloneKeepsWhatFitsAndRefusesTheRestBeforeItsPayload) {
  start("l2: {kind: none}\n");
  const std::string fits = dir_.file("fits");
  const std::string too_large = dir_.file("too-large");
  make_random_file(fits, 64 * kMiB, 3);
  make_random_file(too_large, 200 * kMiB, 4);
  round_trip(daemon_->endpoint(), fits);

  const double evicted = daemon_->metric("cistern_l1_evictions_total");
  const double received = daemon_->metric("cistern_received_bytes_total");
  const Finished put = cistern(daemon_->endpoint(), {"put", "other", too_large});
  EXPECT_EQ(put.status, 3) << put.errors;
  EXPECT_NE(put.errors.find("209715200"), std::string::npos) << put.errors;
  EXPECT_NE(put.errors.find("134217728"), std::string::npos) << put.errors;
  EXPECT_NE(put.errors.find("l1.max_bytes"), std::string::npos) << put.errors;
  EXPECT_LT(daemon_->metric("cistern_received_bytes_total") - received, 4096);
  EXPECT_EQ(daemon_->metric("cistern_l1_evictions_total"), evicted);

  const std::string back = dir_.file("back");
  const Finished get = cistern(daemon_->endpoint(), {"get", "big:" + fits, "-o", back});
  EXPECT_EQ(get.status, 0) << get.errors;
  EXPECT_EQ(difference(fits, back), "");
  check_daemon_memory();
  EXPECT_EQ(daemon_->stop(), 0);
}

}  // namespace
}  // namespace cistern::testing
