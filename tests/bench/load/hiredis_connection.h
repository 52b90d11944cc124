// hiredis' blocking connection, with what it says turned into exceptions.
#pragma once

#include <memory>
#include <string>

#include "proto/bytes.h"
#include "proto/endpoint.h"

struct redisContext;
struct redisReply;

namespace cistern::bench {

class HiredisConnection {
 public:
  // Throws std::runtime_error when the server can't be reached.
  explicit HiredisConnection(const proto::Endpoint& endpoint);

  struct Free {
    void operator()(redisContext* context) const;
    void operator()(redisReply* reply) const;
  };
  using Reply = std::unique_ptr<redisReply, Free>;

  // Puts a GET into what is sent with the next call that waits for a reply.
  void append_get(const std::string& key);
  void append_set(const std::string& key, proto::Bytes value, std::uint64_t ttl_ms);
  // The next reply. Throws std::runtime_error when the connection fails.
  Reply reply();

 private:
  std::unique_ptr<redisContext, Free> context_;
};

}  // namespace cistern::bench
