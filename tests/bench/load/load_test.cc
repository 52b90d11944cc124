// The generator against the real servers: what it counts is what happened, and what is wrong is
// reported.
#include "tests/bench/load/load.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/support/redis_server.h"

namespace cistern::bench {
namespace {

using nlohmann::json;
using testing::Millis;

const Millis kPatience(10'000);

class Memcached {
 public:
  Memcached() {
    for (int attempt = 0; attempt < 5; ++attempt) {
      port_ = testing::free_port();
      process_ = std::make_unique<testing::Process>(std::vector<std::string>{
          "/usr/bin/memcached", "-u", "nobody", "-l", "127.0.0.1", "-p", std::to_string(port_),
          "-U", "0", "-t", "1", "-I", "16m", "-m", "64"});
      if (testing::eventually([&] { return answers() || !process_->running(); }, kPatience) &&
          process_->running()) {
        return;
      }
    }
    throw std::runtime_error("memcached does not start: " + process_->errors());
  }
  std::string endpoint() const { return "tcp://127.0.0.1:" + std::to_string(port_); }

 private:
  bool answers() const {
    try {
      connect_to(proto::Endpoint::tcp("127.0.0.1", port_), true);
      return true;
    } catch (const std::runtime_error&) {
      return false;
    }
  }
  std::uint16_t port_ = 0;
  std::unique_ptr<testing::Process> process_;
};

// Servers for all tests of a process, each started when it's first asked for: tests use keys of
// their own.
class Servers {
 public:
  testing::Daemon& cistern() {
    if (!cistern_) {
      testing::DaemonOptions options;
      options.config = "memory: {limit: 256MiB}\nl2: {kind: none}\n";
      options.server = "  workers: 1\n";
      cistern_.emplace(options);
    }
    return *cistern_;
  }
  testing::RedisServer& redis() { return redis_ ? *redis_ : redis_.emplace(); }
  Memcached& memcached() { return memcached_ ? *memcached_ : memcached_.emplace(); }

 private:
  std::optional<testing::Daemon> cistern_;
  std::optional<testing::RedisServer> redis_;
  std::optional<Memcached> memcached_;
};

class LoadTest : public ::testing::TestWithParam<std::string> {
 protected:
  static void SetUpTestSuite() { servers_ = std::make_unique<Servers>(); }
  static void TearDownTestSuite() { servers_.reset(); }

  static std::string endpoint() {
    if (GetParam() == "cistern") return servers_->cistern().endpoint();
    if (GetParam() == "cistern-unix") return servers_->cistern().unix_endpoint();
    if (GetParam() == "redis-unix") return "unix://" + servers_->redis().unix_path();
    if (GetParam() == "redis") return "tcp://127.0.0.1:" + std::to_string(servers_->redis().port());
    return servers_->memcached().endpoint();
  }
  static json with_server(json config) {
    config["system"] = GetParam().substr(0, GetParam().find('-'));
    config["endpoint"] = endpoint();
    return config;
  }
  static std::unique_ptr<Runner> make(const json& config) {
    return make_runner(parse_config(with_server(config).dump()));
  }
  static void expect_clean(const json& report) {
    EXPECT_EQ(report["errors"], 0) << report["first_error"];
    EXPECT_EQ(report["refused"], 0);
    EXPECT_EQ(report["latency_us"]["count"], report["operations"]);
  }

  static inline std::unique_ptr<Servers> servers_;
};

INSTANTIATE_TEST_SUITE_P(Systems, LoadTest,
                         ::testing::Values("cistern", "cistern-unix", "redis", "redis-unix",
                                           "memcached"),
                         [](const auto& tested) {
                           std::string name = tested.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST_P(LoadTest, CountsSmallValues) {
  const auto load = make({{"keys", 100},
                          {"key_prefix", "small" + GetParam()},
                          {"connections", 3},
                          {"depth", 4},
                          {"operations", 1000},
                          {"verify", "all"},
                          {"zipf", 0.99}});
  const json missed = load->run(1);
  expect_clean(missed);
  EXPECT_EQ(missed["misses"], 1000);
  EXPECT_EQ(missed["hits"], 0);
  const json filled = load->fill(0, 100);
  expect_clean(filled);
  EXPECT_EQ(filled["puts"], 100);
  EXPECT_EQ(filled["value_bytes"], 10'000);
  const json hit = load->run(1);
  expect_clean(hit);
  EXPECT_EQ(hit["operations"], 1000);
  EXPECT_EQ(hit["hits"], 1000);
  EXPECT_EQ(hit["value_bytes"], 100'000);
  EXPECT_GT(hit["bytes_in"].get<int>(), 100'000);
}

TEST_P(LoadTest, CountsLargeValues) {
  const auto load = make({{"keys", 3},
                          {"key_prefix", "large" + GetParam()},
                          {"connections", 2},
                          {"operations", 12},
                          {"verify", "all"},
                          {"value", {{"bytes", 5'000'001}}}});
  expect_clean(load->fill(0, 3));
  const json hit = load->run(1);
  expect_clean(hit);
  EXPECT_EQ(hit["hits"], 12);
  EXPECT_EQ(hit["value_bytes"], 12 * 5'000'001);
  EXPECT_EQ(hit["first_byte_us"]["count"], 12);
}

TEST_P(LoadTest, MixesSizesAndWrites) {
  const auto load = make({{"keys", 50},
                          {"key_prefix", "mixed" + GetParam()},
                          {"connections", 4},
                          {"depth", 3},
                          {"operations", 400},
                          {"verify", "all"},
                          {"value", {{"log_uniform", {1, 100'000}}}},
                          {"mix", {{"get", 1}, {"put", 1}}}});
  expect_clean(load->fill(0, 50));
  const json mixed = load->run(1);
  expect_clean(mixed);
  EXPECT_EQ(mixed["operations"], 400);
  EXPECT_EQ(mixed["hits"], mixed["gets"]);
  EXPECT_NEAR(mixed["puts"].get<double>(), 200, 60);
}

TEST_P(LoadTest, PutsWhatIsMissing) {
  const auto load = make({{"keys", 100},
                          {"key_prefix", "put" + GetParam()},
                          {"connections", 2},
                          {"sequential", true},
                          {"operations", 200},
                          {"put_on_miss", true},
                          {"ttl_ms", 60'000}});
  const json report = load->run(1);
  expect_clean(report);
  EXPECT_EQ(report["gets"], 200);
  EXPECT_GE(report["misses"], 100);
  EXPECT_EQ(report["puts"], report["misses"]);
  EXPECT_LE(report["misses"], 102);
}

TEST_P(LoadTest, ReportsWhatIsWrong) {
  const std::string prefix = "wrong" + GetParam();
  const json base = {{"key_prefix", prefix}, {"operations", 64}, {"keys", 1}};
  json longer = base;
  longer["value"] = {{"bytes", 101}};
  make(longer)->fill(0, 1);
  const auto reader = make(base);
  json report = reader->run(1);
  EXPECT_EQ(report["errors"], 64);
  EXPECT_NE(report["first_error"].get<std::string>().find("101 bytes arrived"), std::string::npos)
      << report["first_error"];
  // As long as it should be, but the bytes of another size class.
  json other = base;
  other["value"] = {{"log_uniform", {100, 1'000'000}}};
  const Corpus corpus(prefix, {100, 1'000'000});
  KeyIndex key = 0;
  while (corpus.size(key) != 100 && key < 1'000'000) ++key;
  ASSERT_EQ(corpus.size(key), 100u);
  make(other)->fill(key, key + 1);
  json same = base;
  same["first_key"] = key;
  same["verify"] = "all";
  report = make(same)->run(1);
  EXPECT_EQ(report["errors"], 64);
  EXPECT_NE(report["first_error"].get<std::string>().find("not those"), std::string::npos)
      << report["first_error"];
}

TEST_P(LoadTest, KeepsToARate) {
  const auto load =
      make({{"keys", 10}, {"key_prefix", "rate" + GetParam()}, {"connections", 2}, {"rate", 500}});
  expect_clean(load->fill(0, 10));
  const json report = load->run(0.4);
  expect_clean(report);
  // Never more than are due; fewer where this process was held up at the end.
  EXPECT_GE(report["operations"], 100);
  EXPECT_LE(report["operations"], 201);
}

TEST_P(LoadTest, ReadsSlowly) {
  const auto load = make({{"keys", 1},
                          {"key_prefix", "slow" + GetParam()},
                          {"connections", 2},
                          {"value", {{"bytes", 8'000'000}}},
                          {"read_bytes_per_second", 1'000'000}});
  load->fill(0, 1);
  for (int run = 0; run < 2; ++run) {
    const json report = load->run(0.3);
    EXPECT_EQ(report["errors"], 0) << report["first_error"];
    EXPECT_GE(report["bytes_in"], 2 * 60'000);
    EXPECT_LE(report["bytes_in"].get<double>(), 2e6 * report["seconds"].get<double>() + 100'000);
    EXPECT_LT(report["seconds"], 5);
  }
}

TEST_P(LoadTest, Churns) {
  const auto load = make({{"keys", 10},
                          {"key_prefix", "churn" + GetParam()},
                          {"connections", 3},
                          {"churn", true},
                          {"operations", 100}});
  expect_clean(load->fill(0, 10));
  const json report = load->run(1);
  expect_clean(report);
  EXPECT_EQ(report["hits"], 100);
}

TEST_P(LoadTest, RunsThroughLibraries) {
  for (const std::uint64_t bytes : {100u, 3'000'001u}) {
    json config = {{"keys", 5},
                   {"key_prefix", "library" + GetParam() + std::to_string(bytes)},
                   {"connections", 2},
                   {"operations", 20},
                   {"verify", "all"},
                   {"client", "library"},
                   {"value", {{"bytes", bytes}}}};
    expect_clean(make(config)->run(1));
    const json filled = make(config)->fill(0, 5);
    expect_clean(filled);
    EXPECT_EQ(filled["puts"], 5);
    for (const char* const client : {"library", "raw"}) {
      config["client"] = client;
      const json hit = make(config)->run(1);
      expect_clean(hit);
      EXPECT_EQ(hit["hits"], 20);
      EXPECT_EQ(hit["value_bytes"], 20 * bytes);
    }
    config["client"] = "library";
    config["value"] = {{"bytes", bytes + 1}};
    EXPECT_EQ(make(config)->run(1)["errors"], 20);
  }
}

TEST(ChunkLoad, ReadsWhatIsThere) {
  testing::RedisServer redis;
  const testing::TempDir dir;
  const std::string chunk(1000, 'x');
  {
    std::ofstream names(dir.file("names"));
    for (const std::string value : {"c:a:1:", "c:b:2:"}) {
      for (int i = 0; i < 7; ++i) {
        redis.command({"SET", value + std::to_string(i), chunk});
        names << value << i << "\n";
      }
    }
  }
  json config = {{"endpoint", "tcp://127.0.0.1:" + std::to_string(redis.port())},
                 {"chunk_keys_file", dir.file("names")},
                 {"operations", 30}};
  const auto run = [&](std::uint64_t bytes) {
    config["value"] = {{"bytes", bytes}};
    return make_runner(parse_config(config.dump()))->run(1);
  };
  for (const char* const system : {"redis-chunks", "hiredis-chunks"}) {
    config["system"] = system;
    for (const unsigned ahead : {1u, 4u, 100u}) {
      config["chunk_reads"] = ahead;
      const json whole = run(6990);
      EXPECT_EQ(whole["errors"], 0) << whole["first_error"];
      EXPECT_EQ(whole["hits"], 30);
      EXPECT_EQ(whole["value_bytes"], 30 * 6990);
      EXPECT_EQ(whole["bytes_in"], 30 * 7000);
      EXPECT_EQ(run(990)["bytes_in"], 30 * 1000);
      EXPECT_EQ(run(8000)["errors"], 30);
    }
  }
  redis.command({"DEL", "c:b:2:6"});
  EXPECT_THROW(run(6990), std::runtime_error);
}

TEST(LoadWithoutServer, SaysThatNobodyIsThere) {
  for (const std::string& endpoint : {"tcp://127.0.0.1:" + std::to_string(testing::free_port()),
                                      std::string("unix:///nowhere")}) {
    const json config = {{"system", "redis"}, {"endpoint", endpoint}};
    try {
      Load load(parse_config(config.dump()));
      ADD_FAILURE() << "connected to " << endpoint;
    } catch (const std::runtime_error& error) {
      EXPECT_NE(std::string(error.what()).find("cannot connect to " + endpoint), std::string::npos)
          << error.what();
    }
  }
}

TEST(LoadProgram, ObeysLines) {
  const testing::RedisServer redis;
  const testing::TempDir dir;
  std::ofstream(dir.file("lines")) << "fill\nrun 0.05\npin 0\nnonsense\nrun x\nquit\n";
  const json config = {{"system", "redis"},
                       {"endpoint", "tcp://127.0.0.1:" + std::to_string(redis.port())},
                       {"keys", 10}};
  const int lines = open(dir.file("lines").c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_GE(lines, 0);
  testing::ProcessOptions options;
  options.stdin_fd = lines;
  const testing::Finished finished =
      testing::run({testing::program("cistern-load"), config.dump()}, kPatience, options);
  close(lines);
  EXPECT_EQ(finished.status, 0) << finished.errors;
  std::istringstream output(finished.output);
  std::vector<json> answers;
  for (std::string line; std::getline(output, line);) answers.push_back(json::parse(line));
  ASSERT_EQ(answers.size(), 6u) << finished.output;
  EXPECT_EQ(answers[0]["ready"], true);
  EXPECT_EQ(answers[1]["puts"], 10);
  EXPECT_GT(answers[2]["hits"], 0);
  EXPECT_EQ(answers[3]["pinned"], 0);
  EXPECT_TRUE(answers[4].contains("error"));
  EXPECT_TRUE(answers[5].contains("error"));
}

}  // namespace
}  // namespace cistern::bench
