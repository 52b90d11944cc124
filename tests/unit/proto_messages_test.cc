#include <gtest/gtest.h>

#include "proto/messages.h"
#include "tests/support/proto_wire.h"

namespace cistern::proto {
namespace {

using testing::Buffer;

ValueDigest some_digest() {
  ValueDigest digest;
  for (std::size_t i = 0; i < digest.size(); ++i) digest[i] = static_cast<std::byte>(0xA0 + i);
  return digest;
}

template <typename... Parts>
Buffer encoded(const Parts&... parts) {
  Out out;
  encode(out, parts...);
  return out;
}
// The payload of the one frame in `bytes`, whose header is checked.
Bytes payload_of(const Buffer& bytes, Type type, std::uint32_t id) {
  const FrameHeader header = decode_header(bytes.data());
  EXPECT_EQ(header.length, bytes.size() - kHeaderBytes);
  EXPECT_EQ(header.type, static_cast<std::uint8_t>(type));
  EXPECT_EQ(header.flags, 0);
  EXPECT_EQ(header.reserved, 0);
  EXPECT_EQ(header.id, id);
  return Bytes(bytes).subspan(kHeaderBytes);
}
Bytes body(const Buffer& bytes) { return Bytes(bytes).subspan(kHeaderBytes); }

GetRequest full_get() {
  return GetRequest{.key = as_bytes("key"),
                    .credit_bytes = 7,
                    .frame_bytes = 2048,
                    .range = Range{5, kUnknownSize},
                    .if_changed = 0x1122334455667788};
}
PutRequest full_put() {
  PutRequest put;
  put.key = as_bytes("key");
  put.size = 5;
  put.ttl_ms = 1000;
  put.if_absent = true;
  put.if_version = 9;
  put.metadata = as_bytes("{\"a\":1}");
  put.is_inline = true;
  put.inline_digest = some_digest();
  put.inline_bytes = as_bytes("12345");
  return put;
}
ValueHead full_value() {
  ValueHead head;
  head.flags = kValueInline | kInL1;
  head.size = 5;
  head.version = 3;
  head.expires_at_ms = 4;
  head.chunk_bytes = 4096;
  head.metadata = as_bytes("{}");
  head.cover = Range{0, 5};
  head.inline_digest = some_digest();
  head.inline_bytes = as_bytes("12345");
  return head;
}

// Every message once, with all that it can carry, and its decoder.
struct Sample {
  std::string name;
  Buffer frame;
  std::function<std::optional<Error>(Bytes)> decode;
  std::size_t tlv_length_at = 0;  // in the payload; 0: has none
  std::size_t flags_at = ~std::size_t{0};
  bool open_end = false;  // the payload's end is not marked by a length
};
template <typename T>
std::optional<Error> failure(const Result<T>& result) {
  if (result) return std::nullopt;
  return result.error();
}
std::vector<Sample> samples() {
  std::vector<Sample> all;
  all.push_back({"HELLO", encoded(Hello{.features = 3, .name = "me"}),
                 [](Bytes b) { return failure(decode_hello(b)); }, 16});
  all.push_back({"WELCOME", encoded(Welcome{.name = "me"}),
                 [](Bytes b) { return failure(decode_welcome(b)); }, 52});
  all.push_back(
      {"GET", encoded(1u, full_get()), [](Bytes b) { return failure(decode_get(b)); }, 6, 0});
  all.push_back(
      {"PUT", encoded(1u, full_put()), [](Bytes b) { return failure(decode_put(b)); }, 6, 0});
  const KeyRequest key{.key = as_bytes("key"), .if_version = 4};
  all.push_back({"DELETE", encoded(1u, Type::kDelete, key),
                 [](Bytes b) { return failure(decode_key_request(b, Type::kDelete)); }, 6, 0});
  all.push_back({"STAT", encoded(1u, Type::kStat, KeyRequest{.key = as_bytes("key")}),
                 [](Bytes b) { return failure(decode_key_request(b, Type::kStat)); }, 6, 0});
  all.push_back({"EXPLAIN", encoded(1u, Type::kExplain, KeyRequest{.key = as_bytes("key")}),
                 [](Bytes b) { return failure(decode_key_request(b, Type::kExplain)); }, 6, 0});
  all.push_back({"TOUCH",
                 encoded(1u, TouchRequest{.key = as_bytes("key"), .ttl_ms = 5, .if_version = 1}),
                 [](Bytes b) { return failure(decode_touch(b)); }, 6, 0});
  all.push_back(
      {"VALUE", encoded(1u, full_value()), [](Bytes b) { return failure(decode_value(b)); }, 4, 0});
  all.push_back({"INFO",
                 encoded(1u, Info{.size = 1, .digest = some_digest(), .metadata = as_bytes("{}")}),
                 [](Bytes b) { return failure(decode_info(b)); }, 4, 0});
  all.push_back({"STORED", encoded(1u, Stored{.size = 1}),
                 [](Bytes b) { return failure(decode_stored(b)); }, 4, 0});
  all.push_back({"DONE", encoded(1u, Done{.version = 1}),
                 [](Bytes b) { return failure(decode_done(b)); }, 4, 0});
  all.push_back({"END", encoded(1u, End{.digest = some_digest(), .size = 2}),
                 [](Bytes b) { return failure(decode_end(b)); }});
  all.push_back({"ERROR", encoded(1u, Type::kError, ErrorMessage{.code = 1, .message = "no"}),
                 [](Bytes b) { return failure(decode_error(b)); }, 6});
  Out credit;
  encode_credit(credit, 1, 77);
  all.push_back({"CREDIT", credit, [](Bytes b) { return failure(decode_credit(b)); }});
  return all;
}

TEST(Messages, TheKeyOfAGetOrPutIsSeenAhead) {
  const Buffer get = encoded(1u, full_get());
  const Buffer put = encoded(1u, full_put());
  EXPECT_EQ(as_text(key_ahead(Type::kGet, body(get))), "key");
  EXPECT_EQ(as_text(key_ahead(Type::kPut, body(put))), "key");
  EXPECT_TRUE(key_ahead(Type::kStat, body(get)).empty());
  EXPECT_TRUE(key_ahead(Type::kGet, body(get).first(18)).empty());
}

TEST(Messages, HelloAndWelcomeComeBack) {
  const Buffer hello =
      encoded(Hello{.version_min = 1, .version_max = 7, .features = 0xF00D, .name = "client 1.0"});
  const auto hello_back = decode_hello(payload_of(hello, Type::kHello, 0));
  ASSERT_TRUE(hello_back);
  EXPECT_EQ(hello_back->version_min, 1);
  EXPECT_EQ(hello_back->version_max, 7);
  EXPECT_EQ(hello_back->features, 0xF00Du);
  EXPECT_EQ(hello_back->name, "client 1.0");

  Welcome welcome{2, 3, 4, 5, 6, 7, 8, 9, 10, 11, "server 1.0"};
  const Buffer bytes = encoded(welcome);
  const auto back = decode_welcome(payload_of(bytes, Type::kWelcome, 0));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->version, 2);
  EXPECT_EQ(back->features, 3u);
  EXPECT_EQ(back->max_value_bytes, 4u);
  EXPECT_EQ(back->max_frame_bytes, 5u);
  EXPECT_EQ(back->chunk_bytes, 6u);
  EXPECT_EQ(back->max_key_bytes, 7u);
  EXPECT_EQ(back->max_metadata_bytes, 8u);
  EXPECT_EQ(back->max_inline_bytes, 9u);
  EXPECT_EQ(back->max_streams, 10u);
  EXPECT_EQ(back->stream_window_bytes, 11u);
  EXPECT_EQ(back->name, "server 1.0");
}

TEST(Messages, RequestsComeBack) {
  const Buffer get = encoded(8u, full_get());
  const auto get_back = decode_get(payload_of(get, Type::kGet, 8));
  ASSERT_TRUE(get_back);
  EXPECT_EQ(as_text(get_back->key), "key");
  EXPECT_EQ(get_back->credit_bytes, 7u);
  EXPECT_EQ(get_back->frame_bytes, 2048u);
  EXPECT_EQ(get_back->range->offset, 5u);
  EXPECT_EQ(get_back->range->length, kUnknownSize);
  EXPECT_EQ(*get_back->if_changed, 0x1122334455667788u);

  const Buffer put = encoded(9u, full_put());
  const auto put_back = decode_put(payload_of(put, Type::kPut, 9));
  ASSERT_TRUE(put_back);
  EXPECT_EQ(as_text(put_back->key), "key");
  EXPECT_EQ(put_back->size, 5u);
  EXPECT_EQ(put_back->ttl_ms, 1000u);
  EXPECT_TRUE(put_back->if_absent);
  EXPECT_EQ(*put_back->if_version, 9u);
  EXPECT_EQ(as_text(put_back->metadata), "{\"a\":1}");
  EXPECT_TRUE(put_back->is_inline);
  EXPECT_EQ(put_back->inline_digest, some_digest());
  EXPECT_EQ(as_text(put_back->inline_bytes), "12345");

  const Buffer streamed = encoded(9u, PutRequest{.key = as_bytes("k")});
  const auto streamed_back = decode_put(body(streamed));
  ASSERT_TRUE(streamed_back);
  EXPECT_FALSE(streamed_back->is_inline);
  EXPECT_FALSE(streamed_back->if_absent);
  EXPECT_FALSE(streamed_back->if_version);
  EXPECT_EQ(streamed_back->size, kUnknownSize);
  EXPECT_EQ(streamed_back->ttl_ms, kDefaultTtl);

  const Buffer touch = encoded(2u, TouchRequest{as_bytes("t"), 77, 5});
  const auto touch_back = decode_touch(payload_of(touch, Type::kTouch, 2));
  ASSERT_TRUE(touch_back);
  EXPECT_EQ(as_text(touch_back->key), "t");
  EXPECT_EQ(touch_back->ttl_ms, 77u);
  EXPECT_EQ(*touch_back->if_version, 5u);

  const Buffer remove = encoded(2u, Type::kDelete, KeyRequest{as_bytes("d"), 6});
  const auto remove_back = decode_key_request(payload_of(remove, Type::kDelete, 2), Type::kDelete);
  ASSERT_TRUE(remove_back);
  EXPECT_EQ(as_text(remove_back->key), "d");
  EXPECT_EQ(*remove_back->if_version, 6u);
}

TEST(Messages, AnswersComeBack) {
  const Buffer value = encoded(8u, full_value());
  const auto head = decode_value(payload_of(value, Type::kValue, 8));
  ASSERT_TRUE(head);
  EXPECT_EQ(head->flags, kValueInline | kInL1);
  EXPECT_EQ(head->size, 5u);
  EXPECT_EQ(head->version, 3u);
  EXPECT_EQ(head->expires_at_ms, 4u);
  EXPECT_EQ(head->chunk_bytes, 4096u);
  EXPECT_EQ(as_text(head->metadata), "{}");
  EXPECT_EQ(head->cover->length, 5u);
  EXPECT_EQ(head->inline_digest, some_digest());
  EXPECT_EQ(as_text(head->inline_bytes), "12345");

  const Buffer info = encoded(3u, Info{kInL2, 1, 2, 3, 4, some_digest(), as_bytes("{}")});
  const auto info_back = decode_info(payload_of(info, Type::kInfo, 3));
  ASSERT_TRUE(info_back);
  EXPECT_EQ(info_back->flags, kInL2);
  EXPECT_EQ(info_back->size, 1u);
  EXPECT_EQ(info_back->version, 2u);
  EXPECT_EQ(info_back->expires_at_ms, 3u);
  EXPECT_EQ(info_back->chunk_bytes, 4u);
  EXPECT_EQ(info_back->digest, some_digest());
  EXPECT_EQ(as_text(info_back->metadata), "{}");

  const Buffer stored = encoded(3u, Stored{kInL1, 1, 2, 3});
  const auto stored_back = decode_stored(payload_of(stored, Type::kStored, 3));
  ASSERT_TRUE(stored_back);
  EXPECT_EQ(stored_back->flags, kInL1);
  EXPECT_EQ(stored_back->size, 1u);
  EXPECT_EQ(stored_back->version, 2u);
  EXPECT_EQ(stored_back->expires_at_ms, 3u);

  const Buffer done = encoded(3u, Done{0, 2, 3});
  const auto done_back = decode_done(payload_of(done, Type::kDone, 3));
  ASSERT_TRUE(done_back);
  EXPECT_EQ(done_back->version, 2u);
  EXPECT_EQ(done_back->expires_at_ms, 3u);

  const Buffer end = encoded(3u, End{some_digest(), 1234});
  const auto end_back = decode_end(payload_of(end, Type::kEnd, 3));
  ASSERT_TRUE(end_back);
  EXPECT_EQ(end_back->digest, some_digest());
  EXPECT_EQ(end_back->size, 1234u);

  const Buffer error =
      encoded(0u, Type::kGoaway, ErrorMessage{.code = 38, .retryable = true, .message = "later"});
  const auto error_back = decode_error(payload_of(error, Type::kGoaway, 0));
  ASSERT_TRUE(error_back);
  EXPECT_EQ(error_back->code, 38);
  EXPECT_TRUE(error_back->retryable);
  EXPECT_FALSE(error_back->degraded);
  EXPECT_EQ(error_back->message, "later");
  const Buffer miss = encoded(7u, Type::kError, ErrorMessage{.code = 1, .degraded = true});
  const auto miss_back = decode_error(payload_of(miss, Type::kError, 7));
  ASSERT_TRUE(miss_back);
  EXPECT_FALSE(miss_back->retryable);
  EXPECT_TRUE(miss_back->degraded);
}

TEST(Messages, LongTextIsCutBetweenCharacters) {
  // The bound falls within a character of two bytes.
  const std::string text = std::string(kMaxMessageBytes - 1, 'x') + "\xC3\xA9";
  const Buffer error =
      encoded(0u, Type::kError, ErrorMessage{.code = 16, .retryable = false, .message = text});
  EXPECT_EQ(decode_error(body(error))->message, std::string(kMaxMessageBytes - 1, 'x'));
  const std::string name = std::string(kMaxNameBytes - 2, 'n') + "\xE2\x82\xAC";
  EXPECT_EQ(decode_hello(body(encoded(Hello{.name = name})))->name,
            std::string(kMaxNameBytes - 2, 'n'));
}

TEST(Messages, EveryTruncationIsRefused) {
  for (const Sample& sample : samples()) {
    const Bytes whole = body(sample.frame);
    EXPECT_FALSE(sample.decode(whole)) << sample.name;
    for (std::size_t size = 0; size < whole.size(); ++size) {
      // In a copy of its own, so that AddressSanitizer sees a read past the end.
      const Buffer part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
      EXPECT_TRUE(sample.decode(part)) << sample.name << " cut to " << size;
    }
  }
}

TEST(Messages, BytesAfterTheEndAreRefused) {
  for (const Sample& sample : samples()) {
    Buffer longer(body(sample.frame).begin(), body(sample.frame).end());
    longer.push_back(std::byte{0});
    const auto error = sample.decode(longer);
    ASSERT_TRUE(error) << sample.name;
    // An inline value ends with its frame, so there it's the declared size that is wrong.
    const bool is_inline = sample.name == "PUT" || sample.name == "VALUE";
    EXPECT_EQ(error->status, is_inline ? Status::kSizeMismatch : Status::kBadRequest)
        << sample.name;
  }
}

TEST(Messages, LengthFieldsThatPassTheEndAreRefused) {
  for (const Sample& sample : samples()) {
    if (sample.tlv_length_at == 0) continue;
    const Bytes whole = body(sample.frame);
    const auto right = load_le<std::uint16_t>(whole.data() + sample.tlv_length_at);
    for (const unsigned value : {0u, 1u, right - 1u, right + 1u, 0x7FFFu, 0xFFFFu}) {
      if (value == right || value > 0xFFFF) continue;
      Buffer changed(whole.begin(), whole.end());
      store_le(changed.data() + sample.tlv_length_at, static_cast<std::uint16_t>(value));
      EXPECT_TRUE(sample.decode(changed)) << sample.name << " with a TLV area of " << value;
    }
  }
  // The key's length, which stands before the TLV area's.
  const Buffer get = encoded(1u, full_get());
  for (const unsigned value : {0u, 1u, 2u, 4u, 5u, 0x7FFFu, 0xFFFFu}) {
    Buffer changed(body(get).begin(), body(get).end());
    store_le(changed.data() + 4, static_cast<std::uint16_t>(value));
    EXPECT_FALSE(decode_get(changed)) << value;
  }
  // The text of an error.
  const Buffer error =
      encoded(1u, Type::kError, ErrorMessage{.code = 1, .retryable = false, .message = "text"});
  for (const unsigned value : {0u, 3u, 5u, 0xFFFFu}) {
    Buffer changed(body(error).begin(), body(error).end());
    store_le(changed.data() + 4, static_cast<std::uint16_t>(value));
    EXPECT_FALSE(decode_error(changed)) << value;
  }
}

// ---- Flags and TLV items

// GET "k" with this TLV area.
Buffer get_with(const Buffer& area, std::uint32_t flags = 0) {
  Buffer payload(17);
  store_le(payload.data(), flags);
  store_le(payload.data() + 4, std::uint16_t{1});
  store_le(payload.data() + 6, static_cast<std::uint16_t>(area.size()));
  payload[16] = static_cast<std::byte>('k');
  testing::append(payload, area);
  return payload;
}
Buffer item(std::uint16_t type, std::size_t size) {
  Buffer bytes(4 + size);
  store_le(bytes.data(), type);
  store_le(bytes.data() + 2, static_cast<std::uint16_t>(size));
  return bytes;
}
Buffer both(Buffer a, const Buffer& b) {
  testing::append(a, b);
  return a;
}
Status status_of(const Buffer& payload) {
  const auto result = decode_get(payload);
  return result ? Status::kOk : result.error().status;
}

TEST(Messages, UnknownFlagsMatterWhenTheyAreCritical) {
  for (unsigned bit = 0; bit < 32; ++bit) {
    const Status expected = bit < 16 ? Status::kOk : Status::kUnsupported;
    EXPECT_EQ(status_of(get_with({}, 1u << bit)), expected) << bit;
    for (const Sample& sample : samples()) {
      if (sample.flags_at != 0) continue;
      Buffer changed(body(sample.frame).begin(), body(sample.frame).end());
      const auto flags = load_le<std::uint32_t>(changed.data());
      store_le(changed.data(), flags | (1u << bit));
      const auto error = sample.decode(changed);
      if (bit >= 16) {
        ASSERT_TRUE(error) << sample.name;
        EXPECT_EQ(error->status, Status::kUnsupported) << sample.name;
      } else if (bit > 0) {  // bit 0 says inline in PUT and VALUE
        EXPECT_FALSE(error) << sample.name << " " << bit;
      }
    }
  }
}

TEST(Messages, EveryTlvNumberIsKnownIgnoredOrRefused) {
  for (unsigned number = 0; number <= 0xFFFF; ++number) {
    const auto type = static_cast<std::uint16_t>(number);
    const bool known = type == 0x8001 || type == 0x8002;
    const std::size_t size = type == 0x8001 ? 16 : 8;
    const Status expected =
        known || (type & kCriticalTlv) == 0 ? Status::kOk : Status::kUnsupported;
    ASSERT_EQ(status_of(get_with(item(type, size))), expected) << std::hex << number;
  }
}

TEST(Messages, TheNameWithTheCriticalBitIsNotTheName) {
  Out out;
  encode(out, Hello{.name = "x"});
  Buffer payload(body(out).begin(), body(out).end());
  store_le(payload.data() + 20, std::uint16_t{0x8010});
  const auto hello = decode_hello(payload);
  ASSERT_FALSE(hello);
  EXPECT_EQ(hello.error().status, Status::kUnsupported);
}

TEST(Messages, ItemsOfOtherMessagesAreUnknown) {
  for (const unsigned type : {0x8003u, 0x8004u, 0x8005u, 0x8006u}) {
    EXPECT_EQ(status_of(get_with(item(static_cast<std::uint16_t>(type), 8))), Status::kUnsupported)
        << type;
  }
}

TEST(Messages, DuplicateItemsAreRefusedUnlessUnknown) {
  EXPECT_EQ(status_of(get_with(both(item(0x8001, 16), item(0x8001, 16)))), Status::kBadRequest);
  EXPECT_EQ(status_of(get_with(both(item(0x8002, 8), item(0x8002, 8)))), Status::kBadRequest);
  EXPECT_EQ(status_of(get_with(both(item(0x0777, 3), item(0x0777, 3)))), Status::kOk);
}

TEST(Messages, ItemsOfTheWrongSizeAreRefused) {
  for (const std::size_t size : {0u, 7u, 9u, 15u, 17u, 32u}) {
    EXPECT_EQ(status_of(get_with(item(0x8001, size))), Status::kBadRequest) << size;
    EXPECT_EQ(status_of(get_with(item(0x8002, size))), Status::kBadRequest) << size;
  }
  // One whose length passes its area, by one and by much.
  for (const std::size_t length : {17u, 0xFFFFu}) {
    Buffer area = item(0x8001, 16);
    store_le(area.data() + 2, static_cast<std::uint16_t>(length));
    EXPECT_EQ(status_of(get_with(area)), Status::kBadRequest);
  }
  for (const std::size_t cut : {1u, 2u, 3u}) {
    EXPECT_EQ(status_of(get_with(Buffer(cut))), Status::kBadRequest);
  }
}

TEST(Messages, ANameHasABound) {
  for (const std::size_t size : {kMaxNameBytes, kMaxNameBytes + 1}) {
    Out out;
    encode(out, Hello{});
    Buffer payload(body(out).begin(), body(out).end());
    const Buffer name = item(0x0010, size);
    store_le(payload.data() + 16, static_cast<std::uint16_t>(name.size()));
    testing::append(payload, name);
    EXPECT_EQ(decode_hello(payload).has_value(), size == kMaxNameBytes);
  }
}

TEST(Messages, CreditMayBeZero) {
  for (const std::uint32_t bytes : {0u, 1u, 0xFFFFFFFFu}) {
    Buffer payload(4);
    store_le(payload.data(), bytes);
    EXPECT_EQ(decode_credit(payload), bytes);
  }
}

TEST(Messages, TheTablesAreConsistent) {
  for (const MessageInfo& message : all_messages()) {
    EXPECT_EQ(find_message(static_cast<std::uint8_t>(message.type)), &message);
  }
  std::size_t known = 0;
  for (unsigned code = 0; code < 256; ++code) {
    if (find_message(static_cast<std::uint8_t>(code)) != nullptr) ++known;
  }
  EXPECT_EQ(known, all_messages().size());
  for (const StatusInfo& status : all_statuses()) {
    EXPECT_EQ(status_from_code(static_cast<std::uint16_t>(status.status)), status.status);
    EXPECT_EQ(&info(status.status), &status);
    EXPECT_FALSE(static_cast<std::uint16_t>(status.status) < 16 && status.retryable);
  }
  EXPECT_FALSE(status_from_code(15));
}

}  // namespace
}  // namespace cistern::proto
