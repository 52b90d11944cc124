#include "proto/decode_parts.h"

#include <fmt/format.h>

namespace cistern::proto::detail {
namespace {

Result<Range> decode_range(Bytes value) {
  if (value.size() != 16) return fail(Status::kBadRequest, "a range item is not 16 bytes long");
  return Range{load_le<std::uint64_t>(value.data()), load_le<std::uint64_t>(value.data() + 8)};
}

Result<void> take_item(Items& items, Tlv type, Bytes value) {
  const auto number = [&](std::optional<std::uint64_t>& to, std::string_view what) -> Result<void> {
    if (value.size() != 8) {
      return fail(Status::kBadRequest, fmt::format("{} item is not 8 bytes long", what));
    }
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
      return number(items.if_changed, "a version");
    case Tlv::kIfVersion:
      return number(items.if_version, "a version");
    case Tlv::kAge:
      return number(items.age_ms, "an age");
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

}  // namespace

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

Result<Items> finish_head(const Cursor& cursor, Type type, std::uint32_t flags, Bytes area,
                          std::uint32_t known, Tail tail, std::uint32_t known_critical_flags) {
  if (!cursor.ok()) return short_payload(type);
  if (is_plain(cursor, flags, area) && cursor.left() == 0) return Items();
  if (const Result<void> checked = check_flags(flags & ~known_critical_flags); !checked) {
    return tl::unexpected<Error>(checked.error());
  }
  if (tail == Tail::kNothing && cursor.left() > 0) return long_payload(type, cursor.left());
  return decode_items(area, known);
}

}  // namespace cistern::proto::detail
