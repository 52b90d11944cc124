// Two daemons on one Redis or memcached, eight clients that write and read through both: what a
// daemon serves is never further behind the other's acknowledged writes than l1.max_staleness, and
// never behind its own, whatever becomes of the channel by which Redis tells it of them.
#include <atomic>
#include <cstdlib>
#include <functional>
#include <future>
#include <random>

#include <gtest/gtest.h>

#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/support/memcached_server.h"
#include "tests/support/redis_server.h"
#include "tests/support/workload.h"

namespace cistern::testing {
namespace {

using namespace std::chrono_literals;

// CISTERN_TEST_SECONDS and CISTERN_TEST_SEED repeat a run, or make it longer.
int from_environment(const char* name, int otherwise) {
  const char* const text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoi(text);
}

std::uint64_t seed_of_this_run() {
  const int given = from_environment("CISTERN_TEST_SEED", 0);
  return given != 0 ? static_cast<std::uint64_t>(given) : std::random_device{}() % 1'000'000 + 1;
}

struct Scene {
  std::unique_ptr<RedisServer> redis;  // one of the two
  std::unique_ptr<MemcachedServer> memcached;
  std::vector<std::unique_ptr<Daemon>> daemons;

  double losses() const {
    double sum = 0;
    for (const auto& daemon : daemons) sum += daemon->metric("cistern_l2_channel_losses_total");
    return sum;
  }
  double up() const {
    double sum = 0;
    for (const auto& daemon : daemons) sum += daemon->metric("cistern_l2_channel_up");
    return sum;
  }
};

// Ends the connections whose flags in CLIENT LIST have this letter: t, those that track; P,
// subscribers.
void kill_clients(RedisServer& redis, char flag) {
  const RedisReply list = redis.command({"CLIENT", "LIST"});
  std::istringstream lines(list.text);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t flags = line.find(" flags=");
    const std::string letters = line.substr(flags + 7, line.find(' ', flags + 1) - flags - 7);
    if (letters.find(flag) == std::string::npos) continue;
    redis.command({"CLIENT", "KILL", "ID", line.substr(3, line.find(' ') - 3)});
  }
}

struct Case {
  const char* name;
  bool memcached = false;
  const char* redis_settings = "";  // of l2.redis, beside the url
  const char* user = "";      // an ACL's rules, beside the password; empty: Redis' default user
  bool channel_works = true;  // at the beginning
  bool values_may_be_lost = false;
  // Called again and again while the clients work.
  std::function<void(Scene&)> havoc = nullptr;
  double losses_at_least = 0;
};
void PrintTo(const Case& which, std::ostream* out) { *out << which.name; }

constexpr auto kBound = 500ms;

struct Outcome {
  WorkloadResult result;
  std::vector<std::string> violations;
};

// The section l2's store, for a server of its own.
std::string start_store(const Case& param, Scene& scene) {
  if (param.memcached) {
    // With room for all that is written; what it has it may still evict.
    scene.memcached = std::make_unique<MemcachedServer>(std::vector<std::string>{"-m", "1024"});
    return "kind: memcached, memcached: {op_timeout: 1s, servers: [\"" +
           scene.memcached->address() + "\"]}";
  }
  scene.redis = std::make_unique<RedisServer>();
  std::string url = scene.redis->url();
  if (*param.user != '\0') {
    std::vector<std::string> words = {"ACL", "SETUSER", "app", "on", ">pw"};
    std::istringstream rules(param.user);
    for (std::string rule; rules >> rule;) words.push_back(rule);
    EXPECT_FALSE(scene.redis->command(words).is_error());
    url.insert(url.find("//") + 2, "app:pw@");
  }
  return "kind: redis, redis: {op_timeout: 1s, url: \"" + url + "\"" + param.redis_settings + "}";
}

// `max_staleness` is what the daemons are told, kBound what they are judged by.
Outcome run(const Case& param, const std::string& max_staleness) {
  Scene scene;
  DaemonOptions options;
  options.server = "  workers: 2\n";
  options.config = "l1: {max_bytes: 64MiB, max_staleness: " + max_staleness +
                   "}\nl2: {on_stale: error, replace_grace: 2s, " + start_store(param, scene) +
                   "}\n";
  WorkloadOptions work;
  for (int i = 0; i < 2; ++i) {
    scene.daemons.push_back(std::make_unique<Daemon>(options));
    work.endpoints.push_back(scene.daemons.back()->endpoint());
  }
  if (param.channel_works) {
    EXPECT_TRUE(eventually([&] { return scene.up() == 2; }, 20s)) << "the channels are not up";
  }
  work.seed = seed_of_this_run();
  // So many that what a daemon has of one is often older than the bound.
  work.keys = 1000;
  work.max_value_bytes = 64 * 1024;
  work.duration = std::chrono::seconds(from_environment("CISTERN_TEST_SECONDS", 5));
  work.absent_is_allowed = param.values_may_be_lost;
  work.staleness = kBound;
  std::printf("seed %llu\n", static_cast<unsigned long long>(work.seed));

  auto running = std::async(std::launch::async, [&] { return run_workload(work); });
  while (running.wait_for(300ms) != std::future_status::ready) {
    if (param.havoc) param.havoc(scene);
  }
  Outcome outcome{running.get(), {}};
  outcome.violations = outcome.result.violations();
  std::printf("%s\n", outcome.result.summary().c_str());
  EXPECT_GE(scene.losses(), param.losses_at_least);
  if (param.channel_works) {
    EXPECT_TRUE(eventually([&] { return scene.up() == 2; }, 20s)) << "the channels didn't return";
  } else {
    EXPECT_EQ(scene.up(), 0);
  }
  for (const auto& daemon : scene.daemons) {
    EXPECT_GT(daemon->metric("cistern_l1_hits_total"), 20) << "L1 was not in play";
    std::printf("proofs: %.0f current, %.0f changed; %.0f hits\n",
                daemon->metric("cistern_l1_proofs_current_total"),
                daemon->metric("cistern_l1_proofs_changed_total"),
                daemon->metric("cistern_l1_hits_total"));
    EXPECT_EQ(daemon->stop(), 0) << daemon->process().errors();
  }
  return outcome;
}

class Coherence : public ::testing::TestWithParam<Case> {};

TEST_P(Coherence, NothingIsOlderThanTheBound) {
  const Outcome outcome = run(GetParam(), "500ms");
  for (std::size_t i = 0; i < outcome.violations.size() && i < 20; ++i) {
    ADD_FAILURE() << outcome.violations[i];
  }
  EXPECT_EQ(outcome.violations.size(), 0u);
  EXPECT_GT(outcome.result.done.at("get"), 100u);
  EXPECT_GT(outcome.result.done.at("put"), 50u);
}

// One cycle of Redis' with more names than its buffer for a subscriber holds.
void overrun(Scene& scene) {
  scene.redis->command({"CONFIG", "SET", "client-output-buffer-limit", "pubsub 262144 0 0"});
  scene.redis->command({"EVAL",
                        "for i = 1, 20000 do redis.call('SET', 'cistern:m:flood' .. i, 'x', 'PX', "
                        "'1000') end",
                        "0"});
}

std::function<void(Scene&)> once(std::function<void(Scene&)> havoc) {
  return [havoc = std::move(havoc), done = std::make_shared<bool>(false)](Scene& scene) {
    if (!std::exchange(*done, true)) havoc(scene);
  };
}

INSTANTIATE_TEST_SUITE_P(Memcached, Coherence,
                         ::testing::Values(Case{.name = "Undisturbed",
                                                .memcached = true,
                                                .channel_works = false,
                                                .values_may_be_lost = true},
                                           Case{.name = "Restarted",
                                                .memcached = true,
                                                .channel_works = false,
                                                .values_may_be_lost = true,
                                                .havoc = once([](Scene& scene) {
                                                  scene.memcached->kill();
                                                  scene.memcached->start();
                                                })}),
                         [](const auto& instance) { return std::string(instance.param.name); });

INSTANTIATE_TEST_SUITE_P(
    Redis, Coherence,
    ::testing::Values(
        Case{.name = "Undisturbed"},
        Case{.name = "WithoutInvalidations",
             .redis_settings = ", invalidation: none",
             .channel_works = false},
        Case{.name = "TrackerKilled",
             .havoc = [](Scene& scene) { kill_clients(*scene.redis, 't'); },
             .losses_at_least = 2},
        Case{.name = "SubscriberKilled",
             .havoc = [](Scene& scene) { kill_clients(*scene.redis, 'P'); },
             .losses_at_least = 2},
        Case{.name = "SubscribersBufferOverrun", .havoc = once(overrun), .losses_at_least = 2},
        Case{.name = "TrackingForbidden",
             .user = "~* &* +@all -client|tracking",
             .channel_works = false},
        Case{.name = "RedisRestarted",
             .values_may_be_lost = true,
             .havoc = once([](Scene& scene) {
               scene.redis->stop();
               scene.redis->start();
             }),
             .losses_at_least = 2}),
    [](const auto& instance) { return std::string(instance.param.name); });

// What judges them finds a daemon that isn't told, and believes what it has for an hour.
TEST(CoherenceChecker, FindsADaemonThatIsNotToldOfWrites) {
  const Outcome outcome =
      run(Case{.name = "", .redis_settings = ", invalidation: none", .channel_works = false}, "1h");
  EXPECT_GT(outcome.violations.size(), 0u);
  std::printf("%zu violations\n", outcome.violations.size());
  EXPECT_TRUE(outcome.result.wrong.empty());
}

}  // namespace
}  // namespace cistern::testing
