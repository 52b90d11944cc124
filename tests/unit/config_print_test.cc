// --print-config and the example file.
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "config/config.h"
#include "config/settings.h"
#include "config/values.h"

namespace cistern::config {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr const char* kExampleFile = CISTERN_SOURCE_DIR "/config/cistern.example.yaml";

std::string read(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(Print, IsReadBackAsTheSame) {
  for (const std::string yaml :
       {"", "server: {listen: [\"tcp://[::1]:0\", \"unix:///a b\"], workers: 2}\n",
        "l2: {kind: redis, redis: {key_prefix: '\"\\ $${x} #:', url: \"redis://h:1/2\"}}\n",
        "l1: {ttl_jitter: 33.3%, fill_patience: 2s}\nl2: {kind: redis, negative_ttl: 1500ms}\n",
        "admin: {listen: none}\nmemory: {limit: 1GiB}\nlimits: {max_value_bytes: 1000B}\n"
        "log: {level: trace, format: text}\n"}) {
    const Config config = load_text(yaml, "c.yaml", {}).value();
    EXPECT_EQ(load_text(print(config), "printed", {}).value(), config) << print(config);
  }
}

TEST(Print, MasksSecrets) {
  const Config config =
      load_text("l2: {redis: {url: \"redis://u:hunter2@h\"}}", "c.yaml", {}).value();
  EXPECT_EQ(config.l2.redis.url.password, "hunter2");
  EXPECT_THAT(print(config), HasSubstr("    url: \"redis://u:***@h:6379/0\"\n"));
  EXPECT_THAT(print(config), Not(HasSubstr("hunter2")));
}

TEST(Print, HasEverySection) {
  const std::string text = print(Config());
  EXPECT_THAT(text, HasSubstr("server:\n  listen: [\"tcp://127.0.0.1:7400\", "
                              "\"unix:///run/cistern/cistern.sock\"]\n  workers: auto\n"));
  EXPECT_THAT(text, HasSubstr("\nl2:\n  kind: none\n"));
  EXPECT_THAT(text, HasSubstr("  redis:\n    url: \"redis://127.0.0.1:6379/0\"\n"));
}

TEST(Settings, HaveNamesMeaningsAndDefaultsWithinBounds) {
  std::set<std::string_view> names;
  for (const Setting& setting : settings()) {
    SCOPED_TRACE(setting.name);
    EXPECT_TRUE(names.insert(setting.name).second);
    EXPECT_EQ(find_setting(setting.name), &setting);
    EXPECT_NE(setting.name.find('.'), setting.name.npos);
    EXPECT_FALSE(setting.meaning.empty());
    EXPECT_TRUE(setting.meaning.ends_with('.'));
    EXPECT_LE(setting.bounds.min, setting.bounds.max);
    Config config;
    EXPECT_EQ(assign(setting, written(setting, Config()), config), std::nullopt);
    EXPECT_EQ(config, Config());
  }
  EXPECT_EQ(find_setting("limits"), nullptr);
  EXPECT_EQ(variable_name(*find_setting("l2.redis.url")), "CISTERN_L2_REDIS_URL");
}

std::set<std::string_view> settings_that_differ(const Config& config) {
  std::set<std::string_view> names;
  for (const Setting& setting : settings()) {
    if (written(setting, config) != written(setting, Config())) names.insert(setting.name);
  }
  return names;
}

TEST(Settings, AreEachTheirOwnMember) {
  // A row of the table that points at another row's member would else pass for right.
  for (const Setting& setting : settings()) {
    SCOPED_TRACE(setting.name);
    Config config;
    for (const std::string candidate :
         {"3", "40MiB", "64KiB", "20B", "11s", "1h", "redis", "zstd", "miss", "l1_only", "debug",
          "text", "other:", "redis://other:1/1", "localhost:99", "0.2", "9s"}) {
      if (!assign(setting, {candidate}, config)) break;
    }
    EXPECT_EQ(settings_that_differ(config), std::set<std::string_view>{setting.name});
  }
}

TEST(Example, IsWhatTheTableSays) {
  // CISTERN_TEST_UPDATE=1 writes the file anew after the table was changed.
  if (std::getenv("CISTERN_TEST_UPDATE") != nullptr) std::ofstream(kExampleFile) << example();
  EXPECT_EQ(read(kExampleFile), example())
      << "run this test with CISTERN_TEST_UPDATE=1 and look at the difference";
}

TEST(Example, GivesTheDefaults) { EXPECT_EQ(load_file(kExampleFile, {}).value(), Config()); }

TEST(Example, MentionsEverySettingWithItsDefault) {
  const std::string text = read(kExampleFile);
  for (const Setting& setting : settings()) {
    const std::string key(setting.name.substr(setting.name.rfind('.') + 1));
    EXPECT_THAT(text, testing::ContainsRegex("\n +" + key + ": [^\n]+\n")) << setting.name;
    EXPECT_THAT(text, HasSubstr(written(setting, Config()).front())) << setting.name;
  }
}

}  // namespace
}  // namespace cistern::config
