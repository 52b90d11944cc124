// A connection by hand that tells a refusal from a defect.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "proto/messages.h"
#include "tests/support/raw_client.h"

namespace cistern::soak {

class Wire {
 public:
  // Connects and says HELLO. After it either is_open(), or refusal() says why not: the name of a
  // status, or what happened to the socket.
  explicit Wire(const std::string& endpoint, int receive_buffer_bytes = 0);

  bool is_open() const { return refusal_.empty(); }
  const std::string& refusal() const { return refusal_; }
  testing::RawClient& raw() { return *raw_; }

  // Appends a PUT of a small value. `ttl_ms` as in PutRequest.
  void encode_put(proto::Out& out, std::uint32_t id, const std::string& key, proto::Bytes value,
                  std::uint64_t ttl_ms) const;
  std::uint32_t chunk_bytes() const { return chunk_bytes_; }

 private:
  std::unique_ptr<testing::RawClient> raw_;
  std::string refusal_;
  std::uint32_t chunk_bytes_ = 0;
};

// The name of the status that an ERROR frame carries.
std::string status_of(const testing::Frame& error);

}  // namespace cistern::soak
