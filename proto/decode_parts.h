// Private to proto: what the decoders of requests and of answers share. Every read goes through
// Cursor, which can't pass the end.
#pragma once

#include <concepts>
#include <cstring>
#include <optional>
#include <string_view>

#include "proto/messages.h"

namespace cistern::proto::detail {

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

tl::unexpected<Error> short_payload(Type type);
tl::unexpected<Error> long_payload(Type type, std::size_t left);

// What TLV items a message may carry, as they are found.
struct Items {
  std::string_view name;
  std::optional<Range> range, cover;
  std::optional<std::uint64_t> if_changed, if_version, age_ms;
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
    case Tlv::kAge:
      return 1u << 7;
  }
  return 0;
}

// The part that GET, PUT, DELETE, STAT, STATS, EXPLAIN and TOUCH share.
struct KeyHead {
  std::uint32_t flags;
  std::uint16_t key_bytes;
  std::uint16_t tlv_bytes;
};
inline KeyHead key_head(Cursor& cursor) {
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
inline AnswerHead answer_head(Cursor& cursor) {
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
inline bool is_plain(const Cursor& cursor, std::uint32_t flags, Bytes area) {
  return cursor.ok() && area.empty() && (flags & kCriticalFlags) == 0;
}

// Checks that the cursor read nothing past the end, that nothing is left, the flags, and the items.
// `known` is a set of bit()s: the items that this message may carry.
Result<Items> finish_head(const Cursor& cursor, Type type, std::uint32_t flags, Bytes area,
                          std::uint32_t known, Tail tail = Tail::kNothing,
                          std::uint32_t known_critical_flags = 0);

inline Tail tail_of(std::uint32_t flags) {
  return (flags & kValueInline) != 0 ? Tail::kInlineValue : Tail::kNothing;
}

}  // namespace cistern::proto::detail
