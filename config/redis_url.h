// `redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]`,
// `unix://[[USER]:PASSWORD@]/PATH[?db=DATABASE]`
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "proto/endpoint.h"
#include "proto/status.h"

namespace cistern::config {

inline constexpr std::uint16_t kRedisPort = 6379;
// Redis' own bound is its setting `databases`, 16 unless changed.
inline constexpr unsigned kMaxRedisDatabase = 65535;

struct RedisUrl {
  proto::Endpoint endpoint = proto::Endpoint::tcp("127.0.0.1", kRedisPort);
  std::string username;  // may be empty
  std::string password;  // empty: no login
  unsigned database = 0;
  bool operator==(const RedisUrl&) const = default;
};

// User and password are percent-decoded; they end at the last '@', so a password may have any
// character but '%', which is written %25. kUsage otherwise; the message repeats nothing of `text`.
proto::Result<RedisUrl> parse_redis_url(std::string_view text);

// With `***` for the password.
std::string masked(const RedisUrl& url);
// Of text that may be no URL at all: everything that could be a password is replaced.
std::string masked_redis_text(std::string_view text);

}  // namespace cistern::config
