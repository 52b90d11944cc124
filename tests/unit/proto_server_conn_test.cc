// ServerConn against bytes made by hand: well-formed, malformed and out of order.
#include <gtest/gtest.h>

#include "proto/server_conn.h"
#include "tests/support/proto_pair.h"

namespace cistern::proto {
namespace {

using testing::Buffer;
using testing::Frame;
using testing::ServerSide;

template <typename... Parts>
Buffer encoded(const Parts&... parts) {
  Out out;
  encode(out, parts...);
  return out;
}
Buffer operator+(Buffer a, const Buffer& b) {
  testing::append(a, b);
  return a;
}
Buffer get(std::uint32_t id, std::uint32_t credit = 65536) {
  return encoded(id, GetRequest{.key = as_bytes("k"), .credit_bytes = credit});
}
Buffer put(std::uint32_t id, std::uint64_t size) {
  return encoded(id, PutRequest{.key = as_bytes("k"), .size = size});
}
Buffer stat(std::uint32_t id) { return encoded(id, Type::kStat, KeyRequest{as_bytes("k")}); }
Buffer remove(std::uint32_t id) { return encoded(id, Type::kDelete, KeyRequest{as_bytes("k")}); }
Buffer plain(std::uint32_t id, Type type, Bytes payload = {}) {
  return testing::frame(type, id, payload).bytes();
}
Buffer credit(std::uint32_t id, std::uint32_t bytes) {
  Buffer payload(4);
  store_le(payload.data(), bytes);
  return plain(id, Type::kCredit, payload);
}
Buffer data(std::uint32_t id, std::size_t size, bool ends_chunk) {
  Buffer payload(ends_chunk ? 8 : 0);
  if (ends_chunk) store_le(payload.data(), chunk_digest(testing::make_value(size)));
  testing::append(payload, testing::make_value(size));
  return testing::frame(Type::kData, id, payload, ends_chunk ? 1 : 0).bytes();
}
Buffer end(std::uint32_t id, std::uint64_t size) { return encoded(id, End{{}, size}); }

struct ServerConnTest : ::testing::Test {
  ServerSide server;

  void SetUp() override {
    server.by_hand = true;
    const auto answer = server.exchange(encoded(Hello{}));
    ASSERT_EQ(answer.size(), 1u);
    ASSERT_TRUE(answer[0].is(Type::kWelcome));
  }
  void TearDown() override { EXPECT_EQ(server.broken_promises, std::vector<std::string>{}); }

  // The status of the ERROR that `wire` is answered with for `id` (0: the connection), if that is
  // all; nothing when there is no answer.
  std::optional<Status> error_of(const Buffer& wire, std::uint32_t id) {
    const auto frames = server.exchange(wire);
    if (frames.empty()) return std::nullopt;
    EXPECT_EQ(frames.size(), 1u);
    EXPECT_TRUE(frames.back().is(Type::kError)) << int{frames.back().header.type};
    EXPECT_EQ(frames.back().header.id, id);
    const auto error = decode_error(frames.back().payload);
    if (!error) return Status::kInternal;
    const Status status = status_from_code(error->code).value_or(Status::kInternal);
    EXPECT_EQ(error->retryable, is_retryable(status));
    return status;
  }
  bool alive() {
    const auto frames = server.exchange(plain(999, Type::kPing, as_bytes("x")));
    return frames.size() == 1 && frames[0].is(Type::kPong);
  }
  // An open, streamed PUT with credit.
  void open_put(std::uint32_t id, std::uint64_t size, std::uint32_t bytes) {
    server.exchange(put(id, size));
    server.grant(id, bytes);
    server.output();
  }
};

TEST_F(ServerConnTest, WelcomeHasTheLimits) {
  ServerSide other;
  const auto frames = other.exchange(encoded(Hello{.features = ~std::uint64_t{0}}));
  const auto welcome = decode_welcome(frames.at(0).payload);
  ASSERT_TRUE(welcome);
  EXPECT_EQ(welcome->version, kProtocolVersion);
  EXPECT_EQ(welcome->features, kFeatureExplain);
  EXPECT_EQ(welcome->max_value_bytes, other.limits.max_value_bytes);
  EXPECT_EQ(welcome->max_frame_bytes, other.limits.max_frame_bytes);
  EXPECT_EQ(welcome->chunk_bytes, other.limits.chunk_bytes);
  EXPECT_EQ(welcome->max_key_bytes, other.limits.max_key_bytes);
  EXPECT_EQ(welcome->max_metadata_bytes, other.limits.max_metadata_bytes);
  EXPECT_EQ(welcome->max_inline_bytes, kMaxInlineBytes);
  EXPECT_EQ(welcome->max_streams, other.limits.max_streams);
  EXPECT_EQ(welcome->stream_window_bytes, other.limits.stream_window_bytes);
  EXPECT_EQ(welcome->name, "test");
}

TEST(ServerConnHello, ComesFirstAndOnce) {
  const Buffer ignorable = testing::frame(static_cast<Type>(0x40), 0).bytes();
  Buffer hello_with_id = encoded(Hello{});
  hello_with_id[8] = std::byte{1};
  for (const Buffer& wire :
       {plain(1, Type::kPing), get(1), data(1, 5, false), ignorable, hello_with_id,
        testing::frame(static_cast<Type>(0x33), 1).bytes(), plain(0, Type::kWelcome),
        testing::buffer("GET / HTTP/1.1\r\n\r\n"),
        encoded(Hello{.version_min = 2, .version_max = 9}),
        encoded(Hello{.version_min = 0, .version_max = 0}), plain(0, Type::kHello)}) {
    ServerSide server;
    const auto frames = server.exchange(wire + encoded(Hello{}) + plain(1, Type::kPing));
    ASSERT_EQ(frames.size(), 1u);
    EXPECT_TRUE(frames[0].is(Type::kError));
    EXPECT_EQ(frames[0].header.id, 0u);
    EXPECT_TRUE(server.conn.failed());
  }
  ServerSide server;
  const auto frames = server.exchange(encoded(Hello{.version_min = 0, .version_max = 0xFFFF}));
  EXPECT_TRUE(frames.at(0).is(Type::kWelcome));
  const auto again = server.exchange(encoded(Hello{}));
  EXPECT_TRUE(again.at(0).is(Type::kError));
  EXPECT_TRUE(server.conn.failed());
}

TEST(ServerConnHello, AVersionThatIsNotSpokenIsUnsupported) {
  ServerSide server;
  const auto frames = server.exchange(encoded(Hello{.version_min = 2, .version_max = 9}));
  EXPECT_EQ(decode_error(frames.at(0).payload)->code, static_cast<int>(Status::kUnsupported));
}

TEST_F(ServerConnTest, FramesThatBelongToTheServerOrToNobodyEndTheConnection) {
  for (const Buffer& wire :
       {plain(1, Type::kWelcome), plain(1, Type::kValue), plain(1, Type::kStored),
        plain(1, Type::kDone), plain(1, Type::kInfo), plain(1, Type::kPong),
        plain(1, Type::kStatsResult), plain(1, Type::kError), plain(1, Type::kGoaway),
        plain(0, Type::kPing), get(0), data(0, 5, false), credit(0, 1), plain(0, Type::kCancel),
        end(0, 1), testing::frame(static_cast<Type>(0x33), 0).bytes()}) {
    ServerSide other;
    other.by_hand = true;
    other.exchange(encoded(Hello{}) + get(7) + stat(8));
    const auto frames = other.exchange(wire + plain(2, Type::kPing));
    ASSERT_EQ(frames.size(), 1u);
    EXPECT_TRUE(frames[0].is(Type::kError));
    EXPECT_EQ(frames[0].header.id, 0u);
    EXPECT_TRUE(other.conn.failed());
    EXPECT_TRUE(other.open.empty());  // every request was aborted
    EXPECT_EQ(other.broken_promises, std::vector<std::string>{});
  }
}

TEST_F(ServerConnTest, UnknownTypesFailTheirRequestOrAreIgnored) {
  EXPECT_EQ(error_of(testing::frame(static_cast<Type>(0x33), 5, {}, 0x80).bytes(), 5),
            Status::kUnsupported);
  EXPECT_EQ(error_of(testing::frame(static_cast<Type>(0x73), 5, {}, 0x80).bytes(), 5),
            std::nullopt);
  server.exchange(get(6));
  EXPECT_EQ(error_of(testing::frame(static_cast<Type>(0x33), 6).bytes(), 6), Status::kUnsupported);
  EXPECT_EQ(server.events.back(), "abort 6 UNSUPPORTED");
  EXPECT_TRUE(alive());
}

TEST_F(ServerConnTest, FramesForStreamsThatAreNotOpenAreIgnored) {
  EXPECT_EQ(error_of(data(5, 10, false) + data(5, 10, true) + credit(5, 1) + end(5, 3) +
                         plain(5, Type::kCancel) + credit(5, 0),
                     5),
            std::nullopt);
  EXPECT_TRUE(alive());
}

TEST_F(ServerConnTest, AnIdIsFreeAfterItsFinalAnswerAndNotBefore) {
  server.exchange(stat(5));
  server.open.erase(5);
  server.conn.answer(5, Status::kNotFound);
  server.output();
  server.exchange(stat(5));
  EXPECT_EQ(server.conn.open_streams(), 1u);
  EXPECT_EQ(error_of(stat(5), 0), Status::kProtocolError);
  EXPECT_TRUE(server.conn.failed());
  EXPECT_EQ(server.events.back(), "abort 5 PROTOCOL_ERROR");
}

TEST_F(ServerConnTest, APingWithAnIdInUseIsAReuse) {
  server.exchange(stat(5));
  EXPECT_EQ(error_of(plain(5, Type::kPing), 0), Status::kProtocolError);
}

TEST_F(ServerConnTest, LimitsOfRequests) {
  const auto key = [](std::size_t size) { return testing::make_value(size); };
  const auto stat_of = [&](std::size_t size) {
    const Buffer bytes = key(size);
    return encoded(3u, Type::kStat, KeyRequest{bytes});
  };
  EXPECT_EQ(error_of(stat_of(0), 3), Status::kBadRequest);
  EXPECT_EQ(error_of(stat_of(65), 3), Status::kKeyTooLarge);
  EXPECT_EQ(error_of(stat_of(0xFFFF - 500), 3), Status::kKeyTooLarge);
  EXPECT_EQ(error_of(stat_of(64), 3), std::nullopt);

  const auto put_with = [](const std::string& metadata) {
    return encoded(4u, PutRequest{.key = as_bytes("k"), .metadata = as_bytes(metadata)});
  };
  EXPECT_EQ(error_of(put_with("{\"a\":\"" + std::string(121, 'x') + "\"}"), 4),
            Status::kMetadataTooLarge);
  EXPECT_EQ(error_of(put_with("[]"), 4), Status::kBadRequest);
  EXPECT_EQ(error_of(put_with("{\"a\":\"\xFF\"}"), 4), Status::kBadRequest);
  EXPECT_EQ(error_of(put_with("{\"a\":\"" + std::string(120, 'x') + "\"}"), 4), std::nullopt);

  const auto inline_of = [](std::size_t size) {
    const Buffer value = testing::make_value(size);
    return encoded(
        6u,
        PutRequest{.key = as_bytes("k"), .size = size, .is_inline = true, .inline_bytes = value});
  };
  EXPECT_EQ(error_of(inline_of(kMaxInlineBytes + 1), 6), Status::kBadRequest);
  EXPECT_EQ(error_of(inline_of(kMaxInlineBytes), 6), std::nullopt);

  const auto ping = [](std::size_t size) {
    return plain(7, Type::kPing, testing::make_value(size));
  };
  EXPECT_EQ(error_of(ping(kMaxPingBytes + 1), 7), Status::kBadRequest);
  EXPECT_TRUE(server.exchange(ping(kMaxPingBytes)).at(0).is(Type::kPong));
}

TEST_F(ServerConnTest, RequestsThatContradictThemselvesAreRefused) {
  PutRequest both{.key = as_bytes("k"), .if_absent = true, .if_version = 1};
  EXPECT_EQ(error_of(encoded(3u, both), 3), Status::kBadRequest);
  EXPECT_EQ(error_of(encoded(3u, PutRequest{.key = as_bytes("k"), .ttl_ms = kMaxTtlMs + 1}), 3),
            Status::kBadRequest);
  EXPECT_EQ(error_of(encoded(3u, TouchRequest{.key = as_bytes("k"), .ttl_ms = kMaxTtlMs + 1}), 3),
            Status::kBadRequest);
  GetRequest get_request{.key = as_bytes("k"), .frame_bytes = kMinReaderFrameBytes - 1};
  EXPECT_EQ(error_of(encoded(3u, get_request), 3), Status::kBadRequest);
  get_request = {.key = as_bytes("k"), .credit_bytes = 0x80000000};
  EXPECT_EQ(error_of(encoded(3u, get_request), 3), Status::kBadRequest);
  get_request = {.key = as_bytes("k"), .range = Range{1, 0}};
  EXPECT_EQ(error_of(encoded(3u, get_request), 3), Status::kBadRequest);
  EXPECT_EQ(error_of(encoded(3u, Type::kStats, KeyRequest{as_bytes("k")}), 3), Status::kBadRequest);
  EXPECT_EQ(error_of(plain(3, Type::kGet), 3), Status::kBadRequest);
  EXPECT_TRUE(server.open.empty());
  EXPECT_TRUE(alive());
}

TEST_F(ServerConnTest, CreditRules) {
  server.exchange(get(3, 0x7FFFFFFF));
  EXPECT_EQ(error_of(credit(3, 1), 3), Status::kBadRequest);
  EXPECT_EQ(server.events.back(), "abort 3 BAD_REQUEST");
  // Nothing is granted by 0, but it is a sign of life.
  server.exchange(get(4, 0));
  server.progress = 0;
  EXPECT_EQ(error_of(credit(4, 0), 4), std::nullopt);
  EXPECT_EQ(server.progress, 1);
  server.exchange(get(5, 0));
  EXPECT_EQ(error_of(plain(5, Type::kCredit, as_bytes("abc")), 5), Status::kBadRequest);
  server.exchange(stat(6));
  EXPECT_EQ(error_of(credit(6, 5), 6), Status::kBadRequest);
  server.exchange(put(7, 10));
  EXPECT_EQ(error_of(credit(7, 5), 7), Status::kBadRequest);
  server.exchange(get(8, 10));
  server.progress = 0;
  EXPECT_EQ(error_of(credit(8, 10), 8), std::nullopt);
  EXPECT_EQ(server.progress, 1);
  EXPECT_TRUE(alive());
}

// DATA and END that a streamed PUT can't have; each on a PUT of its own.
TEST_F(ServerConnTest, DataThatBreaksTheRulesOfAPut) {
  struct Case {
    std::string what;
    std::uint64_t declared;
    std::uint32_t credit;
    Buffer wire;
    Status expected;
  };
  const std::uint64_t unknown = kUnknownSize;
  const Case cases[] = {
      {"past its credit", 9000, 99, data(3, 100, false), Status::kBadRequest},
      {"without credit", 9000, 0, data(3, 1, false), Status::kBadRequest},
      {"past the declared size", 10, 5000, data(3, 11, true), Status::kSizeMismatch},
      {"past it in a second frame", 10, 5000, data(3, 9, false) + data(3, 2, true),
       Status::kSizeMismatch},
      {"across the end of a chunk", 9000, 9000, data(3, 4097, false), Status::kBadRequest},
      {"across it in a second frame", 9000, 9000, data(3, 4000, false) + data(3, 97, true),
       Status::kBadRequest},
      {"a full chunk without its digest", 9000, 9000, data(3, 4096, false), Status::kBadRequest},
      {"the last bytes without the digest", 10, 9000, data(3, 10, false), Status::kBadRequest},
      {"the digest before the chunk is full", 9000, 9000, data(3, 100, true), Status::kBadRequest},
      {"a full chunk of unknown size without it", unknown, 9000, data(3, 4096, false),
       Status::kBadRequest},
      {"DATA after a short chunk", unknown, 9000, data(3, 100, true) + data(3, 1, true),
       Status::kBadRequest},
      {"END too early", 10, 9000, data(3, 9, false) + end(3, 10), Status::kSizeMismatch},
      {"END without any bytes", 10, 9000, end(3, 10), Status::kSizeMismatch},
      {"END with another size", 10, 9000, data(3, 10, true) + end(3, 9), Status::kSizeMismatch},
      {"END in an open chunk", unknown, 9000, data(3, 9, false) + end(3, 9), Status::kBadRequest},
      {"END of unknown size, another size", unknown, 9000, data(3, 9, true) + end(3, 8),
       Status::kSizeMismatch},
      {"a short END", 10, 9000, data(3, 10, true) + plain(3, Type::kEnd, as_bytes("x")),
       Status::kBadRequest},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(test.what);
    open_put(3, test.declared, test.credit);
    EXPECT_EQ(error_of(test.wire, 3), test.expected);
    EXPECT_EQ(server.events.back(), "abort 3 " + std::string(name(test.expected)));
    EXPECT_EQ(server.conn.open_streams(), 0u);
    EXPECT_TRUE(alive());
  }
}

TEST_F(ServerConnTest, WhatComesForAPutThatHasFailedIsDroppedUntilItIsAnswered) {
  open_put(1, kUnknownSize, 100);
  server.refusing.insert(1);
  // The answer takes its time: the older value is removed before it, and L2 has to be asked.
  EXPECT_TRUE(server.exchange(data(1, 10, false) + data(1, 500, false) + end(1, 3)).empty());
  EXPECT_TRUE(alive());
  server.conn.answer(1, Error{Status::kValueTooLarge, "too large"});
  server.open.erase(1);
  server.uploads.erase(1);
  const auto frames = server.exchange({});
  ASSERT_EQ(frames.size(), 1u);
  EXPECT_EQ(decode_error(frames[0].payload)->code, static_cast<int>(Status::kValueTooLarge));
  EXPECT_TRUE(server.exchange(data(1, 10, false)).empty());
  EXPECT_TRUE(alive());
}

TEST_F(ServerConnTest, DataForOtherRequests) {
  server.exchange(get(3) + stat(4));
  EXPECT_EQ(error_of(data(3, 5, true), 3), Status::kBadRequest);
  EXPECT_EQ(error_of(end(4, 5), 4), Status::kBadRequest);
  EXPECT_TRUE(server.open.empty());
  EXPECT_TRUE(alive());
}

TEST_F(ServerConnTest, AFrameForACompleteWriteEndsTheConnection) {
  const Buffer unknown = testing::frame(static_cast<Type>(0x33), 5).bytes();
  for (const Buffer& wire : {data(5, 5, true), end(5, 5), credit(5, 5), unknown}) {
    for (const bool streamed : {true, false}) {
      ServerSide other;
      other.by_hand = true;
      other.exchange(encoded(Hello{}) + (streamed ? put(5, 0) + end(5, 0) : remove(5)));
      const auto frames = other.exchange(wire);
      ASSERT_EQ(frames.size(), 1u);
      EXPECT_EQ(frames[0].header.id, 0u);
      EXPECT_EQ(decode_error(frames[0].payload)->code, static_cast<int>(Status::kProtocolError));
      EXPECT_TRUE(other.conn.failed());
      EXPECT_EQ(other.events.back(), "abort 5 PROTOCOL_ERROR");
    }
  }
}

TEST_F(ServerConnTest, TooLongAndBrokenFramesEndTheConnection) {
  for (const std::uint32_t length :
       {static_cast<std::uint32_t>(kMaxControlBytes) + 1, 0xFFFFFFFFu}) {
    ServerSide other;
    other.exchange(encoded(Hello{}));
    Buffer wire = plain(5, Type::kPing);
    store_le(wire.data(), length);
    const auto frames = other.exchange(wire);
    ASSERT_EQ(frames.size(), 1u);
    EXPECT_TRUE(frames[0].is(Type::kError));
    EXPECT_TRUE(other.conn.failed());
  }
}

TEST_F(ServerConnTest, AnswersToWhatIsNotOpenAreIgnored) {
  server.conn.answer(5, Stored{});
  server.conn.answer(5, Done{});
  server.conn.answer(5, Info{});
  server.conn.answer(5, Status::kNotFound);
  server.conn.answer_stats(5, "{}");
  server.conn.answer_explain(5, "{}");
  server.conn.answer_inline(5, ValueHead{});
  server.conn.start_value(5, ValueHead{});
  server.conn.grant(5, 100);
  server.conn.ready(5);
  EXPECT_FALSE(server.conn.has_output());
}

TEST_F(ServerConnTest, NoCreditAfterTheEndOfAPut) {
  open_put(5, 0, 1);
  server.exchange(end(5, 0));
  server.conn.grant(5, 100);
  EXPECT_FALSE(server.conn.has_output());
  server.conn.answer(5, Stored{});
  EXPECT_TRUE(server.conn.has_output());
}

TEST_F(ServerConnTest, StatisticsThatDoNotFitAreAnError) {
  server.exchange(encoded(3u, Type::kStats, KeyRequest{}));
  server.conn.answer_stats(3, std::string(kMaxStatsBytes + 1, 'x'));
  Buffer out = server.output();
  EXPECT_TRUE(testing::take_frames(out).at(0).is(Type::kError));
  server.open.clear();
  server.exchange(encoded(3u, Type::kStats, KeyRequest{}));
  server.conn.answer_stats(3, std::string(kMaxStatsBytes, 'x'));
  out = server.output();
  EXPECT_TRUE(testing::take_frames(out).at(0).is(Type::kStatsResult));
}

TEST_F(ServerConnTest, ExplainNeedsItsFeatureAndAKey) {
  ServerSide other;
  other.exchange(encoded(Hello{.features = ~kFeatureExplain}));
  const auto refused = other.exchange(encoded(3u, Type::kExplain, KeyRequest{as_bytes("k")}));
  EXPECT_EQ(decode_error(refused.at(0).payload)->code,
            static_cast<std::uint16_t>(Status::kUnsupported));

  ServerSide agreed;
  agreed.exchange(encoded(Hello{.features = kFeatureExplain}));
  const auto frames = agreed.exchange(encoded(3u, Type::kExplain, KeyRequest{as_bytes("k")}));
  ASSERT_EQ(frames.size(), 1u);
  EXPECT_TRUE(frames[0].is(Type::kExplanation));
  const auto keyless = agreed.exchange(encoded(5u, Type::kExplain, KeyRequest{}));
  EXPECT_EQ(decode_error(keyless.at(0).payload)->code,
            static_cast<std::uint16_t>(Status::kBadRequest));
}

TEST_F(ServerConnTest, AnExplanationThatDoesNotFitIsAnError) {
  for (const std::size_t size : {kMaxExplanationBytes, kMaxExplanationBytes + 1}) {
    ServerSide other;
    other.by_hand = true;
    other.exchange(encoded(Hello{.features = kFeatureExplain}));
    other.exchange(encoded(3u, Type::kExplain, KeyRequest{as_bytes("k")}));
    other.conn.answer_explain(3, std::string(size, 'x'));
    Buffer out = other.output();
    EXPECT_EQ(testing::take_frames(out).at(0).is(Type::kExplanation), size == kMaxExplanationBytes);
  }
}

TEST_F(ServerConnTest, TheReadersFrameSizeIsKept) {
  ServerSide other;
  other.values["k"] = {testing::make_value(9'000), 1, {}};
  other.exchange(encoded(Hello{}));
  for (const std::uint32_t frame_bytes : {1024u, 4096u, 0u, 0xFFFFFFFFu}) {
    const auto frames = other.exchange(
        encoded(3u, GetRequest{as_bytes("k"), 65536, frame_bytes, std::nullopt, std::nullopt}));
    for (const Frame& frame : frames) {
      if (!frame.is(Type::kData)) continue;
      EXPECT_LE(frame.header.length, std::min(frame_bytes == 0 ? 4096 : frame_bytes, 4096u) + 8);
      EXPECT_LE(frame.header.length, other.limits.max_frame_bytes);
    }
    EXPECT_TRUE(frames.back().is(Type::kEnd));
  }
}

TEST(ServerConnGoaway, BeforeTheHelloComesAfterTheWelcome) {
  ServerSide server;
  server.conn.go_away(Error{Status::kShuttingDown, "bye"});
  EXPECT_FALSE(server.conn.has_output());
  const auto frames = server.exchange(encoded(Hello{}) + stat(1));
  ASSERT_EQ(frames.size(), 3u);
  EXPECT_TRUE(frames[0].is(Type::kWelcome));
  EXPECT_TRUE(frames[1].is(Type::kGoaway));
  EXPECT_TRUE(frames[2].is(Type::kError));
  EXPECT_EQ(frames[2].header.id, 1u);
}

}  // namespace
}  // namespace cistern::proto
