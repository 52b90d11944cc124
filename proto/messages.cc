#include "proto/messages.h"

#include <algorithm>
#include <array>

namespace cistern::proto {
namespace {

constexpr auto kMessages = std::to_array<MessageInfo>({
#define CISTERN_MESSAGE(enumerator, code, name, sender) {Type::enumerator, name, Sender::sender},
#include "proto/message.def"
#undef CISTERN_MESSAGE
});

// A code is looked up for every frame, so by index.
constexpr auto kByCode = [] {
  std::array<const MessageInfo*, 256> table{};
  for (const MessageInfo& message : kMessages) {
    table[static_cast<std::uint8_t>(message.type)] = &message;
  }
  return table;
}();

}  // namespace

std::span<const MessageInfo> all_messages() { return kMessages; }

const MessageInfo* find_message(std::uint8_t code) { return kByCode[code]; }

FrameHeader decode_header(const std::byte* at) {
  FrameHeader header;
  header.length = load_le<std::uint32_t>(at);
  header.type = static_cast<std::uint8_t>(at[4]);
  header.flags = static_cast<std::uint8_t>(at[5]);
  header.reserved = load_le<std::uint16_t>(at + 6);
  header.id = load_le<std::uint32_t>(at + 8);
  return header;
}

void encode_header(std::byte* at, const FrameHeader& header) {
  store_le(at, header.length);
  at[4] = static_cast<std::byte>(header.type);
  at[5] = static_cast<std::byte>(header.flags);
  store_le(at + 6, header.reserved);
  store_le(at + 8, header.id);
}

}  // namespace cistern::proto
