// What is read, and what every kind of mistake is answered with: file, line, setting, found,
// expected.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "config/config.h"

namespace cistern::config {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

Config good(const std::string& yaml, const Environment& environment = {}) {
  const Result result = load_text(yaml, "c.yaml", environment);
  if (result) return *result;
  for (const Problem& problem : result.error()) ADD_FAILURE() << to_string(problem);
  return {};
}

std::vector<std::string> bad(const std::string& yaml, const Environment& environment = {}) {
  const Result result = load_text(yaml, "c.yaml", environment);
  std::vector<std::string> messages;
  if (!result) {
    for (const Problem& problem : result.error()) messages.push_back(to_string(problem));
  }
  return messages;
}

TEST(Load, NothingGivesTheDefaults) {
  for (const std::string yaml :
       {"", "\n", "# only a comment\n", "{}", "---\n", "limits:\n  # max_key_bytes\n"}) {
    EXPECT_EQ(good(yaml), Config()) << yaml;
  }
  EXPECT_EQ(load_defaults({}).value(), Config());
}

TEST(Load, ReadsEverySetting) {
  const Config config = good(R"(
server: {listen: ["tcp://0.0.0.0:1", "unix:///a.sock"], workers: 3, drain_timeout: 1s}
admin: {listen: "[::1]:2"}
memory: {limit: 1GiB}
l1: {max_bytes: 128MiB, max_age: 1h, ttl_jitter: 12.5%, fill_patience: 7ms,
  fill_finish_percent: 3}
limits: {max_value_bytes: 1GB, max_key_bytes: 100B, max_metadata_bytes: 0, max_frame_bytes: 64KiB,
  stream_window_bytes: 2MiB, max_connections: 7, max_streams_per_connection: 8, idle_timeout: 1m,
  request_timeout: 4s, stall_timeout: 5s}
storage: {chunk_bytes: 64KiB, default_ttl: 1d}
l2: {kind: redis, max_idle: 2d, provisional_ttl: 7s, replace_grace: 6s, prefetch_chunks: 2,
  negative_ttl: 9s,
  on_failure: {get: miss, put: l1_only},
  redis: {url: "redis://u:p@h:5/6", key_prefix: "x:", connect_timeout: 20ms, op_timeout: 3s,
    connections_per_worker: 16}}
log: {level: warn, format: text}
)");
  EXPECT_THAT(config.server.listen,
              ElementsAre(Endpoint::tcp("0.0.0.0", 1), Endpoint::unix_socket("/a.sock")));
  EXPECT_EQ(config.server.workers, 3u);
  EXPECT_EQ(config.server.drain_timeout, milliseconds(1000));
  EXPECT_EQ(config.admin.listen, Endpoint::tcp("::1", 2));
  EXPECT_EQ(config.memory.limit_bytes, proto::kGiB);
  EXPECT_EQ(config.l1.max_bytes, 128 * proto::kMiB);
  EXPECT_EQ(config.l1.max_age, std::chrono::hours(1));
  EXPECT_EQ(config.l1.ttl_jitter.per_mille, 125u);
  EXPECT_EQ(config.l1.fill_patience, milliseconds(7));
  EXPECT_EQ(config.l1.fill_finish_percent, 3u);
  EXPECT_EQ(config.limits.max_value_bytes, 1'000'000'000u);
  EXPECT_EQ(config.limits.max_key_bytes, 100u);
  EXPECT_EQ(config.limits.max_metadata_bytes, 0u);
  EXPECT_EQ(config.limits.max_frame_bytes, 64 * proto::kKiB);
  EXPECT_EQ(config.limits.stream_window_bytes, 2 * proto::kMiB);
  EXPECT_EQ(config.limits.max_connections, 7u);
  EXPECT_EQ(config.limits.max_streams_per_connection, 8u);
  EXPECT_EQ(config.limits.idle_timeout, std::chrono::minutes(1));
  EXPECT_EQ(config.limits.request_timeout, std::chrono::seconds(4));
  EXPECT_EQ(config.limits.stall_timeout, std::chrono::seconds(5));
  EXPECT_EQ(config.storage.chunk_bytes, 64 * proto::kKiB);
  EXPECT_EQ(config.storage.default_ttl, std::chrono::hours(24));
  EXPECT_EQ(config.l2.kind, L2Kind::kRedis);
  EXPECT_EQ(config.l2.max_idle, std::chrono::hours(48));
  EXPECT_EQ(config.l2.provisional_ttl, std::chrono::seconds(7));
  EXPECT_EQ(config.l2.replace_grace, std::chrono::seconds(6));
  EXPECT_EQ(config.l2.prefetch_chunks, 2u);
  EXPECT_EQ(config.l2.negative_ttl, milliseconds(9000));
  EXPECT_EQ(config.l2.on_failure.get, OnGetFailure::kMiss);
  EXPECT_EQ(config.l2.on_failure.put, OnPutFailure::kL1Only);
  EXPECT_EQ(config.l2.redis.url.endpoint, Endpoint::tcp("h", 5));
  EXPECT_EQ(config.l2.redis.url.username, "u");
  EXPECT_EQ(config.l2.redis.url.password, "p");
  EXPECT_EQ(config.l2.redis.url.database, 6u);
  EXPECT_EQ(config.l2.redis.key_prefix, "x:");
  EXPECT_EQ(config.l2.redis.connect_timeout, milliseconds(20));
  EXPECT_EQ(config.l2.redis.op_timeout, std::chrono::seconds(3));
  EXPECT_EQ(config.l2.redis.connections_per_worker, 16u);
  EXPECT_EQ(config.log.level, LogLevel::kWarn);
  EXPECT_EQ(config.log.format, LogFormat::kText);
}

TEST(Load, TakesAutoAndNone) {
  const Config config = good(
      "server: {workers: auto}\nmemory: {limit: auto}\nl1: {max_bytes: auto}\n"
      "admin: {listen: none}\n");
  EXPECT_EQ(config.server.workers, std::nullopt);
  EXPECT_EQ(config.memory.limit_bytes, std::nullopt);
  EXPECT_EQ(config.l1.max_bytes, std::nullopt);
  EXPECT_EQ(config.admin.listen, std::nullopt);
}

TEST(Load, NamesUnknownSettings) {
  EXPECT_THAT(bad("limits:\n  max_key_byte: 1KiB\n"),
              ElementsAre("c.yaml:2: limits.max_key_byte: found an unknown setting; expected a "
                          "known one; did you mean limits.max_key_bytes?"));
  EXPECT_THAT(bad("\nlimit: {}\n"),
              ElementsAre("c.yaml:2: limit: found an unknown setting; expected a known one; did "
                          "you mean limits?"));
  EXPECT_THAT(bad("l1:\n\n  limit: 1GiB\n"),
              ElementsAre("c.yaml:3: l1.limit: found an unknown setting; expected a known one; "
                          "did you mean memory.limit?"));
  EXPECT_THAT(bad("limits.max_key_bytes: 1KiB\n"),
              ElementsAre(HasSubstr("did you mean limits.max_key_bytes?")));
  EXPECT_THAT(bad("zzzzzz: 1\n"),
              ElementsAre("c.yaml:1: zzzzzz: found an unknown setting; expected one of server, "
                          "admin, memory, l1, limits, storage, l2, log"));
}

TEST(Load, NamesWrongTypes) {
  EXPECT_THAT(bad("limits: 5\n"),
              ElementsAre(StartsWith("c.yaml:1: limits: found \"5\"; expected a mapping with "
                                     "max_value_bytes, max_key_bytes")));
  EXPECT_THAT(
      bad("l2:\n  redis: [1]\n"),
      ElementsAre(StartsWith("c.yaml:2: l2.redis: found a list; expected a mapping with url,")));
  EXPECT_THAT(bad("- a\n"), ElementsAre(StartsWith("c.yaml:1: found a list; expected a mapping")));
  EXPECT_THAT(bad("text\n"),
              ElementsAre(StartsWith("c.yaml:1: found \"text\"; expected a mapping")));
  EXPECT_THAT(bad("limits:\n  max_key_bytes: [1KiB]\n"),
              ElementsAre("c.yaml:2: limits.max_key_bytes: found a list; expected a size from 1B "
                          "to 4KiB"));
  EXPECT_THAT(bad("limits:\n  max_key_bytes: {a: b}\n"),
              ElementsAre(HasSubstr("2: limits.max_key_bytes: found a mapping")));
  EXPECT_THAT(bad("limits:\n  max_key_bytes:\n  max_connections: 1\n"),
              ElementsAre(HasSubstr("2: limits.max_key_bytes: found nothing; expected a size")));
  EXPECT_THAT(bad("server:\n  listen: tcp://127.0.0.1:1\n"),
              ElementsAre(StartsWith("c.yaml:2: server.listen: found \"tcp://127.0.0.1:1\"; "
                                     "expected a list of endpoints, each tcp://HOST:PORT")));
  EXPECT_THAT(bad("server:\n  listen:\n    - tcp://127.0.0.1:1\n    - [a]\n"),
              ElementsAre(StartsWith("c.yaml:4: server.listen: found a list inside of the list; "
                                     "expected a list of endpoints")));
  EXPECT_THAT(bad("server: {listen: []}\n"),
              ElementsAre("c.yaml:1: server.listen: found an empty list; expected at least one "
                          "endpoint"));
  EXPECT_THAT(bad("[a]: b\n"), ElementsAre(HasSubstr("c.yaml:1: found a list as a key")));
}

TEST(Load, NamesDuplicates) {
  EXPECT_THAT(bad("limits:\n  max_connections: 1\n\n  max_connections: 1\n"),
              ElementsAre("c.yaml:4: limits.max_connections: found it a second time; expected one "
                          "value; the first stands in line 2"));
  EXPECT_THAT(bad("log: {level: info}\nl1: {}\nlog: {format: json}\n"),
              ElementsAre("c.yaml:3: log: found it a second time; expected one value; the first "
                          "stands in line 1"));
}

TEST(Load, NamesValuesThatAreNone) {
  EXPECT_THAT(bad("limits:\n  max_key_bytes: 1024\n"),
              ElementsAre("c.yaml:2: limits.max_key_bytes: found \"1024\"; expected a size from "
                          "1B to 4KiB, as a whole number with a unit (B, KiB, MiB, GiB, TiB, KB, "
                          "MB, GB, TB)"));
  EXPECT_THAT(bad("limits:\n  idle_timeout: 5\n"),
              ElementsAre("c.yaml:2: limits.idle_timeout: found \"5\"; expected a duration from "
                          "100ms to 365d, as a whole number with a unit (ms, s, m, h, d)"));
  EXPECT_THAT(bad("limits: {max_connections: many}"),
              ElementsAre("c.yaml:1: limits.max_connections: found \"many\"; expected a whole "
                          "number from 1 to 65536"));
  EXPECT_THAT(
      bad("memory: {limit: lots}"),
      ElementsAre(HasSubstr("found \"lots\"; expected auto or a size from 32MiB to 16TiB")));
  EXPECT_THAT(
      bad("l2: {kind: mongo}"),
      ElementsAre("c.yaml:1: l2.kind: found \"mongo\"; expected one of none, redis, memcached"));
  EXPECT_THAT(bad("log: {level: loud, format: xml}"),
              ElementsAre("c.yaml:1: log.level: found \"loud\"; expected one of trace, debug, "
                          "info, warn, error",
                          "c.yaml:1: log.format: found \"xml\"; expected one of json, text"));
  EXPECT_THAT(
      bad("server: {listen: [\"tcp://:1\"]}"),
      ElementsAre(AllOf(HasSubstr("server.listen: found \"tcp://:1\""),
                        HasSubstr("expected tcp://HOST:PORT"), HasSubstr("host is missing"))));
  EXPECT_THAT(
      bad("admin: {listen: \"unix:///a\"}"),
      ElementsAre(HasSubstr("HOST:PORT, [IPV6]:PORT or none (HTTP is served over TCP only)")));
  EXPECT_THAT(bad("l2: {redis: {key_prefix: \"a\\tb\"}}"),
              ElementsAre("c.yaml:1: l2.redis.key_prefix: found \"a\\x09b\"; expected text of 0 "
                          "to 128 bytes without control characters"));
  EXPECT_THAT(bad("l2: {redis: {key_prefix: " + std::string(129, 'k') + "}}"),
              ElementsAre(AllOf(HasSubstr(std::string(80, 'k') + "…\""),
                                testing::Not(HasSubstr(std::string(81, 'k'))))));
}

TEST(Load, NamesValuesOutOfRange) {
  EXPECT_THAT(bad("limits: {max_key_bytes: 8KiB}"),
              ElementsAre("c.yaml:1: limits.max_key_bytes: found \"8KiB\"; expected a size from "
                          "1B to 4KiB"));
  EXPECT_THAT(bad("storage: {chunk_bytes: 5000B}"),
              ElementsAre("c.yaml:1: storage.chunk_bytes: found \"5000B\"; expected a size from "
                          "4KiB to 16MiB, a multiple of 4KiB"));
  EXPECT_THAT(bad("l2: {redis: {connections_per_worker: 1}}"),
              ElementsAre(HasSubstr("found \"1\"; expected a whole number from 2 to 16")));
  EXPECT_THAT(bad("limits: {max_connections: 4294967297}"),
              ElementsAre(HasSubstr("expected a whole number from 1 to 65536")));
  EXPECT_THAT(bad("l1: {ttl_jitter: 51%}\nl2: {kind: redis}"),
              ElementsAre("c.yaml:1: l1.ttl_jitter: found \"51%\"; expected a share from 0 to "
                          "0.5, such as 0.1 or 10%"));
  EXPECT_THAT(bad("l1: {fill_finish_percent: 101, fill_patience: 0ms}\nl2: {negative_ttl: 61m}"),
              ElementsAre(HasSubstr("found \"101\"; expected a whole number from 0 to 100"),
                          HasSubstr("found \"0ms\"; expected a duration from 1ms to 10s"),
                          HasSubstr("found \"61m\"; expected a duration from 0s to 1h")));
  EXPECT_THAT(bad("storage: {default_ttl: 36501d}"),
              ElementsAre(HasSubstr("expected a duration from 0s to 36500d")));
}

TEST(Load, NamesAllProblemsAtOnceInTheFilesOrder) {
  EXPECT_THAT(
      bad("log: {level: loud}\nlimits:\n  max_key_bytes: 0B\n  colour: red\nl2: {kind: 1}\n",
          {{"CISTERN_L2_PREFETCH_CHUNKS", "0"}}),
      ElementsAre(StartsWith("c.yaml:1: log.level"), StartsWith("c.yaml:3: limits.max_key"),
                  StartsWith("c.yaml:4: limits.colour"), StartsWith("c.yaml:5: l2.kind"),
                  StartsWith("environment: l2.prefetch_chunks (CISTERN_L2_PREFETCH_CHUNKS)")));
}

TEST(Load, NamesTextThatIsNotYaml) {
  EXPECT_THAT(bad("log: {level: info\nl1: {}\n"),
              ElementsAre(AllOf(StartsWith("c.yaml:2: found text that is not YAML ("),
                                HasSubstr("config/cistern.example.yaml"))));
  EXPECT_THAT(bad("log:\n\tlevel: info\n"),
              ElementsAre(StartsWith("c.yaml:2: found text that is not")));
  EXPECT_THAT(bad("log: *nowhere\n"),
              ElementsAre(StartsWith("c.yaml:1: found text that is not YAML")));
  EXPECT_THAT(bad("log: {}\n---\nlog: {}\n"),
              ElementsAre(HasSubstr("found 2 YAML documents; expected one document")));
  EXPECT_THAT(bad("&a [*a]\n"), ElementsAre(StartsWith("c.yaml:1: found ")));
}

TEST(Load, NamesFilesThatCannotBeRead) {
  const auto error_of = [](const std::string& path) {
    const Result result = load_file(path, {});
    return result ? std::string("read") : to_string(result.error().front());
  };
  EXPECT_EQ(error_of("/nowhere/c.yaml"),
            "/nowhere/c.yaml: found No such file or directory; expected a readable YAML file");
  EXPECT_EQ(error_of("/"), "/: found Is a directory; expected a readable YAML file");

  const std::string path =
      testing::TempDir() + "cistern_config_" + std::to_string(getpid()) + ".yaml";
  std::ofstream(path) << "log:\n  level: loud\n";
  EXPECT_THAT(error_of(path), StartsWith(path + ":2: log.level"));
  std::ofstream(path) << "log: {level: error}\n";
  EXPECT_EQ(load_file(path, {}).value().log.level, LogLevel::kError);
  std::ofstream(path) << std::string((1 << 20) + 1, '#');
  EXPECT_THAT(error_of(path), HasSubstr("found more than 1048576 bytes"));
  std::filesystem::remove(path);
}

TEST(Load, PutsVariablesInTheirPlaces) {
  const Environment environment = {
      {"LEVEL", "debug"}, {"EMPTY", ""}, {"N", "${LEVEL}"}, {"P", "77"}};
  EXPECT_EQ(good("log: {level: \"${LEVEL}\"}", environment).log.level, LogLevel::kDebug);
  EXPECT_EQ(good("log: {level: \"${NONE:-warn}\"}", environment).log.level, LogLevel::kWarn);
  EXPECT_EQ(good("log: {level: \"${EMPTY:-warn}\"}", environment).log.level, LogLevel::kWarn);
  EXPECT_EQ(good("log: {level: \"${LEVEL:-warn}\"}", environment).log.level, LogLevel::kDebug);
  EXPECT_EQ(good("server: {listen: [\"tcp://127.0.0.1:${P}\"]}", environment).server.listen.front(),
            Endpoint::tcp("127.0.0.1", 77));
  const auto prefix = [&](const std::string& text) {
    return good("l2: {redis: {key_prefix: '" + text + "'}}", environment).l2.redis.key_prefix;
  };
  EXPECT_EQ(prefix("a${P}b${P}c"), "a77b77c");
  EXPECT_EQ(prefix("$${P}"), "${P}");
  EXPECT_EQ(prefix("$P$$x"), "$P$$x");
  EXPECT_EQ(prefix("${NONE:-}"), "");
  EXPECT_EQ(prefix("${EMPTY}"), "");
  EXPECT_EQ(prefix("${N}"), "${LEVEL}") << "what was put in is not looked at again";

  EXPECT_THAT(bad("log:\n  level: \"${NONE}\"\n", environment),
              ElementsAre("c.yaml:2: log.level: found \"${NONE}\"; expected the environment "
                          "variable NONE to be set (or ${NONE:-OTHER} for when it is not)"));
  EXPECT_THAT(bad("log: {level: \"${LEVEL\"}", environment),
              ElementsAre(HasSubstr("expected a closing brace after ${")));
  for (const std::string name : {"${}", "${1A}", "${A-B}", "${A B}", "${:-x}"}) {
    EXPECT_THAT(bad("log: {level: \"" + name + "\"}", environment),
                ElementsAre(HasSubstr("expected ${NAME} or ${NAME:-OTHER}")));
  }
}

TEST(Load, LetsVariablesOverrideSettings) {
  const Config config = good("server: {drain_timeout: 5s}\nlog: {level: debug}\n",
                             {{"CISTERN_SERVER_DRAIN_TIMEOUT", "7s"},
                              {"CISTERN_SERVER_LISTEN", "tcp://127.0.0.1:1, unix:///b.sock"},
                              {"CISTERN_L2_REDIS_URL", "redis://r:1"},
                              {"CISTERN_L2_REDIS_KEY_PREFIX", ""},
                              {"CISTERN_L1_MAX_BYTES", "auto"},
                              {"PATH", "/bin"}});
  EXPECT_EQ(config.server.drain_timeout, std::chrono::seconds(7));
  EXPECT_THAT(config.server.listen,
              ElementsAre(Endpoint::tcp("127.0.0.1", 1), Endpoint::unix_socket("/b.sock")));
  EXPECT_EQ(config.l2.redis.url.endpoint, Endpoint::tcp("r", 1));
  EXPECT_EQ(config.l2.redis.key_prefix, "");
  EXPECT_EQ(config.log.level, LogLevel::kDebug);

  EXPECT_THAT(bad("", {{"CISTERN_SERVER_LISTEN", "tcp://127.0.0.1:1,"}}),
              ElementsAre(StartsWith("environment: server.listen (CISTERN_SERVER_LISTEN): found "
                                     "\"tcp://127.0.0.1:1, \"; expected tcp://HOST:PORT")));
  EXPECT_THAT(bad("", {{"CISTERN_LOG_LEVEL", ""}}),
              ElementsAre("environment: log.level (CISTERN_LOG_LEVEL): found \"\"; expected one "
                          "of trace, debug, info, warn, error"));
}

TEST(Load, NamesUnknownVariables) {
  EXPECT_THAT(bad("", {{"CISTERN_LIMITS_MAX_KEY_BYTE", "1KiB"}}),
              ElementsAre("environment: CISTERN_LIMITS_MAX_KEY_BYTE: found an unknown variable; "
                          "expected a setting; did you mean CISTERN_LIMITS_MAX_KEY_BYTES?"));
  EXPECT_THAT(bad("", {{"CISTERN_ZZ", "secret"}}),
              ElementsAre("environment: CISTERN_ZZ: found an unknown variable; expected CISTERN_ "
                          "and the name of a setting, as in CISTERN_LIMITS_MAX_KEY_BYTES"));
}

TEST(Load, LeavesTheVariablesOfOthersAlone) {
  good("", {{"CISTERN_SERVER", "x"},
            {"CISTERN_CONFIG", "x"},
            {"CISTERN_TEST_SEED", "1"},
            {"CISTERNA", "x"},
            // Kubernetes sets these in every pod beside a service called cistern.
            {"CISTERN_SERVICE_HOST", "10.0.0.1"},
            {"CISTERN_SERVICE_PORT", "7400"},
            {"CISTERN_SERVICE_PORT_METRICS", "7401"},
            {"CISTERN_PORT", "tcp://10.0.0.1:7400"},
            {"CISTERN_PORT_7400_TCP", "tcp://10.0.0.1:7400"},
            {"CISTERN_PORT_7400_TCP_ADDR", "10.0.0.1"},
            {"CISTERN_METRICS_PORT_7401_TCP_PROTO", "tcp"}});
  EXPECT_THAT(bad("", {{"CISTERN_PORT_x_TCP", "1"}, {"CISTERN_PORT_1", "1"}}), testing::SizeIs(2));
}

TEST(Load, ReadsTheVariablesOfThisProcess) {
  ASSERT_EQ(setenv("CISTERN_TEST_CONFIG_LOAD", "a=b", 1), 0);
  EXPECT_EQ(process_environment().at("CISTERN_TEST_CONFIG_LOAD"), "a=b");
}

TEST(Load, ShowsNoSecretInProblems) {
  const Environment environment = {{"PASSWORD", "hunter2%"}};
  for (const auto& messages : {bad("l2: {redis: {url: \"redis://:hunter2@h:x\"}}"),
                               bad("l2: {redis: {url: \"redis://:${PASSWORD}@h\"}}", environment),
                               bad("l2: {redis: {url: \"redis://:hunter2@${NONE}\"}}"),
                               bad("", {{"CISTERN_L2_REDIS_URL", "redis://user:hunter2"}})}) {
    ASSERT_EQ(messages.size(), 1u);
    EXPECT_THAT(messages.front(), HasSubstr("l2.redis.url"));
    EXPECT_THAT(messages.front(), testing::Not(HasSubstr("hunter2")));
  }
}

}  // namespace
}  // namespace cistern::config
