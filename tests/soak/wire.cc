#include "tests/soak/wire.h"

#include <optional>
#include <stdexcept>

namespace cistern::soak {

using proto::Type;
using testing::Frame;

Wire::Wire(const std::string& endpoint, int receive_buffer_bytes) {
  try {
    raw_ = std::make_unique<testing::RawClient>(endpoint, false, receive_buffer_bytes);
    raw_->request(proto::Hello{.name = "soak"});
    const std::optional<Frame> frame = raw_->receive();
    if (!frame) {
      refusal_ = "closed";
    } else if (frame->is(Type::kError)) {
      refusal_ = status_of(*frame);
    } else if (const auto welcome = proto::decode_welcome(frame->payload)) {
      chunk_bytes_ = welcome->chunk_bytes;
    } else {
      refusal_ = "no WELCOME";
    }
  } catch (const std::runtime_error& error) {
    // A refusal may come before HELLO was sent, and be lost with the connection.
    refusal_ = "closed";
  }
}

void Wire::encode_put(proto::Out& out, std::uint32_t id, const std::string& key, proto::Bytes value,
                      std::uint64_t ttl_ms) const {
  proto::PutRequest put;
  put.key = proto::as_bytes(key);
  put.size = value.size();
  put.ttl_ms = ttl_ms;
  put.is_inline = true;
  put.inline_bytes = value;
  put.inline_digest =
      proto::ValueHasher::of_single(proto::chunk_digest(value), chunk_bytes_, value.size());
  proto::encode(out, id, put);
}

std::string status_of(const Frame& error) {
  const auto message = proto::decode_error(error.payload);
  const auto status = message ? proto::status_from_code(message->code) : std::nullopt;
  return status ? std::string(proto::name(*status)) : "malformed ERROR";
}

}  // namespace cistern::soak
