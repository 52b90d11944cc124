#include <string>

#include <gtest/gtest.h>

#include "config/redis_url.h"

namespace cistern::config {
namespace {

using proto::Endpoint;

TEST(RedisUrl, ReadsEveryPart) {
  const RedisUrl plain = parse_redis_url("redis://127.0.0.1:6380/3").value();
  EXPECT_EQ(plain.endpoint, Endpoint::tcp("127.0.0.1", 6380));
  EXPECT_EQ(plain.database, 3u);
  EXPECT_EQ(plain.username, "");
  EXPECT_EQ(plain.password, "");

  const RedisUrl full = parse_redis_url("redis://app:s3cret@cache.example:1/0").value();
  EXPECT_EQ(full.endpoint, Endpoint::tcp("cache.example", 1));
  EXPECT_EQ(full.username, "app");
  EXPECT_EQ(full.password, "s3cret");

  EXPECT_EQ(parse_redis_url("redis://cache").value().endpoint, Endpoint::tcp("cache", 6379));
  EXPECT_EQ(parse_redis_url("redis://cache/").value().database, 0u);
  EXPECT_EQ(parse_redis_url("redis://[::1]").value().endpoint, Endpoint::tcp("::1", 6379));
  EXPECT_EQ(parse_redis_url("redis://[::1]:7/2").value().endpoint, Endpoint::tcp("::1", 7));
  EXPECT_EQ(parse_redis_url("redis://:pw@[::1]:7").value().password, "pw");

  const RedisUrl local = parse_redis_url("unix://u:pw@/run/redis.sock?db=4").value();
  EXPECT_EQ(local.endpoint, Endpoint::unix_socket("/run/redis.sock"));
  EXPECT_EQ(local.username, "u");
  EXPECT_EQ(local.password, "pw");
  EXPECT_EQ(local.database, 4u);
  EXPECT_EQ(parse_redis_url("unix:///a").value().endpoint, Endpoint::unix_socket("/a"));

  EXPECT_EQ(RedisUrl(), parse_redis_url("redis://127.0.0.1:6379/0").value());
}

TEST(RedisUrl, TakesAnyPasswordAsItIs) {
  // A password that comes from ${REDIS_PASSWORD} is rarely written for a URL.
  EXPECT_EQ(parse_redis_url("redis://:p@ss/w:rd?#@h:1/2").value().password, "p@ss/w:rd?#");
  EXPECT_EQ(parse_redis_url("redis://:a%40b%25@h").value().password, "a@b%");
  EXPECT_FALSE(parse_redis_url("redis://:a%zz@h").has_value());
  EXPECT_FALSE(parse_redis_url("redis://:a%4@h").has_value());
  EXPECT_FALSE(parse_redis_url("redis://:a%@h").has_value());
}

TEST(RedisUrl, SaysWhatIsWrong) {
  const auto error_of = [](const std::string& text) {
    const auto parsed = parse_redis_url(text);
    return parsed ? std::string("accepted") : parsed.error().message;
  };
  EXPECT_EQ(error_of("rediss://h"), "TLS to Redis is not supported");
  EXPECT_EQ(error_of("http://h"), "the URL must begin with redis:// or unix://");
  EXPECT_EQ(error_of(""), "the URL must begin with redis:// or unix://");
  EXPECT_EQ(error_of("redis://h/99999"), "the database must be a number from 0 to 65535");
  EXPECT_EQ(error_of("redis://h/a"), "the database must be a number from 0 to 65535");
  EXPECT_EQ(error_of("redis://h/0?x=1"), "the URL takes no '?' or '#' part");
  EXPECT_EQ(error_of("redis://user@h"),
            "before the '@' stands USER:PASSWORD, or :PASSWORD without a user");
  EXPECT_EQ(error_of("redis://user:@h"), "the password is empty");
  EXPECT_EQ(error_of("redis://h:0"), "the port must not be 0");
  EXPECT_EQ(error_of("redis://h:x"), "the port must be a number from 0 to 65535");
  EXPECT_EQ(error_of("redis://"), "the host is missing");
  EXPECT_EQ(error_of("unix:///a?x=1"), "after '?' stands db=DATABASE alone");
  EXPECT_EQ(error_of("unix:///a?db=x"), "the database must be a number from 0 to 65535");
  EXPECT_TRUE(error_of("unix://a").starts_with("a socket's path must be absolute"));
  EXPECT_EQ(error_of("redis:///0"), "the host is missing");
}

TEST(RedisUrl, MasksThePassword) {
  EXPECT_EQ(masked(parse_redis_url("redis://h").value()), "redis://h:6379/0");
  EXPECT_EQ(masked(parse_redis_url("redis://:hunter2@h/1").value()), "redis://:***@h:6379/1");
  EXPECT_EQ(masked(parse_redis_url("unix://:hunter2@/a?db=1").value()), "unix://:***@/a?db=1");
  EXPECT_EQ(masked(parse_redis_url("redis://a%3Ab:hunter2@h").value()),
            "redis://a%3Ab:***@h:6379/0");
}

TEST(RedisUrl, MasksPasswordsInTextThatIsNoUrl) {
  for (const std::string text :
       {"redis://:hunter2@h:x", "redis://user:hunter2@", "redis://hunter2@h", "hunter2@h",
        "redis://:hunter2", "redis://user:hunter2", "redis://:a@hunter2?b@h", "user:hunter2",
        "redis://h/0?password=hunter2", "redis://h?password=hunter2@x",
        "redis://h?password=x@hunter2", "redis://:a/hunter2@h", ":hunter2",
        "redis://user hunter2 h", "unix://:hunter2@/a?db=x", "unix://u:hunter2",
        "redis://:hunter2@h@[::1"}) {
    EXPECT_EQ(masked_redis_text(text).find("hunter2"), std::string::npos)
        << text << " -> " << masked_redis_text(text);
  }
  EXPECT_EQ(masked_redis_text("redis://localhost:99999/0"), "redis://localhost:99999/0");
  EXPECT_EQ(masked_redis_text("localhost:6379"), "localhost:6379");
  EXPECT_EQ(masked_redis_text("redis://u:p@h:x"), "redis://***@***");
}

}  // namespace
}  // namespace cistern::config
