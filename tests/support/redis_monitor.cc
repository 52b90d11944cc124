#include "tests/support/redis_monitor.h"

#include <sys/socket.h>

#include <stdexcept>
#include <string_view>
#include <vector>

#include <hiredis/hiredis.h>

namespace cistern::testing {
namespace {

constexpr std::string_view kChunkPrefix = "cistern:c:";
constexpr std::string_view kMark = "monitor-mark-";
const std::chrono::seconds kPatience(30);

// The words of `1700000000.123456 [0 127.0.0.1:5] "GET" "name"`; names have nothing to escape.
std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> words;
  std::size_t at = line.find("] \"");
  if (at == std::string_view::npos) return words;
  for (at = line.find('"', at); at != std::string_view::npos; at = line.find('"', at + 1)) {
    const std::size_t end = line.find('"', at + 1);
    if (end == std::string_view::npos) break;
    words.push_back(line.substr(at + 1, end - at - 1));
    at = end;
  }
  return words;
}

}  // namespace

void RedisMonitor::Free::operator()(redisContext* context) const { redisFree(context); }

RedisMonitor::RedisMonitor(RedisServer& redis)
    : redis_(redis), connection_(redisConnect("127.0.0.1", redis.port())) {
  if (!connection_ || connection_->err != 0) throw std::runtime_error("MONITOR: no connection");
  void* const reply = redisCommand(connection_.get(), "MONITOR");
  if (reply == nullptr) throw std::runtime_error("MONITOR: no answer");
  freeReplyObject(reply);
  thread_ = std::thread([this] { follow(); });
}

RedisMonitor::~RedisMonitor() {
  ::shutdown(connection_->fd, SHUT_RDWR);
  thread_.join();
}

void RedisMonitor::follow() {
  void* got = nullptr;
  while (redisGetReply(connection_.get(), &got) == REDIS_OK && got != nullptr) {
    auto* const reply = static_cast<redisReply*>(got);
    const std::vector<std::string_view> words = words_of({reply->str, reply->len});
    {
      const std::lock_guard lock(mutex_);
      if (words.size() >= 2 && words[0] == "ECHO" && words[1].starts_with(kMark)) {
        last_mark_seen_ = words[1];
        changed_.notify_all();
      }
      const bool reads = !words.empty() && (words[0] == "GET" || words[0] == "GETRANGE" ||
                                            words[0] == "MGET" || words[0] == "GETEX");
      for (std::size_t i = 1; reads && i < words.size(); ++i) {
        if (words[i].starts_with(kChunkPrefix)) ++reads_[std::string(words[i])];
      }
    }
    freeReplyObject(got);
  }
}

std::map<std::string, unsigned> RedisMonitor::chunk_reads() {
  const std::string mark = std::string(kMark) + std::to_string(++marks_);
  redis_.command({"ECHO", mark});
  std::unique_lock lock(mutex_);
  if (!changed_.wait_for(lock, kPatience, [&] { return last_mark_seen_ == mark; })) {
    throw std::runtime_error("MONITOR does not keep up");
  }
  return reads_;
}

}  // namespace cistern::testing
