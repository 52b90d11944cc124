#include "proto/messages.h"

#include <cstdlib>

#include "proto/json.h"
#include "tests/fuzz/targets.h"

namespace cistern::fuzz {
namespace {

using namespace proto;

void require(bool holds) {
  if (!holds) std::abort();
}

// Decodes, encodes what came out, and decodes that.
template <typename Decode, typename Encode>
void check(Bytes payload, const Decode& decode, const Encode& encode_again) {
  const auto message = decode(payload);
  if (!message) {
    require(message.error().status == Status::kBadRequest ||
            message.error().status == Status::kUnsupported ||
            message.error().status == Status::kProtocolError ||
            message.error().status == Status::kSizeMismatch);
    require(!message.error().message.empty());
    return;
  }
  Out frame;
  encode_again(frame, *message);
  const FrameHeader header = decode_header(frame.data());
  require(header.length == frame.size() - kHeaderBytes);
  const Bytes again_payload = Bytes(frame).subspan(kHeaderBytes);
  const auto again = decode(again_payload);
  require(again.has_value());
  Out second;
  encode_again(second, *again);
  require(second == frame);
}

template <typename T>
void answer(Bytes payload, Result<T> (*decode)(Bytes)) {
  check(payload, decode, [](Out& out, const T& message) { encode(out, 1, message); });
}

}  // namespace

void messages(Bytes input) {
  if (input.empty() || input.size() > kMaxControlBytes) return;
  const unsigned kind = static_cast<unsigned>(input[0]) % 14;
  const Bytes payload = input.subspan(1);
  const auto key_request = [&](Type type) {
    check(
        payload, [type](Bytes bytes) { return decode_key_request(bytes, type); },
        [type](Out& out, const KeyRequest& message) { encode(out, 1, type, message); });
  };
  switch (kind) {
    case 0:
      return check(payload, decode_hello, [](Out& out, const Hello& m) { encode(out, m); });
    case 1:
      return check(payload, decode_welcome, [](Out& out, const Welcome& m) { encode(out, m); });
    case 2:
      return answer<GetRequest>(payload, decode_get);
    case 3:
      return answer<PutRequest>(payload, decode_put);
    case 4:
      return key_request(Type::kDelete);
    case 5:
      return key_request(Type::kStat);
    case 6:
      return answer<TouchRequest>(payload, decode_touch);
    case 7:
      return answer<ValueHead>(payload, decode_value);
    case 8:
      return answer<Info>(payload, decode_info);
    case 9:
      return answer<Stored>(payload, decode_stored);
    case 10:
      return answer<Done>(payload, decode_done);
    case 11:
      return answer<End>(payload, decode_end);
    case 12:
      return check(payload, decode_error,
                   [](Out& out, const ErrorMessage& m) { encode(out, 1, Type::kError, m); });
    default:
      return key_request(Type::kExplain);
  }
}

void json(Bytes input) {
  if (!is_json_object(input)) return;
  require(input.size() >= 2);
  // Blanks around it change nothing, anything else does.
  Out longer(input.begin(), input.end());
  longer.push_back(std::byte{' '});
  require(is_json_object(longer));
  longer.back() = std::byte{'x'};
  require(!is_json_object(longer));
}

}  // namespace cistern::fuzz
