// hiredis, blocking, with its defaults.
#include <sys/time.h>

#include <stdexcept>

#include <hiredis/hiredis.h>

#include "tests/bench/load/hiredis_connection.h"
#include "tests/bench/load/library_client.h"

namespace cistern::bench {
namespace {

constexpr timeval kConnectTimeout{5, 0};
constexpr timeval kReplyTimeout{30, 0};

class Hiredis final : public LibraryClient {
 public:
  explicit Hiredis(const Config& config) : connection_(config.endpoint), ttl_ms_(config.ttl_ms) {}

  bool get(const std::string& key, const Take& take) override {
    connection_.append_get(key);
    const HiredisConnection::Reply reply = connection_.reply();
    if (reply->type == REDIS_REPLY_NIL) return false;
    if (reply->type != REDIS_REPLY_STRING) fail(*reply);
    take(proto::as_bytes({reply->str, static_cast<std::size_t>(reply->len)}));
    return true;
  }

  bool put(const std::string& key, proto::Bytes value) override {
    connection_.append_set(key, value, ttl_ms_);
    const HiredisConnection::Reply reply = connection_.reply();
    if (reply->type == REDIS_REPLY_STATUS) return true;
    if (std::string_view(reply->str).starts_with("OOM")) return false;
    fail(*reply);
  }

 private:
  [[noreturn]] static void fail(const redisReply& reply) {
    throw std::runtime_error(std::string("redis: ") +
                             (reply.str != nullptr ? reply.str : "a reply of another type"));
  }

  HiredisConnection connection_;
  std::uint64_t ttl_ms_;
};

}  // namespace

void HiredisConnection::Free::operator()(redisContext* context) const { redisFree(context); }
void HiredisConnection::Free::operator()(redisReply* reply) const { freeReplyObject(reply); }

HiredisConnection::HiredisConnection(const proto::Endpoint& endpoint)
    : context_(
          endpoint.kind == proto::Endpoint::Kind::kUnix
              ? redisConnectUnixWithTimeout(endpoint.path.c_str(), kConnectTimeout)
              : redisConnectWithTimeout(endpoint.host.c_str(), endpoint.port, kConnectTimeout)) {
  if (context_ == nullptr) throw std::bad_alloc();
  if (context_->err != 0) {
    throw std::runtime_error("cannot connect to " + proto::to_string(endpoint) + ": " +
                             context_->errstr + "; is the server running there?");
  }
  redisSetTimeout(context_.get(), kReplyTimeout);
}

void HiredisConnection::append_get(const std::string& key) {
  const char* const words[] = {"GET", key.data()};
  const std::size_t lengths[] = {3, key.size()};
  redisAppendCommandArgv(context_.get(), 2, const_cast<const char**>(words), lengths);
}

void HiredisConnection::append_set(const std::string& key, proto::Bytes value,
                                   std::uint64_t ttl_ms) {
  const std::string ttl = std::to_string(ttl_ms);
  const char* const words[] = {"SET", key.data(), proto::as_text(value).data(), "PX", ttl.data()};
  const std::size_t lengths[] = {3, key.size(), value.size(), 2, ttl.size()};
  redisAppendCommandArgv(context_.get(), ttl_ms == 0 ? 3 : 5, const_cast<const char**>(words),
                         lengths);
}

HiredisConnection::Reply HiredisConnection::reply() {
  void* reply = nullptr;
  if (redisGetReply(context_.get(), &reply) != REDIS_OK) {
    throw std::runtime_error(std::string("hiredis: ") + context_->errstr);
  }
  return Reply(static_cast<redisReply*>(reply));
}

std::unique_ptr<LibraryClient> connect_hiredis(const Config& config) {
  return std::make_unique<Hiredis>(config);
}

}  // namespace cistern::bench
