// The decoders of messages.h for what a server sends.
#include <fmt/format.h>

#include "proto/decode_parts.h"

namespace cistern::proto {

using namespace detail;

Result<Welcome> decode_welcome(Bytes payload) {
  Cursor cursor(payload);
  Welcome message;
  if (cursor.integer<std::uint32_t>() != kMagic) {
    return fail(Status::kProtocolError, "the WELCOME does not begin with Cistern's magic number");
  }
  message.version = cursor.integer<std::uint16_t>();
  cursor.integer<std::uint16_t>();
  message.features = cursor.integer<std::uint64_t>();
  message.max_value_bytes = cursor.integer<std::uint64_t>();
  message.max_frame_bytes = cursor.integer<std::uint32_t>();
  message.chunk_bytes = cursor.integer<std::uint32_t>();
  message.max_key_bytes = cursor.integer<std::uint32_t>();
  message.max_metadata_bytes = cursor.integer<std::uint32_t>();
  message.max_inline_bytes = cursor.integer<std::uint32_t>();
  message.max_streams = cursor.integer<std::uint32_t>();
  message.stream_window_bytes = cursor.integer<std::uint32_t>();
  const auto tlv_bytes = cursor.integer<std::uint16_t>();
  cursor.integer<std::uint16_t>();
  const Bytes area = cursor.bytes(tlv_bytes);
  const Result<Items> items = finish_head(cursor, Type::kWelcome, 0, area, bit(Tlv::kName));
  if (!items) return tl::unexpected<Error>(items.error());
  message.name = items->name;
  return message;
}

Result<ValueHead> decode_value(Bytes payload) {
  Cursor cursor(payload);
  ValueHead message;
  const AnswerHead head = answer_head(cursor);
  message.flags = head.flags;
  message.size = cursor.integer<std::uint64_t>();
  message.version = cursor.integer<std::uint64_t>();
  message.expires_at_ms = cursor.integer<std::uint64_t>();
  message.chunk_bytes = cursor.integer<std::uint32_t>();
  cursor.integer<std::uint32_t>();
  const Bytes area = cursor.bytes(head.tlv_bytes);
  const Result<Items> items =
      finish_head(cursor, Type::kValue, head.flags, area, bit(Tlv::kMetadata) | bit(Tlv::kCover),
                  tail_of(head.flags));
  if (!items) return tl::unexpected<Error>(items.error());
  message.metadata = items->metadata;
  message.cover = items->cover;
  if ((head.flags & kValueInline) == 0) return message;
  message.inline_digest = cursor.digest();
  if (!cursor.ok()) return short_payload(Type::kValue);
  message.inline_bytes = cursor.bytes(cursor.left());
  if (message.size != message.inline_bytes.size()) {
    return fail(Status::kSizeMismatch,
                fmt::format("an inline VALUE declares {} bytes and carries {}", message.size,
                            message.inline_bytes.size()));
  }
  return message;
}

Result<Info> decode_info(Bytes payload) {
  Cursor cursor(payload);
  Info message;
  const AnswerHead head = answer_head(cursor);
  message.flags = head.flags;
  message.size = cursor.integer<std::uint64_t>();
  message.version = cursor.integer<std::uint64_t>();
  message.expires_at_ms = cursor.integer<std::uint64_t>();
  message.chunk_bytes = cursor.integer<std::uint32_t>();
  cursor.integer<std::uint32_t>();
  message.digest = cursor.digest();
  const Bytes area = cursor.bytes(head.tlv_bytes);
  const Result<Items> items =
      finish_head(cursor, Type::kInfo, head.flags, area, bit(Tlv::kMetadata));
  if (!items) return tl::unexpected<Error>(items.error());
  message.metadata = items->metadata;
  return message;
}

Result<Stored> decode_stored(Bytes payload) {
  Cursor cursor(payload);
  Stored message;
  const AnswerHead head = answer_head(cursor);
  message.flags = head.flags;
  message.size = cursor.integer<std::uint64_t>();
  message.version = cursor.integer<std::uint64_t>();
  message.expires_at_ms = cursor.integer<std::uint64_t>();
  const Bytes area = cursor.bytes(head.tlv_bytes);
  const Result<Items> items = finish_head(cursor, Type::kStored, head.flags, area, 0);
  if (!items) return tl::unexpected<Error>(items.error());
  return message;
}

Result<Done> decode_done(Bytes payload) {
  Cursor cursor(payload);
  Done message;
  const AnswerHead head = answer_head(cursor);
  message.flags = head.flags;
  message.version = cursor.integer<std::uint64_t>();
  message.expires_at_ms = cursor.integer<std::uint64_t>();
  const Bytes area = cursor.bytes(head.tlv_bytes);
  const Result<Items> items = finish_head(cursor, Type::kDone, head.flags, area, 0);
  if (!items) return tl::unexpected<Error>(items.error());
  return message;
}

Result<ErrorMessage> decode_error(Bytes payload) {
  Cursor cursor(payload);
  ErrorMessage message;
  message.code = cursor.integer<std::uint16_t>();
  const auto bits = cursor.integer<std::uint16_t>();
  message.retryable = (bits & kErrorRetryable) != 0;
  message.degraded = (bits & kErrorDegraded) != 0;
  const auto text_bytes = cursor.integer<std::uint16_t>();
  const auto tlv_bytes = cursor.integer<std::uint16_t>();
  message.message = as_text(cursor.bytes(text_bytes));
  const Bytes area = cursor.bytes(tlv_bytes);
  const Result<Items> items = finish_head(cursor, Type::kError, 0, area, 0);
  if (!items) return tl::unexpected<Error>(items.error());
  return message;
}

}  // namespace cistern::proto
