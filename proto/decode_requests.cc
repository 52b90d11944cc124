// The decoders of messages.h for what a client sends, and for what both do.
#include <fmt/format.h>

#include "proto/decode_parts.h"

namespace cistern::proto {

using namespace detail;

Result<Hello> decode_hello(Bytes payload) {
  Cursor cursor(payload);
  Hello message;
  if (cursor.integer<std::uint32_t>() != kMagic) {
    return fail(Status::kProtocolError, "the HELLO does not begin with Cistern's magic number");
  }
  message.version_min = cursor.integer<std::uint16_t>();
  message.version_max = cursor.integer<std::uint16_t>();
  message.features = cursor.integer<std::uint64_t>();
  const auto tlv_bytes = cursor.integer<std::uint16_t>();
  cursor.integer<std::uint16_t>();
  const Bytes area = cursor.bytes(tlv_bytes);
  const Result<Items> items = finish_head(cursor, Type::kHello, 0, area, bit(Tlv::kName));
  if (!items) return tl::unexpected<Error>(items.error());
  message.name = items->name;
  return message;
}

Result<GetRequest> decode_get(Bytes payload) {
  Cursor cursor(payload);
  GetRequest message;
  const KeyHead head = key_head(cursor);
  message.credit_bytes = cursor.integer<std::uint32_t>();
  message.frame_bytes = cursor.integer<std::uint32_t>();
  message.key = cursor.bytes(head.key_bytes);
  const Bytes area = cursor.bytes(head.tlv_bytes);
  if (is_plain(cursor, head.flags, area) && cursor.left() == 0) return message;
  const Result<Items> items =
      finish_head(cursor, Type::kGet, head.flags, area, bit(Tlv::kRange) | bit(Tlv::kIfChanged),
                  Tail::kNothing, kCompressed);
  if (!items) return tl::unexpected<Error>(items.error());
  message.range = items->range;
  message.if_changed = items->if_changed;
  message.compressed = (head.flags & kCompressed) != 0;
  return message;
}

Bytes key_ahead(Type type, Bytes payload) {
  if (type != Type::kGet && type != Type::kPut) return {};
  Cursor cursor(payload);
  const KeyHead head = key_head(cursor);
  // Credit and frame size; size and time to live.
  cursor.bytes(type == Type::kGet ? 8 : 16);
  const Bytes key = cursor.bytes(head.key_bytes);
  return cursor.ok() ? key : Bytes();
}

Result<PutRequest> decode_put(Bytes payload) {
  Cursor cursor(payload);
  PutRequest message;
  const KeyHead head = key_head(cursor);
  message.size = cursor.integer<std::uint64_t>();
  message.ttl_ms = cursor.integer<std::uint64_t>();
  message.key = cursor.bytes(head.key_bytes);
  const Bytes area = cursor.bytes(head.tlv_bytes);
  message.is_inline = (head.flags & kValueInline) != 0;
  if (!message.is_inline || !is_plain(cursor, head.flags, area)) {
    const Result<Items> items = finish_head(
        cursor, Type::kPut, head.flags, area,
        bit(Tlv::kIfVersion) | bit(Tlv::kIfAbsent) | bit(Tlv::kMetadata), tail_of(head.flags));
    if (!items) return tl::unexpected<Error>(items.error());
    message.if_version = items->if_version;
    message.if_absent = items->if_absent;
    message.metadata = items->metadata;
  }
  if (!message.is_inline) return message;
  message.inline_digest = cursor.digest();
  if (!cursor.ok()) return short_payload(Type::kPut);
  message.inline_bytes = cursor.bytes(cursor.left());
  if (message.size != message.inline_bytes.size()) {
    return fail(Status::kSizeMismatch, fmt::format("an inline PUT declares {} bytes and carries {}",
                                                   message.size, message.inline_bytes.size()));
  }
  return message;
}

Result<KeyRequest> decode_key_request(Bytes payload, Type type) {
  Cursor cursor(payload);
  KeyRequest message;
  const KeyHead head = key_head(cursor);
  message.key = cursor.bytes(head.key_bytes);
  const Bytes area = cursor.bytes(head.tlv_bytes);
  const Result<Items> items =
      finish_head(cursor, type, head.flags, area, type == Type::kDelete ? bit(Tlv::kIfVersion) : 0);
  if (!items) return tl::unexpected<Error>(items.error());
  message.if_version = items->if_version;
  return message;
}

Result<TouchRequest> decode_touch(Bytes payload) {
  Cursor cursor(payload);
  TouchRequest message;
  const KeyHead head = key_head(cursor);
  message.ttl_ms = cursor.integer<std::uint64_t>();
  message.key = cursor.bytes(head.key_bytes);
  const Bytes area = cursor.bytes(head.tlv_bytes);
  const Result<Items> items =
      finish_head(cursor, Type::kTouch, head.flags, area, bit(Tlv::kIfVersion));
  if (!items) return tl::unexpected<Error>(items.error());
  message.if_version = items->if_version;
  return message;
}

Result<End> decode_end(Bytes payload) {
  Cursor cursor(payload);
  End message;
  message.digest = cursor.digest();
  message.size = cursor.integer<std::uint64_t>();
  if (!cursor.ok()) return short_payload(Type::kEnd);
  if (cursor.left() > 0) return long_payload(Type::kEnd, cursor.left());
  return message;
}

Result<std::uint32_t> decode_credit(Bytes payload) {
  Cursor cursor(payload);
  const auto bytes = cursor.integer<std::uint32_t>();
  if (!cursor.ok() || cursor.left() > 0) {
    return fail(Status::kBadRequest, "a CREDIT frame is not 4 bytes long");
  }
  return bytes;
}

}  // namespace cistern::proto
