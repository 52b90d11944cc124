// Where Redis is and how to log in: the text of `l2.redis.url`.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "server/base/types.h"

namespace cistern::l2 {

struct RedisUrl {
  std::string host;  // a name or an address without brackets; empty with a unix socket
  std::uint16_t port = 6379;
  std::string unix_path;  // empty with TCP
  std::uint32_t db = 0;
  std::string user;      // empty: Redis' default user
  std::string password;  // empty: no login

  bool is_unix() const { return !unix_path.empty(); }
};

// redis://[[user]:password@]host[:port][/db] or unix://[[user]:password@]/path[?db=n]. User,
// password and path may be percent-encoded; an IPv6 address stands in brackets. The error
// (kBadRequest) names the setting and never repeats the password.
base::Result<RedisUrl> parse_redis_url(std::string_view text);

// For logs: "tcp://host:port/db" or "unix:///path?db=n".
std::string display(const RedisUrl& url);

}  // namespace cistern::l2
