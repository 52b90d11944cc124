// The programs as a user meets them: arguments, exit statuses, messages.
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/support/files.h"
#include "tests/support/redis_server.h"

namespace cistern::testing {
namespace {

using namespace std::string_literals;
using ::testing::HasSubstr;
using ::testing::Not;
const Millis kPatience(60'000);

Finished cisternd(std::vector<std::string> arguments, const ProcessOptions& options = {}) {
  arguments.insert(arguments.begin(), program("cisternd"));
  return run(std::move(arguments), kPatience, options);
}

std::string write_file(const TempDir& dir, const std::string& name, const std::string& text) {
  std::ofstream(dir.file(name)) << text;
  return dir.file(name);
}

TEST(Cisternd, TellsItsVersionAndItsUsage) {
  EXPECT_EQ(cisternd({"--version"}).status, 0);
  const Finished help = cisternd({"--help"});
  EXPECT_EQ(help.status, 0);
  EXPECT_THAT(help.output, HasSubstr("--check-config"));
}

TEST(Cisternd, NamesEveryFaultOfAConfigurationAndDoesNotStart) {
  TempDir dir;
  const std::string config = write_file(dir, "bad.yaml",
                                        "server:\n  listen: [\"tcp://127.0.0.1:0\"]\n"
                                        "  workerz: 2\n"
                                        "l1: {max_bytes: lots}\n"
                                        "limits:\n  max_key_bytes: 1GiB\n");
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"--config", config},
        std::vector<std::string>{"--config", config, "--check-config"}}) {
    const Finished finished = cisternd(arguments);
    EXPECT_EQ(finished.status, 2);
    const std::string said = finished.errors + finished.output;
    EXPECT_THAT(said, HasSubstr("bad.yaml:3"));
    EXPECT_THAT(said, HasSubstr("workerz"));
    EXPECT_THAT(said, HasSubstr("bad.yaml:4"));
    EXPECT_THAT(said, HasSubstr("l1.max_bytes"));
    EXPECT_THAT(said, HasSubstr("bad.yaml:6"));
    EXPECT_THAT(said, HasSubstr("limits.max_key_bytes"));
    EXPECT_THAT(said, Not(HasSubstr("listening")));
  }
}

TEST(Cisternd, PrintsTheEffectiveConfigurationWithoutSecrets) {
  TempDir dir;
  const std::string config =
      write_file(dir, "c.yaml",
                 "l2: {kind: redis, redis: {url: \"redis://user:${SECRET}@localhost:6379/0\"}}\n");
  ProcessOptions options;
  options.environment = {{"SECRET", "hunter2"}, {"CISTERN_SERVER_DRAIN_TIMEOUT", "7s"}};
  const Finished finished = cisternd({"--config", config, "--print-config"}, options);
  EXPECT_EQ(finished.status, 0) << finished.errors;
  EXPECT_THAT(finished.output, HasSubstr("drain_timeout: 7s"));
  EXPECT_THAT(finished.output, HasSubstr("localhost:6379"));
  EXPECT_THAT(finished.output + finished.errors, Not(HasSubstr("hunter2")));
}

TEST(Cisternd, ChecksTheExampleConfiguration) {
  const Finished finished =
      cisternd({"--config", std::string(CISTERN_SOURCE_DIR) + "/config/cistern.example.yaml",
                "--check-config"});
  EXPECT_EQ(finished.status, 0) << finished.errors;
}

TEST(Cisternd, DoesNotShareAPort) {
  Daemon first({});
  TempDir dir;
  const std::string config = write_file(
      dir, "c.yaml",
      "server: {listen: [\"" + first.endpoint() + "\"]}\nadmin: {listen: \"127.0.0.1:0\"}\n");
  const Finished second = cisternd({"--config", config});
  EXPECT_NE(second.status, 0);
  EXPECT_THAT(second.errors, HasSubstr(first.endpoint().substr(6)));
  EXPECT_EQ(cistern(first.endpoint(), {"ping"}).status, 0);
}

TEST(Cisternd, SaysThatItIsNotReadyWhileRedisIsAway) {
  RedisServer redis;
  Daemon daemon(
      {.config = "l2: {kind: redis, redis: {url: \"" + redis.url() + "\"}}\n", .server = {}});
  EXPECT_TRUE(eventually([&] { return daemon.admin_status("/readyz") == 200; }, kPatience));
  redis.kill();
  EXPECT_TRUE(eventually([&] { return daemon.admin_status("/readyz") == 503; }, kPatience));
  EXPECT_EQ(daemon.admin_status("/healthz"), 200);
  redis.start();
  EXPECT_TRUE(eventually([&] { return daemon.admin_status("/readyz") == 200; }, kPatience));
  EXPECT_EQ(daemon.stop(), 0);
}

TEST(Cisternd, TakesTheLoginForRedisFromAFile) {
  RedisServer redis({"--requirepass", "admin's"});
  redis.command({"ACL", "SETUSER", "app", "on", ">s3cret", "~cistern:*", "+@all"});
  TempDir dir;
  const std::string file = write_file(dir, "password", "s3cret\n");
  const auto config = [&](const std::string& login) {
    return "l2: {kind: redis, redis: {url: \"redis://127.0.0.1:" + std::to_string(redis.port()) +
           "\", " + login + "}}\n";
  };
  Daemon daemon({.config = config("user: app, password_file: \"" + file + "\""), .server = {}});
  EXPECT_TRUE(eventually([&] { return daemon.admin_status("/readyz") == 200; }, kPatience))
      << daemon.admin("/readyz");
  for (const std::string& login : {"password_file: \"" + dir.file("nowhere") + "\"", "user: app"s,
                                   "password_file: \"" + write_file(dir, "empty", "\n") + "\""}) {
    const std::string bad = write_file(dir, "bad.yaml", config(login));
    const Finished refused = cisternd({"--config", bad, "--check-config"});
    EXPECT_EQ(refused.status, 2) << login;
    EXPECT_THAT(refused.errors, HasSubstr("l2.redis.password_file")) << login;
  }
}

TEST(Command, AnswersWithTheExitStatusThatItPromises) {
  RedisServer redis;
  Daemon daemon({.config = "limits: {max_value_bytes: 1MiB}\n"
                           "l2: {kind: redis, redis: {url: \"" +
                           redis.url() + "\"}}\n",
                 .server = {}});
  const std::string& endpoint = daemon.endpoint();
  TempDir dir;
  const std::string small = write_file(dir, "small", "some bytes");
  const std::string large = dir.file("large");
  make_random_file(large, 2 * 1024 * 1024, 1);

  EXPECT_EQ(cistern(endpoint, {"put", "key", small, "--ttl", "1h", "--meta", "a=b"}).status, 0);
  const Finished stat = cistern(endpoint, {"stat", "key", "--json"});
  EXPECT_EQ(stat.status, 0);
  const nlohmann::json info = nlohmann::json::parse(stat.output);
  EXPECT_EQ(info["size"], 10);
  EXPECT_THAT(stat.output, HasSubstr("\"a\""));
  EXPECT_EQ(cistern(endpoint, {"get", "key"}).output, "some bytes");
  EXPECT_EQ(cistern(endpoint, {"get", "key", "--range", "5-6"}).output, "by");
  EXPECT_EQ(cistern(endpoint, {"touch", "key", "--ttl", "2h"}).status, 0);
  EXPECT_EQ(cistern(endpoint, {"stats"}).status, 0);

  EXPECT_EQ(cistern(endpoint, {"get", "absent"}).status, 1);
  EXPECT_EQ(cistern(endpoint, {"rm", "absent"}).status, 1);
  EXPECT_EQ(cistern(endpoint, {"put"}).status, 2);
  EXPECT_EQ(cistern(endpoint, {"get", "key", "--range", "nonsense"}).status, 2);
  EXPECT_EQ(cistern(endpoint, {"put", "key", small, "--if-absent"}).status, 3);
  EXPECT_EQ(cistern(endpoint, {"get", "key"}).output, "some bytes");

  // Too large for ever: the owner meant to replace the older value, so it goes.
  const Finished refused = cistern(endpoint, {"put", "key", large});
  EXPECT_EQ(refused.status, 3);
  EXPECT_THAT(refused.errors, HasSubstr("limits.max_value_bytes"));
  EXPECT_THAT(refused.errors, HasSubstr("2097152"));
  EXPECT_EQ(cistern(endpoint, {"get", "key"}).status, 1);

  EXPECT_EQ(cistern(endpoint, {"put", "key", small}).status, 0);
  EXPECT_EQ(cistern(endpoint, {"rm", "key"}).status, 0);
  redis.kill();
  EXPECT_EQ(cistern(endpoint, {"get", "key"}).status, 4);
  daemon.stop();
  EXPECT_EQ(cistern(endpoint, {"get", "key"}).status, 4);
}

TEST(Command, APartialDownloadNeverTakesTheTargetsName) {
  RedisServer redis;
  Daemon daemon({.config = "l1: {max_bytes: 4MiB}\nl2: {kind: redis, redis: {url: \"" +
                           redis.url() + "\"}}\n",
                 .server = {}});
  TempDir dir;
  const std::string source = dir.file("source");
  const std::string target = dir.file("out") + "/target";
  std::filesystem::create_directory(dir.file("out"));
  make_random_file(source, 12 * 1024 * 1024, 1);
  ASSERT_EQ(cistern(daemon.endpoint(), {"put", "key", source}).status, 0);
  std::ofstream(target) << "what was there";
  // The last chunk is gone: the value is lost half-way through the download.
  const std::vector<std::string> chunks = redis.keys("cistern:c:*");
  ASSERT_FALSE(chunks.empty());
  redis.command({"DEL", chunks.back()});
  const Finished get = cistern(daemon.endpoint(), {"get", "key", "-o", target});
  EXPECT_EQ(get.status, 4) << get.errors;
  std::ifstream in(target);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(in), {}), "what was there");
  for (const auto& entry : std::filesystem::directory_iterator(dir.file("out"))) {
    EXPECT_EQ(entry.path().filename(), "target");
  }
  // And so it's gone, cleanly.
  EXPECT_EQ(cistern(daemon.endpoint(), {"get", "key", "-o", target}).status, 1);
}

TEST(Examples, Run) {
  Daemon daemon({});
  const Finished blocking = run({program("example_blocking"), daemon.endpoint()}, kPatience);
  EXPECT_EQ(blocking.status, 0) << blocking.errors;
  EXPECT_THAT(blocking.output, HasSubstr("Hello from Cistern"));
  EXPECT_THAT(blocking.output, HasSubstr("stored 5000000 bytes, read 5000000"));
  const Finished async = run({program("example_async"), daemon.unix_endpoint()}, kPatience);
  EXPECT_EQ(async.status, 0) << async.errors;
  EXPECT_THAT(async.output, HasSubstr("copied 3000000 bytes"));
}

}  // namespace
}  // namespace cistern::testing
