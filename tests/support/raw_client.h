// A client that breaks the rules on purpose: frames over a plain socket, read only when asked to.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "proto/messages.h"
#include "tests/support/process.h"

namespace cistern::testing {

struct Frame {
  proto::FrameHeader header;
  std::vector<std::byte> payload;
  bool is(proto::Type type) const { return header.type == static_cast<std::uint8_t>(type); }
};

// Blocking; throws std::runtime_error when the socket fails or stays silent for 30 s.
class RawClient {
 public:
  // Connects to tcp://host:port or unix://path, says HELLO and reads WELCOME unless told not to.
  // `receive_buffer_bytes`, when not 0, is the socket's.
  explicit RawClient(const std::string& endpoint, bool greet = true, int receive_buffer_bytes = 0);
  ~RawClient();
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  void send(proto::Bytes bytes);
  template <typename... Arguments>
  void request(Arguments&&... arguments) {
    proto::Out out;
    proto::encode(out, std::forward<Arguments>(arguments)...);
    send(out);
  }
  // The next frame; empty when the server has closed the connection.
  std::optional<Frame> receive();
  // Skips CREDIT and what belongs to other requests.
  Frame receive_for(std::uint32_t id);
  // The answers of `count` requests that were sent together, after which nothing else is due.
  // Throws when one of them is of another type.
  void receive_each(std::size_t count, proto::Type type);
  // A value of one chunk or less.
  void put_inline(std::uint32_t id, const std::string& key, proto::Bytes bytes);
  void close();
  const proto::Welcome& welcome() const { return welcome_; }

 private:
  bool read_exactly(std::byte* to, std::size_t bytes);

  int fd_ = -1;
  proto::Welcome welcome_;
};

}  // namespace cistern::testing
