// A real redis-server of a test's own: on a free port of 127.0.0.1 (and a unix socket), without
// persistence, in a directory that goes away with it.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/process.h"

struct redisContext;

namespace cistern::testing {

// A reply, copied out of hiredis.
struct RedisReply {
  enum class Kind { kText, kInteger, kNil, kError, kArray };
  Kind kind = Kind::kNil;
  std::string text;  // of kText and kError
  long long integer = 0;
  std::vector<RedisReply> elements;

  bool is_error() const { return kind == Kind::kError; }
  bool is_nil() const { return kind == Kind::kNil; }
};

// Throws std::runtime_error when Redis can't be started or reached. One thread at a time.
class RedisServer {
 public:
  // `arguments` go to redis-server as they are: {"--requirepass", "x"}.
  explicit RedisServer(std::vector<std::string> arguments = {});
  ~RedisServer();
  RedisServer(const RedisServer&) = delete;
  RedisServer& operator=(const RedisServer&) = delete;

  std::uint16_t port() const { return port_; }
  std::string unix_path() const { return dir_.file("redis.sock"); }
  std::string url(unsigned db = 0) const;       // redis://127.0.0.1:port/db
  std::string unix_url(unsigned db = 0) const;  // unix://...
  pid_t pid() const { return process_->pid(); }

  void stop();    // SIGTERM, waits
  void kill();    // SIGKILL, waits
  void freeze();  // SIGSTOP, and waits until it has stopped
  void thaw();    // SIGCONT
  void start();   // after stop() or kill(): again, on the same port, empty
  bool running();

  // Over a connection of its own that is made anew when it is lost. An error reply is returned.
  RedisReply command(const std::vector<std::string>& words);
  RedisReply command(std::initializer_list<std::string_view> words);
  // A field of INFO; empty when there is none.
  std::string info(const std::string& field);
  std::uint64_t info_number(const std::string& field);
  // All keys that match a glob-style pattern, sorted.
  std::vector<std::string> keys(const std::string& pattern = "*");

 private:
  struct Free {
    void operator()(redisContext* context) const;
  };
  bool answers();
  redisContext* connection();

  TempDir dir_;
  std::vector<std::string> arguments_;
  std::uint16_t port_ = 0;
  std::string password_;
  std::unique_ptr<Process> process_;
  std::unique_ptr<redisContext, Free> connection_;
};

// A port of 127.0.0.1 on which nobody listens now.
std::uint16_t free_port();

}  // namespace cistern::testing
