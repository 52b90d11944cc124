// Eight clients at once, on few keys and on many, alone and with a Redis whose replies are late: no
// read is ever wrong or stale, and the books balance.
#include <atomic>
#include <cstdlib>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "tests/support/daemon.h"
#include "tests/support/proxy.h"
#include "tests/support/redis_server.h"
#include "tests/support/workload.h"

namespace cistern::testing {
namespace {

constexpr std::uint64_t kMiB = 1024 * 1024;
constexpr std::uint64_t kBudgetBytes = 64 * kMiB;
#ifdef CISTERN_SANITIZED
constexpr bool kJudgeMemory = false;
constexpr int kDefaultSeconds = 12;
#else
constexpr bool kJudgeMemory = true;
constexpr int kDefaultSeconds = 60;
#endif

// CISTERN_TEST_SECONDS and CISTERN_TEST_SEED repeat a run, or make it longer.
int from_environment(const char* name, int otherwise) {
  const char* const text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoi(text);
}

std::uint64_t seed_of_this_run() {
  const int given = from_environment("CISTERN_TEST_SEED", 0);
  return given != 0 ? static_cast<std::uint64_t>(given) : std::random_device{}() % 1'000'000 + 1;
}

// Looks at the budget all the while.
class Watch {
 public:
  explicit Watch(const Daemon& daemon)
      : thread_([this, &daemon] {
          while (!stop_.load()) {
            const auto used = static_cast<std::uint64_t>(daemon.metric("cistern_l1_bytes"));
            highest_.store(std::max(highest_.load(), used));
            std::this_thread::sleep_for(Millis(50));  // the pace of the looks, not a wait
          }
        }) {}
  std::uint64_t stop() {
    stop_.store(true);
    thread_.join();
    return highest_.load();
  }

 private:
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> highest_{0};
  std::thread thread_;
};

struct Case {
  const char* name;
  bool redis;
  unsigned keys;
};

// What a test's name shows.
void PrintTo(const Case& which, std::ostream* out) { *out << which.name; }

class Consistency : public ::testing::TestWithParam<Case> {};

TEST_P(Consistency, EveryReadIsWholeAndNotStale) {
  const Case& param = GetParam();
  std::unique_ptr<RedisServer> redis;
  std::unique_ptr<Proxy> proxy;
  DaemonOptions options;
  options.server = "  workers: 2\n";
  options.config = "l1: {max_bytes: 64MiB}\n";
  WorkloadOptions work;
  work.seed = seed_of_this_run();
  if (param.redis) {
    redis = std::make_unique<RedisServer>();
    proxy = std::make_unique<Proxy>(redis->port());
    proxy->delay_replies(Millis(0), Millis(3), work.seed);
    options.config += "l2: {kind: redis, replace_grace: 2s, redis: {url: \"redis://127.0.0.1:" +
                      std::to_string(proxy->port()) + "/0\"}}\n";
  }
  Daemon daemon(options);
  work.endpoints = {daemon.endpoint(), daemon.unix_endpoint()};
  work.keys = param.keys;
  work.duration = std::chrono::seconds(from_environment("CISTERN_TEST_SECONDS", kDefaultSeconds));
  // Alone, what is evicted is gone.
  work.absent_is_allowed = !param.redis;
  std::printf("seed %llu\n", static_cast<unsigned long long>(work.seed));

  Watch watch(daemon);
  const WorkloadResult result = run_workload(work);
  const std::uint64_t highest = watch.stop();
  std::printf("%s\n", result.summary().c_str());

  const std::vector<std::string> violations = result.violations();
  for (std::size_t i = 0; i < violations.size() && i < 20; ++i) ADD_FAILURE() << violations[i];
  EXPECT_EQ(violations.size(), 0u);
  // Most operations succeed; what fails does so for want of room or of a condition that holds.
  for (const auto& [what, count] : result.failed) {
    const bool expected = what.ends_with("CONDITION_FAILED") || what.ends_with("NO_ROOM") ||
                          what.ends_with("EVICTED");
    EXPECT_TRUE(expected) << count << " times " << what;
  }
  EXPECT_GT(result.done.at("get"), 100u);
  EXPECT_GT(result.done.at("put"), 100u);

  EXPECT_LE(highest, kBudgetBytes);
  if (kJudgeMemory) {
    EXPECT_LE(daemon.process().status_bytes("VmHWM"), kBudgetBytes + 64 * kMiB);
  }
  EXPECT_EQ(daemon.metric("cistern_l1_inserted_total"),
            daemon.metric("cistern_l1_items") + daemon.metric("cistern_l1_removed_total"));
  EXPECT_EQ(daemon.stop(), 0) << daemon.process().errors();
}

INSTANTIATE_TEST_SUITE_P(Cases, Consistency,
                         ::testing::Values(Case{"AloneFewKeys", false, 8},
                                           Case{"AloneManyKeys", false, 10'000},
                                           Case{"RedisFewKeys", true, 8},
                                           Case{"RedisManyKeys", true, 10'000}),
                         [](const auto& instance) { return std::string(instance.param.name); });

}  // namespace
}  // namespace cistern::testing
