// The decoders of messages.h. Every read goes through Cursor, which can't pass the end.
#include <fmt/format.h>

#include "proto/messages.h"

namespace cistern::proto {
namespace {

class Cursor {
 public:
  explicit Cursor(Bytes bytes) : left_(bytes) {}

  bool ok() const { return ok_; }
  std::size_t left() const { return left_.size(); }

  Bytes bytes(std::size_t size) {
    if (size > left_.size()) {
      ok_ = false;
      left_ = {};
      return {};
    }
    const Bytes taken = left_.first(size);
    left_ = left_.subspan(size);
    return taken;
  }
  template <std::unsigned_integral T>
  T integer() {
    const Bytes taken = bytes(sizeof(T));
    return taken.empty() ? T{0} : load_le<T>(taken.data());
  }
  ValueDigest digest() {
    ValueDigest digest{};
    const Bytes taken = bytes(digest.size());
    if (!taken.empty()) std::memcpy(digest.data(), taken.data(), digest.size());
    return digest;
  }

 private:
  Bytes left_;
  bool ok_ = true;
};

tl::unexpected<Error> short_payload(Type type) {
  return fail(Status::kBadRequest,
              fmt::format("a {} frame is shorter than its head says",
                          find_message(static_cast<std::uint8_t>(type))->name));
}

tl::unexpected<Error> long_payload(Type type, std::size_t left) {
  return fail(Status::kBadRequest,
              fmt::format("a {} frame has {} bytes after its end",
                          find_message(static_cast<std::uint8_t>(type))->name, left));
}

// What TLV items a message may carry, as they are found.
struct Items {
  std::string_view name;
  std::optional<Range> range, cover;
  std::optional<std::uint64_t> if_changed, if_version;
  bool if_absent = false;
  Bytes metadata;
};

// The items that a message may carry, one bit for each; an empty set for a number that no message
// of this version has.
constexpr std::uint32_t bit(Tlv type) {
  switch (type) {
    case Tlv::kName:
      return 1u << 0;
    case Tlv::kRange:
      return 1u << 1;
    case Tlv::kIfChanged:
      return 1u << 2;
    case Tlv::kIfVersion:
      return 1u << 3;
    case Tlv::kIfAbsent:
      return 1u << 4;
    case Tlv::kMetadata:
      return 1u << 5;
    case Tlv::kCover:
      return 1u << 6;
  }
  return 0;
}

Result<Range> decode_range(Bytes value) {
  if (value.size() != 16) return fail(Status::kBadRequest, "a range item is not 16 bytes long");
  return Range{load_le<std::uint64_t>(value.data()), load_le<std::uint64_t>(value.data() + 8)};
}

Result<void> take_item(Items& items, Tlv type, Bytes value) {
  const auto version = [&](std::optional<std::uint64_t>& to) -> Result<void> {
    if (value.size() != 8) return fail(Status::kBadRequest, "a version item is not 8 bytes long");
    to = load_le<std::uint64_t>(value.data());
    return {};
  };
  switch (type) {
    case Tlv::kName:
      if (value.size() > kMaxNameBytes) {
        return fail(Status::kBadRequest, fmt::format("a name has {} bytes; at most {} are allowed",
                                                     value.size(), kMaxNameBytes));
      }
      items.name = as_text(value);
      return {};
    case Tlv::kRange:
    case Tlv::kCover: {
      const Result<Range> range = decode_range(value);
      if (!range) return tl::unexpected<Error>(range.error());
      (type == Tlv::kRange ? items.range : items.cover) = *range;
      return {};
    }
    case Tlv::kIfChanged:
      return version(items.if_changed);
    case Tlv::kIfVersion:
      return version(items.if_version);
    case Tlv::kIfAbsent:
      if (!value.empty()) return fail(Status::kBadRequest, "an if-absent item has a value");
      items.if_absent = true;
      return {};
    case Tlv::kMetadata:
      items.metadata = value;
      return {};
  }
  return {};
}

// `known` is a set of bit()s: the items that this message may carry.
Result<Items> decode_items(Bytes area, std::uint32_t known) {
  Items items;
  std::uint32_t seen = 0;
  Cursor cursor(area);
  while (cursor.left() > 0) {
    const auto number = cursor.integer<std::uint16_t>();
    const auto length = cursor.integer<std::uint16_t>();
    const Bytes value = cursor.bytes(length);
    if (!cursor.ok()) return fail(Status::kBadRequest, "a TLV item passes the end of its area");
    const auto type = static_cast<Tlv>(number);
    if ((known & bit(type)) == 0) {
      if ((number & kCriticalTlv) == 0) continue;
      return fail(Status::kUnsupported,
                  fmt::format("a TLV item of type {:#06x} is critical and not known here", number));
    }
    if ((seen & bit(type)) != 0) {
      return fail(Status::kBadRequest,
                  fmt::format("a TLV item of type {:#06x} is there twice", number));
    }
    seen |= bit(type);
    if (const Result<void> taken = take_item(items, type, value); !taken) {
      return tl::unexpected<Error>(taken.error());
    }
  }
  return items;
}

Result<void> check_flags(std::uint32_t flags) {
  if ((flags & kCriticalFlags) == 0) return {};
  return fail(Status::kUnsupported, fmt::format("the critical flags {:#010x} are not known here",
                                                flags & kCriticalFlags));
}

// The part that GET, PUT, DELETE, STAT, STATS and TOUCH share.
struct KeyHead {
  std::uint32_t flags;
  std::uint16_t key_bytes;
  std::uint16_t tlv_bytes;
};
KeyHead key_head(Cursor& cursor) {
  KeyHead head;
  head.flags = cursor.integer<std::uint32_t>();
  head.key_bytes = cursor.integer<std::uint16_t>();
  head.tlv_bytes = cursor.integer<std::uint16_t>();
  return head;
}

// The part that VALUE, INFO, STORED and DONE share.
struct AnswerHead {
  std::uint32_t flags;
  std::uint16_t tlv_bytes;
};
AnswerHead answer_head(Cursor& cursor) {
  AnswerHead head;
  head.flags = cursor.integer<std::uint32_t>();
  head.tlv_bytes = cursor.integer<std::uint16_t>();
  cursor.integer<std::uint16_t>();
  return head;
}

// What follows a head's fixed part, key and TLV area.
enum class Tail : std::uint8_t { kNothing, kInlineValue };

// Whether all of a head is there, without items and with no flag that must be known, as in most
// requests and answers: there is nothing to be checked of it, but for the tail.
bool is_plain(const Cursor& cursor, std::uint32_t flags, Bytes area) {
  return cursor.ok() && area.empty() && (flags & kCriticalFlags) == 0;
}

// Checks that the cursor read nothing past the end, that nothing is left, the flags, and the items.
Result<Items> finish_head(const Cursor& cursor, Type type, std::uint32_t flags, Bytes area,
                          std::uint32_t known, Tail tail = Tail::kNothing) {
  if (!cursor.ok()) return short_payload(type);
  if (is_plain(cursor, flags, area) && cursor.left() == 0) return Items();
  if (const Result<void> checked = check_flags(flags); !checked) {
    return tl::unexpected<Error>(checked.error());
  }
  if (tail == Tail::kNothing && cursor.left() > 0) return long_payload(type, cursor.left());
  return decode_items(area, known);
}

Tail tail_of(std::uint32_t flags) {
  return (flags & kValueInline) != 0 ? Tail::kInlineValue : Tail::kNothing;
}

}  // namespace

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
      finish_head(cursor, Type::kGet, head.flags, area, bit(Tlv::kRange) | bit(Tlv::kIfChanged));
  if (!items) return tl::unexpected<Error>(items.error());
  message.range = items->range;
  message.if_changed = items->if_changed;
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

Result<End> decode_end(Bytes payload) {
  Cursor cursor(payload);
  End message;
  message.digest = cursor.digest();
  message.size = cursor.integer<std::uint64_t>();
  if (!cursor.ok()) return short_payload(Type::kEnd);
  if (cursor.left() > 0) return long_payload(Type::kEnd, cursor.left());
  return message;
}

Result<ErrorMessage> decode_error(Bytes payload) {
  Cursor cursor(payload);
  ErrorMessage message;
  message.code = cursor.integer<std::uint16_t>();
  message.retryable = (cursor.integer<std::uint16_t>() & 1) != 0;
  const auto text_bytes = cursor.integer<std::uint16_t>();
  const auto tlv_bytes = cursor.integer<std::uint16_t>();
  message.message = as_text(cursor.bytes(text_bytes));
  const Bytes area = cursor.bytes(tlv_bytes);
  const Result<Items> items = finish_head(cursor, Type::kError, 0, area, 0);
  if (!items) return tl::unexpected<Error>(items.error());
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
