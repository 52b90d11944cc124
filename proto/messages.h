// The messages of the wire: one struct each, its encoder and its decoder. PROTOCOL.md has the byte
// tables. Pure functions: an encoder appends one whole frame, a decoder looks at one frame's
// payload.
//
// Decoded structs hold views into the payload and live no longer than it. A decoder checks every
// length against the payload before it is used, and every TLV item's form; what depends on the
// server's settings (key and metadata limits) is checked by ServerConn.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "proto/bytes.h"
#include "proto/digest.h"
#include "proto/limits.h"
#include "proto/status.h"

namespace cistern::proto {

enum class Type : std::uint8_t {
#define CISTERN_MESSAGE(enumerator, code, name, sender) enumerator = code,
#include "proto/message.def"
#undef CISTERN_MESSAGE
};

enum class Sender : std::uint8_t { kClient, kServer, kBoth };

struct MessageInfo {
  Type type;
  std::string_view name{};
  Sender sender;
};
std::span<const MessageInfo> all_messages();
// Null when the list has no such type.
const MessageInfo* find_message(std::uint8_t code);
// A frame of an unknown type with this bit set is skipped; without it, it is an error.
inline constexpr std::uint8_t kIgnorableTypeBit = 0x40;
#define CISTERN_MESSAGE(enumerator, code, name, sender) static_assert(((code)&0x40) == 0);
#include "proto/message.def"
#undef CISTERN_MESSAGE

inline constexpr std::uint32_t kMagic = 0x4E545343;  // "CSTN"
inline constexpr std::uint16_t kProtocolVersion = 1;

struct FrameHeader {
  std::uint32_t length = 0;  // of the payload, in bytes
  std::uint8_t type = 0;
  std::uint8_t flags = 0;
  std::uint16_t reserved = 0;
  std::uint32_t id = 0;  // of the request; 0: the connection itself
};
// Header flag of DATA: these are the last bytes of a chunk, and its digest stands before them.
inline constexpr std::uint8_t kFlagChunkEnd = 0x01;

FrameHeader decode_header(const std::byte* twelve_bytes);
void encode_header(std::byte* twelve_bytes, const FrameHeader& header);

// Flags of a head: those of the upper half are critical, and a receiver that doesn't know one
// refuses the message; unknown ones of the lower half are ignored.
inline constexpr std::uint32_t kCriticalFlags = 0xFFFF0000;

// TLV types; the critical bit is part of the number.
inline constexpr std::uint16_t kCriticalTlv = 0x8000;
enum class Tlv : std::uint16_t {
  kName = 0x0010,       // HELLO, WELCOME: software and version, at most kMaxNameBytes
  kRange = 0x8001,      // GET: offset u64, length u64 (all ones: to the end)
  kIfChanged = 0x8002,  // GET: version u64; NOT_MODIFIED if the value still has it
  kIfVersion = 0x8003,  // PUT, DELETE, TOUCH: version u64
  kIfAbsent = 0x8004,   // PUT: no value
  kMetadata = 0x8005,   // PUT, VALUE, INFO: a JSON object
  kCover = 0x8006,      // VALUE: offset u64 and length u64 of the bytes that follow
};

struct Range {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;  // bytes; kUnknownSize: to the end
};

// Features, bits of HELLO and WELCOME.
inline constexpr std::uint64_t kFeatureExplain = 0x1;  // the request EXPLAIN
inline constexpr std::uint64_t kKnownFeatures = kFeatureExplain;

struct Hello {
  std::uint16_t version_min = kProtocolVersion;
  std::uint16_t version_max = kProtocolVersion;
  std::uint64_t features = 0;
  std::string_view name{};
};
struct Welcome {
  std::uint16_t version = kProtocolVersion;
  std::uint64_t features = 0;
  std::uint64_t max_value_bytes = 0;
  std::uint32_t max_frame_bytes = 0;
  std::uint32_t chunk_bytes = 0;
  std::uint32_t max_key_bytes = 0;
  std::uint32_t max_metadata_bytes = 0;
  std::uint32_t max_inline_bytes = 0;
  std::uint32_t max_streams = 0;
  std::uint32_t stream_window_bytes = 0;
  std::string_view name{};
};
struct GetRequest {
  Bytes key{};
  std::uint32_t credit_bytes = 0;  // first credit
  std::uint32_t frame_bytes = 0;   // most value bytes in one DATA frame; 0: the server's choice
  std::optional<Range> range{};
  std::optional<std::uint64_t> if_changed{};  // version
};
struct PutRequest {
  Bytes key{};
  std::uint64_t size = kUnknownSize;
  std::uint64_t ttl_ms = kDefaultTtl;  // 0: none; kDefaultTtl: storage.default_ttl
  bool if_absent = false;
  std::optional<std::uint64_t> if_version{};
  Bytes metadata{};
  // With is_inline the payload is here, complete, and no DATA or END follows.
  bool is_inline = false;
  ValueDigest inline_digest{};
  Bytes inline_bytes{};
};
struct KeyRequest {  // DELETE, STAT, EXPLAIN, and STATS with an empty key
  Bytes key{};
  std::optional<std::uint64_t> if_version{};  // DELETE
};
struct TouchRequest {
  Bytes key{};
  std::uint64_t ttl_ms = 0;  // as in PUT, from now on
  std::optional<std::uint64_t> if_version{};
};

inline constexpr std::uint32_t kValueInline = 0x1;    // VALUE: the payload is here, nothing follows
inline constexpr std::uint32_t kValueDegraded = 0x2;  // the second tier could not be asked
inline constexpr std::uint32_t kInL1 = 0x4;
inline constexpr std::uint32_t kInL2 = 0x8;

struct ValueHead {
  std::uint32_t flags = 0;
  std::uint64_t size = 0;  // of the whole value
  std::uint64_t version = 0;
  std::uint64_t expires_at_ms = 0;  // Unix time; 0: never
  std::uint32_t chunk_bytes = 0;
  Bytes metadata{};
  std::optional<Range> cover{};  // whole chunks that cover the range; absent: the whole value
  ValueDigest inline_digest{};   // with kValueInline
  Bytes inline_bytes{};
};
struct Info {  // answers STAT
  std::uint32_t flags = 0;
  std::uint64_t size = 0;
  std::uint64_t version = 0;
  std::uint64_t expires_at_ms = 0;
  std::uint32_t chunk_bytes = 0;
  ValueDigest digest{};
  Bytes metadata{};
};
struct Stored {  // answers PUT
  std::uint32_t flags = 0;
  std::uint64_t size = 0;
  std::uint64_t version = 0;
  std::uint64_t expires_at_ms = 0;
};
struct Done {  // answers DELETE and TOUCH
  std::uint32_t flags = 0;
  std::uint64_t version = 0;
  std::uint64_t expires_at_ms = 0;
};
struct End {
  ValueDigest digest{};
  std::uint64_t size = 0;  // of the whole value
};
inline constexpr std::uint16_t kErrorRetryable = 0x1;
inline constexpr std::uint16_t kErrorDegraded = 0x2;
struct ErrorMessage {  // ERROR and GOAWAY
  std::uint16_t code = 0;
  bool retryable = false;
  bool degraded = false;  // the second tier could not be asked
  std::string_view message{};
};

// A frame's bytes, appended. `id` 0 is the connection itself. The caller has checked the lengths
// against limits.h (kMaxKeyBytes, kMaxMetadataBytes, kMaxInlineBytes): past them the frame would be
// one that no receiver takes.
using Out = std::vector<std::byte>;
void encode(Out& out, const Hello& message);
void encode(Out& out, const Welcome& message);
void encode(Out& out, std::uint32_t id, const GetRequest& message);
void encode(Out& out, std::uint32_t id, const PutRequest& message);
void encode(Out& out, std::uint32_t id, Type type, const KeyRequest& message);
void encode(Out& out, std::uint32_t id, const TouchRequest& message);
void encode(Out& out, std::uint32_t id, const ValueHead& message);
void encode(Out& out, std::uint32_t id, const Info& message);
void encode(Out& out, std::uint32_t id, const Stored& message);
void encode(Out& out, std::uint32_t id, const Done& message);
void encode(Out& out, std::uint32_t id, const End& message);
// The message is cut at kMaxMessageBytes.
void encode(Out& out, std::uint32_t id, Type error_or_goaway, const ErrorMessage& message);
void encode_credit(Out& out, std::uint32_t id, std::uint32_t bytes);
// Header, and the digest if there is one, of a DATA frame; the value bytes follow by themselves.
void encode_data_head(Out& out, std::uint32_t id, std::size_t value_bytes,
                      std::optional<ChunkDigest> chunk_end);
// PING, PONG, STATS_RESULT, EXPLANATION and CANCEL: the payload as it is.
void encode_plain(Out& out, std::uint32_t id, Type type, Bytes payload);

// Errors are kBadRequest (malformed) or kUnsupported (an unknown critical item).
Result<Hello> decode_hello(Bytes payload);
Result<Welcome> decode_welcome(Bytes payload);
Result<GetRequest> decode_get(Bytes payload);
// The key of a GET or PUT alone, unchecked; empty when the payload is too short for it.
Bytes key_ahead(Type type, Bytes payload);
Result<PutRequest> decode_put(Bytes payload);
Result<KeyRequest> decode_key_request(Bytes payload, Type type);
Result<TouchRequest> decode_touch(Bytes payload);
Result<ValueHead> decode_value(Bytes payload);
Result<Info> decode_info(Bytes payload);
Result<Stored> decode_stored(Bytes payload);
Result<Done> decode_done(Bytes payload);
Result<End> decode_end(Bytes payload);
Result<ErrorMessage> decode_error(Bytes payload);
// 1 or more.
Result<std::uint32_t> decode_credit(Bytes payload);

}  // namespace cistern::proto
