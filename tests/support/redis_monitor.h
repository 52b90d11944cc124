// What a Redis executes, command by command, as its MONITOR tells it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "tests/support/redis_server.h"

namespace cistern::testing {

// Sees every command from its construction on. Its arguments pass through Redis once more, so it
// isn't for times in which large values are written.
class RedisMonitor {
 public:
  explicit RedisMonitor(RedisServer& redis);
  ~RedisMonitor();
  RedisMonitor(const RedisMonitor&) = delete;
  RedisMonitor& operator=(const RedisMonitor&) = delete;

  // How often each chunk was read so far, by name; exact: commands that Redis had executed before
  // this was called are counted.
  std::map<std::string, unsigned> chunk_reads();

 private:
  struct Free {
    void operator()(redisContext* context) const;
  };
  void follow();

  RedisServer& redis_;
  std::unique_ptr<redisContext, Free> connection_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, unsigned> reads_;
  std::uint64_t marks_ = 0;     // sent
  std::string last_mark_seen_;  // by the monitor
  std::thread thread_;
};

}  // namespace cistern::testing
