// The encoders of messages.h.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "proto/messages.h"

namespace cistern::proto {
namespace {

// Appends one frame: the header when it is made, the payload by the calls, the length at the end.
class FrameWriter {
 public:
  FrameWriter(Out& out, Type type, std::uint32_t id)
      : out_(out), start_(out.size()), end_(start_ + kHeaderBytes) {
    out.resize(start_ + kRoomBytes);
    encode_header(out.data() + start_,
                  FrameHeader{.type = static_cast<std::uint8_t>(type), .id = id});
  }
  FrameWriter(const FrameWriter&) = delete;
  FrameWriter& operator=(const FrameWriter&) = delete;
  ~FrameWriter() {
    out_.resize(end_);
    store_le(out_.data() + start_, static_cast<std::uint32_t>(end_ - start_ - kHeaderBytes));
  }

  template <std::unsigned_integral T>
  FrameWriter& integer(T value) {
    if (out_.size() - end_ < sizeof value) out_.resize(end_ + kRoomBytes);
    store_le(out_.data() + end_, value);
    end_ += sizeof value;
    return *this;
  }
  // A length that the caller has bounded by the field's type.
  template <std::unsigned_integral T>
  FrameWriter& length(std::size_t value) {
    if (value > static_cast<T>(-1)) std::abort();
    return integer(static_cast<T>(value));
  }
  FrameWriter& bytes(Bytes bytes) {
    if (out_.size() - end_ >= bytes.size()) {
      if (!bytes.empty()) std::memcpy(out_.data() + end_, bytes.data(), bytes.size());
    } else {
      out_.resize(end_);
      out_.insert(out_.end(), bytes.begin(), bytes.end());
    }
    end_ += bytes.size();
    return *this;
  }
  // Begins the TLV area, whose length stands at `length_at` payload bytes from the frame's start.
  void tlv_begin(std::size_t length_at) {
    tlv_length_at_ = start_ + kHeaderBytes + length_at;
    tlv_start_ = end_;
  }
  void tlv(Tlv type, Bytes value) {
    integer(static_cast<std::uint16_t>(type)).length<std::uint16_t>(value.size()).bytes(value);
  }
  void tlv(Tlv type, std::uint64_t value) {
    integer(static_cast<std::uint16_t>(type)).length<std::uint16_t>(sizeof value).integer(value);
  }
  void tlv(Tlv type, const Range& range) {
    integer(static_cast<std::uint16_t>(type)).length<std::uint16_t>(16);
    integer(range.offset).integer(range.length);
  }
  void tlv_end() {
    const std::size_t size = end_ - tlv_start_;
    if (size > 0xFFFF) std::abort();
    store_le(out_.data() + tlv_length_at_, static_cast<std::uint16_t>(size));
  }

 private:
  // For a head and a small value: fields are stored without asking for room each.
  static constexpr std::size_t kRoomBytes = 192;

  Out& out_;  // beyond end_: room
  const std::size_t start_;
  std::size_t end_;
  std::size_t tlv_length_at_ = 0;
  std::size_t tlv_start_ = 0;
};

constexpr std::uint16_t kZero16 = 0;
constexpr std::uint32_t kZero32 = 0;

// At most `size` bytes of UTF-8, not cut within a character.
std::string_view cut_text(std::string_view text, std::size_t size) {
  if (text.size() <= size) return text;
  while (size > 0 && (static_cast<unsigned char>(text[size]) & 0xC0) == 0x80) --size;
  return text.substr(0, size);
}

void put_name(FrameWriter& frame, std::size_t length_at, std::string_view name) {
  frame.tlv_begin(length_at);
  if (!name.empty()) frame.tlv(Tlv::kName, as_bytes(cut_text(name, kMaxNameBytes)));
  frame.tlv_end();
}

}  // namespace

void encode(Out& out, const Hello& message) {
  FrameWriter frame(out, Type::kHello, 0);
  frame.integer(kMagic).integer(message.version_min).integer(message.version_max);
  frame.integer(message.features).integer(kZero16).integer(kZero16);
  put_name(frame, 16, message.name);
}

void encode(Out& out, const Welcome& message) {
  FrameWriter frame(out, Type::kWelcome, 0);
  frame.integer(kMagic).integer(message.version).integer(kZero16).integer(message.features);
  frame.integer(message.max_value_bytes).integer(message.max_frame_bytes);
  frame.integer(message.chunk_bytes).integer(message.max_key_bytes);
  frame.integer(message.max_metadata_bytes).integer(message.max_inline_bytes);
  frame.integer(message.max_streams).integer(message.stream_window_bytes);
  frame.integer(kZero16).integer(kZero16);
  put_name(frame, 52, message.name);
}

void encode(Out& out, std::uint32_t id, const GetRequest& message) {
  FrameWriter frame(out, Type::kGet, id);
  frame.integer(kZero32).length<std::uint16_t>(message.key.size()).integer(kZero16);
  frame.integer(message.credit_bytes).integer(message.frame_bytes).bytes(message.key);
  frame.tlv_begin(6);
  if (message.range) frame.tlv(Tlv::kRange, *message.range);
  if (message.if_changed) frame.tlv(Tlv::kIfChanged, *message.if_changed);
  frame.tlv_end();
}

void encode(Out& out, std::uint32_t id, const PutRequest& message) {
  FrameWriter frame(out, Type::kPut, id);
  frame.integer(static_cast<std::uint32_t>(message.is_inline ? kValueInline : 0));
  frame.length<std::uint16_t>(message.key.size()).integer(kZero16);
  frame.integer(message.size).integer(message.ttl_ms).bytes(message.key);
  frame.tlv_begin(6);
  if (message.if_version) frame.tlv(Tlv::kIfVersion, *message.if_version);
  if (message.if_absent) frame.tlv(Tlv::kIfAbsent, Bytes());
  if (!message.metadata.empty()) frame.tlv(Tlv::kMetadata, message.metadata);
  frame.tlv_end();
  if (message.is_inline) frame.bytes(message.inline_digest).bytes(message.inline_bytes);
}

void encode(Out& out, std::uint32_t id, Type type, const KeyRequest& message) {
  FrameWriter frame(out, type, id);
  frame.integer(kZero32).length<std::uint16_t>(message.key.size()).integer(kZero16);
  frame.bytes(message.key);
  frame.tlv_begin(6);
  if (message.if_version) frame.tlv(Tlv::kIfVersion, *message.if_version);
  frame.tlv_end();
}

void encode(Out& out, std::uint32_t id, const TouchRequest& message) {
  FrameWriter frame(out, Type::kTouch, id);
  frame.integer(kZero32).length<std::uint16_t>(message.key.size()).integer(kZero16);
  frame.integer(message.ttl_ms).bytes(message.key);
  frame.tlv_begin(6);
  if (message.if_version) frame.tlv(Tlv::kIfVersion, *message.if_version);
  frame.tlv_end();
}

void encode(Out& out, std::uint32_t id, const ValueHead& message) {
  FrameWriter frame(out, Type::kValue, id);
  frame.integer(message.flags).integer(kZero16).integer(kZero16);
  frame.integer(message.size).integer(message.version).integer(message.expires_at_ms);
  frame.integer(message.chunk_bytes).integer(kZero32);
  frame.tlv_begin(4);
  if (!message.metadata.empty()) frame.tlv(Tlv::kMetadata, message.metadata);
  if (message.cover) frame.tlv(Tlv::kCover, *message.cover);
  frame.tlv_end();
  if ((message.flags & kValueInline) != 0) {
    frame.bytes(message.inline_digest).bytes(message.inline_bytes);
  }
}

void encode(Out& out, std::uint32_t id, const Info& message) {
  FrameWriter frame(out, Type::kInfo, id);
  frame.integer(message.flags).integer(kZero16).integer(kZero16);
  frame.integer(message.size).integer(message.version).integer(message.expires_at_ms);
  frame.integer(message.chunk_bytes).integer(kZero32).bytes(message.digest);
  frame.tlv_begin(4);
  if (!message.metadata.empty()) frame.tlv(Tlv::kMetadata, message.metadata);
  frame.tlv_end();
}

void encode(Out& out, std::uint32_t id, const Stored& message) {
  FrameWriter frame(out, Type::kStored, id);
  frame.integer(message.flags).integer(kZero16).integer(kZero16);
  frame.integer(message.size).integer(message.version).integer(message.expires_at_ms);
}

void encode(Out& out, std::uint32_t id, const Done& message) {
  FrameWriter frame(out, Type::kDone, id);
  frame.integer(message.flags).integer(kZero16).integer(kZero16);
  frame.integer(message.version).integer(message.expires_at_ms);
}

void encode(Out& out, std::uint32_t id, const End& message) {
  FrameWriter frame(out, Type::kEnd, id);
  frame.bytes(message.digest).integer(message.size);
}

void encode(Out& out, std::uint32_t id, Type type, const ErrorMessage& message) {
  const std::string_view text = cut_text(message.message, kMaxMessageBytes);
  FrameWriter frame(out, type, id);
  const int bits =
      (message.retryable ? kErrorRetryable : 0) | (message.degraded ? kErrorDegraded : 0);
  frame.integer(message.code).integer(static_cast<std::uint16_t>(bits));
  frame.length<std::uint16_t>(text.size()).integer(kZero16).bytes(as_bytes(text));
}

void encode_credit(Out& out, std::uint32_t id, std::uint32_t bytes) {
  FrameWriter(out, Type::kCredit, id).integer(bytes);
}

void encode_data_head(Out& out, std::uint32_t id, std::size_t value_bytes,
                      std::optional<ChunkDigest> chunk_end) {
  const std::size_t digest_bytes = chunk_end ? kChunkDigestBytes : 0;
  const std::size_t at = out.size();
  out.resize(at + kHeaderBytes + digest_bytes);
  encode_header(out.data() + at,
                FrameHeader{.length = static_cast<std::uint32_t>(value_bytes + digest_bytes),
                            .type = static_cast<std::uint8_t>(Type::kData),
                            .flags = chunk_end ? kFlagChunkEnd : std::uint8_t{0},
                            .id = id});
  if (chunk_end) store_le(out.data() + at + kHeaderBytes, *chunk_end);
}

void encode_plain(Out& out, std::uint32_t id, Type type, Bytes payload) {
  FrameWriter(out, type, id).bytes(payload);
}

}  // namespace cistern::proto
