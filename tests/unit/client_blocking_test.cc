// The blocking client against a server that works: every operation, every size class.
#include <algorithm>
#include <chrono>
#include <random>
#include <string>
#include <thread>

#include <cistern/client.h>
#include <gtest/gtest.h>

#include "tests/support/test_server.h"

namespace cistern {
namespace {

using test::TestServer;

std::string random_text(std::size_t size, unsigned seed = 1) {
  std::mt19937_64 random(seed);
  std::string text(size, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

Status status_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.status();
  }
  return Status::kOk;
}

std::string read_all(Reader& reader, std::size_t piece_bytes) {
  std::string text;
  std::vector<std::byte> piece(piece_bytes);
  while (const std::size_t got = reader.read(piece)) {
    text.append(reinterpret_cast<const char*>(piece.data()), got);
  }
  return text;
}

struct BlockingClient : testing::Test {
  TestServer server;
  Client client{{.endpoint = server.endpoint()}};
};

TEST_F(BlockingClient, PutsAndGetsValuesOfEverySizeClass) {
  const std::size_t chunk = proto::kDefaultChunkBytes;
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{1}, std::size_t{100}, proto::kMaxInlineBytes - 1,
        proto::kMaxInlineBytes, proto::kMaxInlineBytes + 1, std::size_t{65536}, chunk - 1, chunk,
        chunk + 1, 2 * chunk, 5 * chunk + 17}) {
    SCOPED_TRACE(size);
    const std::string text = random_text(size, static_cast<unsigned>(size));
    const Stored stored = client.put("k", as_bytes(text));
    EXPECT_EQ(stored.size, size);
    EXPECT_NE(stored.version, 0u);
    EXPECT_TRUE(stored.in_l1);
    ASSERT_EQ(*server.find("k")->bytes, text);
    const auto value = client.get("k");
    ASSERT_TRUE(value);
    EXPECT_EQ(value->text(), text);
    EXPECT_EQ(value->size, size);
    EXPECT_EQ(value->version, stored.version);
  }
  EXPECT_EQ(server.counts().connections, 1);
}

TEST_F(BlockingClient, SmallValuesTakeOneFrameEachWay) {
  client.put("k", as_bytes("small"));
  EXPECT_EQ(client.get("k")->text(), "small");
  EXPECT_EQ(server.counts().puts_inline, 1);
  EXPECT_EQ(server.counts().gets_inline, 1);
}

TEST_F(BlockingClient, WhatIsNotThereIsAnEmptyResult) {
  EXPECT_FALSE(client.get("none"));
  EXPECT_FALSE(client.open("none"));
  EXPECT_FALSE(client.stat("none"));
  EXPECT_FALSE(client.touch("none", std::chrono::seconds(1)));
  EXPECT_FALSE(client.remove("none"));
}

TEST_F(BlockingClient, CarriesMetadataTtlAndConditions) {
  const Stored first =
      client.put("k", as_bytes("1"), {.ttl = std::chrono::seconds(90), .metadata = R"({"a":1})"});
  ASSERT_TRUE(first.expires_at);
  const auto info = client.stat("k");
  ASSERT_TRUE(info);
  EXPECT_EQ(info->metadata, R"({"a":1})");
  EXPECT_EQ(info->expires_at, first.expires_at);
  EXPECT_EQ(info->size, 1u);
  EXPECT_TRUE(info->in_l1);

  EXPECT_EQ(status_of([&] { client.put("k", as_bytes("2"), {.if_absent = true}); }),
            Status::kConditionFailed);
  EXPECT_EQ(status_of([&] { client.put("k", as_bytes("2"), {.if_version = first.version + 1}); }),
            Status::kConditionFailed);
  const Stored second = client.put("k", as_bytes("2"), {.if_version = first.version});
  EXPECT_FALSE(second.expires_at);
  EXPECT_EQ(client.get("k")->text(), "2");

  const auto touched = client.touch("k", std::chrono::seconds(10));
  ASSERT_TRUE(touched && touched->expires_at);
  EXPECT_EQ(touched->version, second.version);

  EXPECT_EQ(status_of([&] { client.remove("k", {.if_version = first.version}); }),
            Status::kConditionFailed);
  EXPECT_TRUE(client.remove("k", {.if_version = second.version}));
  EXPECT_FALSE(client.get("k"));
}

TEST_F(BlockingClient, SkipsWhatHasNotChanged) {
  const Stored stored = client.put("k", as_bytes(random_text(50'000)));
  const auto same = client.get("k", {.if_changed = stored.version});
  ASSERT_TRUE(same);
  EXPECT_TRUE(same->not_modified);
  EXPECT_TRUE(same->bytes.empty());
  auto reader = client.open("k", {.if_changed = stored.version});
  ASSERT_TRUE(reader);
  EXPECT_TRUE(reader->not_modified());
  EXPECT_TRUE(reader->next().empty());
  EXPECT_FALSE(client.get("k", {.if_changed = stored.version + 1})->not_modified);
}

TEST_F(BlockingClient, ReadsRangesAcrossChunks) {
  const std::size_t chunk = proto::kDefaultChunkBytes;
  const std::string text = random_text(3 * chunk + 1000);
  server.store("k", text);
  const auto check = [&](std::uint64_t offset, std::optional<std::uint64_t> length) {
    SCOPED_TRACE(testing::Message() << offset << "+" << length.value_or(0));
    const std::string expected = text.substr(offset, length.value_or(std::string::npos));
    const ReadOptions options{.range = Range{.offset = offset, .length = length}};
    EXPECT_EQ(client.get("k", options)->text(), expected);
    auto reader = client.open("k", options);
    ASSERT_TRUE(reader);
    EXPECT_EQ(reader->length(), expected.size());
    EXPECT_EQ(reader->info().size, text.size());
    EXPECT_EQ(read_all(*reader, 100'000), expected);
  };
  check(0, 1);
  check(0, std::nullopt);
  check(chunk - 1, 2);
  check(chunk, chunk);
  check(chunk + 5, 2 * chunk);
  check(3 * chunk + 999, 1);
  check(3 * chunk, 5000);  // past the end: as far as it goes
  EXPECT_EQ(status_of([&] { client.get("k", {.range = Range{.offset = 10, .length = 0}}); }),
            Status::kUsage);
  EXPECT_EQ(status_of([&] { client.get("k", {.range = Range{.offset = text.size() + 1}}); }),
            Status::kRangeInvalid);
}

TEST_F(BlockingClient, ReadsPieceByPieceAndWithoutCopies) {
  const std::string text = random_text(4'000'000);
  server.store("k", text);
  auto reader = client.open("k", {.frame_bytes = 10'000, .window_bytes = 1});
  ASSERT_TRUE(reader);
  EXPECT_EQ(read_all(*reader, 777), text);
  EXPECT_EQ(reader->next().size(), 0u);  // the end stays the end
  EXPECT_LE(server.counts().largest_get_frame, 10'000u);

  auto again = client.open("k");
  std::string joined;
  while (true) {
    const auto piece = again->next();
    if (piece.empty()) break;
    joined.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  }
  EXPECT_EQ(joined, text);
}

TEST_F(BlockingClient, AReaderThatIsClosedStopsTheServer) {
  server.store("k", random_text(32 * proto::kMiB));
  {
    auto reader = client.open("k");
    ASSERT_TRUE(reader);
    EXPECT_FALSE(reader->next().empty());
  }
  client.ping();  // the cancel was sent before it
  EXPECT_EQ(server.counts().aborts, 1);
  EXPECT_LT(server.counts().get_bytes, 8 * proto::kMiB);
  EXPECT_EQ(server.counts().connections, 1);
}

TEST_F(BlockingClient, SeveralReadersAndOtherRequestsShareTheConnection) {
  const std::string a = random_text(3'000'000, 1), b = random_text(3'000'000, 2);
  server.store("a", a);
  server.store("b", b);
  auto first = client.open("a");
  auto second = client.open("b");
  std::string got_a, got_b;
  std::vector<std::byte> piece(123'456);
  while (got_a.size() < a.size() || got_b.size() < b.size()) {
    const std::size_t na = first->read(piece);
    got_a.append(reinterpret_cast<const char*>(piece.data()), na);
    EXPECT_TRUE(client.stat("a"));
    const std::size_t nb = second->read(piece);
    got_b.append(reinterpret_cast<const char*>(piece.data()), nb);
  }
  EXPECT_EQ(got_a, a);
  EXPECT_EQ(got_b, b);
  EXPECT_EQ(server.counts().connections, 1);
}

TEST_F(BlockingClient, AReaderOutlivesItsClient) {
  const std::string text = random_text(3'000'000);
  server.store("k", text);
  auto gone = std::make_unique<Client>(ClientOptions{.endpoint = server.endpoint()});
  auto reader = gone->open("k");
  gone.reset();
  EXPECT_EQ(read_all(*reader, 100'000), text);
}

TEST_F(BlockingClient, WritesPieceByPieceWithAndWithoutADeclaredSize) {
  for (const std::size_t size : {std::size_t{0}, std::size_t{10}, std::size_t{20'000},
                                 2 * proto::kDefaultChunkBytes, std::size_t{3'333'333}}) {
    for (const bool declared : {false, true}) {
      SCOPED_TRACE(testing::Message() << size << (declared ? " declared" : ""));
      const std::string text = random_text(size, 7);
      Writer writer =
          client.writer("k", declared ? std::optional<std::uint64_t>(size) : std::nullopt);
      for (std::size_t at = 0; at < size; at += 70'001) {
        writer.write(as_bytes(std::string_view(text).substr(at, 70'001)));
      }
      EXPECT_EQ(writer.commit().size, size);
      EXPECT_EQ(*server.find("k")->bytes, text);
    }
  }
}

TEST_F(BlockingClient, AWriterThatIsDroppedLeavesTheOldValue) {
  client.put("k", as_bytes("old"));
  {
    Writer writer = client.writer("k");
    writer.write(as_bytes(random_text(2'000'000)));
  }
  {
    Writer writer = client.writer("k", 5'000'000);
    writer.write(as_bytes(random_text(2'000'000)));
    writer.abort();
    EXPECT_EQ(status_of([&] { writer.commit(); }), Status::kUsage);
  }
  client.ping();
  EXPECT_EQ(server.counts().aborts, 2);
  EXPECT_EQ(client.get("k")->text(), "old");
}

TEST_F(BlockingClient, PullsFromASource) {
  const std::string text = random_text(3'000'000);
  for (const bool declared : {false, true}) {
    std::size_t at = 0;
    const auto source = [&](std::span<std::byte> target) {
      const std::size_t part = std::min({target.size(), text.size() - at, std::size_t{50'000}});
      std::memcpy(target.data(), text.data() + at, part);
      at += part;
      return part;
    };
    const auto size = declared ? std::optional<std::uint64_t>(text.size()) : std::nullopt;
    EXPECT_EQ(client.put("k", source, size).size, text.size());
    EXPECT_EQ(*server.find("k")->bytes, text);
  }
}

TEST_F(BlockingClient, ASourceOfAnotherSizeStoresNothing) {
  client.put("k", as_bytes("old"));
  for (const std::uint64_t declared : {5u, 100'000u, 2'000'000u}) {
    for (const int difference : {-1, 1}) {
      SCOPED_TRACE(testing::Message() << declared << " " << difference);
      std::size_t left = declared + static_cast<std::size_t>(difference);
      const auto source = [&](std::span<std::byte> target) {
        const std::size_t part = std::min(target.size(), left);
        left -= part;
        return part;
      };
      EXPECT_EQ(status_of([&] { client.put("k", source, declared); }), Status::kSizeMismatch);
      Writer writer = client.writer("k", declared);
      EXPECT_EQ(status_of([&] {
                  writer.write(
                      as_bytes(std::string(declared + static_cast<std::size_t>(difference), 'x')));
                  writer.commit();
                }),
                Status::kSizeMismatch);
    }
  }
  EXPECT_EQ(client.get("k")->text(), "old");
}

TEST_F(BlockingClient, WhatASourceThrowsPassesThroughAndAborts) {
  client.put("k", as_bytes("old"));
  int calls = 0;
  const auto source = [&](std::span<std::byte> target) -> std::size_t {
    if (++calls == 5) throw std::runtime_error("the disk is gone");
    return target.size();
  };
  EXPECT_THROW(client.put("k", source, std::nullopt), std::runtime_error);
  EXPECT_EQ(client.get("k")->text(), "old");
}

TEST_F(BlockingClient, RefusesByItselfWhatTheLimitsExclude) {
  client.ping();
  const int before = server.counts().requests;
  EXPECT_EQ(status_of([&] { client.get(std::string(1025, 'k')); }), Status::kKeyTooLarge);
  EXPECT_EQ(status_of([&] { client.get(""); }), Status::kUsage);
  EXPECT_EQ(status_of([&] { client.put("k", {}, {.metadata = std::string(4097, ' ')}); }),
            Status::kMetadataTooLarge);
  EXPECT_EQ(status_of([&] { client.put("k", {}, {.ttl = std::chrono::milliseconds(-1)}); }),
            Status::kUsage);
  EXPECT_EQ(status_of([&] { client.touch("k", std::chrono::hours(24 * 365 * 200)); }),
            Status::kUsage);
  EXPECT_EQ(server.counts().requests, before);
}

TEST_F(BlockingClient, ATooLargeValueIsHeardOfButNotSent) {
  client.put("k", as_bytes("old"));
  const std::uint64_t size = 64 * proto::kMiB + 1;
  bool asked_past_a_chunk = false;
  std::uint64_t pulled = 0;
  const auto source = [&](std::span<std::byte> target) {
    pulled += target.size();
    asked_past_a_chunk = pulled > 4 * proto::kMiB;
    return target.size();
  };
  EXPECT_EQ(status_of([&] { client.put("k", source, size); }), Status::kValueTooLarge);
  EXPECT_FALSE(asked_past_a_chunk);
  EXPECT_EQ(server.counts().put_bytes, 0u);
  EXPECT_FALSE(client.get("k"));  // its owner meant to replace it
}

TEST_F(BlockingClient, PingsAndAsksForFigures) {
  EXPECT_GT(client.ping().count(), 0);
  EXPECT_EQ(client.stats(), R"({"test":true})");
  server.set_faults({.explanation = R"({"l1":{"resident":false}})"});
  EXPECT_EQ(client.explain("key"), R"({"l1":{"resident":false}})");
}

TEST(BlockingClientLimits, FollowsSmallChunksAndFrames) {
  proto::ServerLimits limits = TestServer::default_limits();
  limits.chunk_bytes = 4096;
  limits.max_frame_bytes = 65536;
  limits.stream_window_bytes = 10'000;
  TestServer server(limits);
  Client client({.endpoint = server.endpoint()});
  for (const std::size_t size : {0u, 4095u, 4096u, 4097u, 16384u, 16385u, 300'000u}) {
    SCOPED_TRACE(size);
    const std::string text = random_text(size, 3);
    client.put("k", as_bytes(text));
    EXPECT_EQ(client.get("k")->text(), text);
    Writer writer = client.writer("k");
    writer.write(as_bytes(text));
    writer.commit();
    auto reader = client.open("k", {.window_bytes = 5000});
    EXPECT_EQ(read_all(*reader, 1000), text);
  }
}

TEST(BlockingClientLimits, NamesWhatIsWrongWithAnEndpoint) {
  for (const char* const endpoint : {"", "http://x:1", "tcp://host", "unix://"}) {
    EXPECT_EQ(status_of([&] { Client client({.endpoint = endpoint}); }), Status::kUsage)
        << endpoint;
  }
}

TEST(ClientTypes, VersionsAreHexAndErrorsSayWhat) {
  EXPECT_EQ(to_hex(Version{0xAB}), "00000000000000ab");
  EXPECT_EQ(parse_version("00000000000000ab"), Version{0xAB});
  EXPECT_EQ(parse_version("ffffffffffffffff"), ~Version{0});
  for (const char* const bad : {"", "xyz", "-1", "0x1", "00000000000000000", "1 "}) {
    EXPECT_FALSE(parse_version(bad)) << bad;
  }
  const Error error(Status::kNoRoom, "no memory");
  EXPECT_STREQ(error.what(), "NO_ROOM: no memory");
  EXPECT_EQ(error.message(), "no memory");
  EXPECT_TRUE(error.retryable());
  EXPECT_FALSE(is_retryable(Status::kValueTooLarge));
}

// Credit is granted a chunk at a time; who takes minutes for one must not look stalled.
TEST_F(BlockingClient, ASlowReaderSaysThatItGoesOnBeforeItHasConsumedAChunk) {
  server.store("k", random_text(8 * proto::kDefaultChunkBytes));
  auto reader = client.open("k");
  std::size_t consumed = 0;
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (server.counts().progress == 0) {
    ASSERT_LT(std::chrono::steady_clock::now(), until);
    std::byte piece[64];
    consumed += reader->read(piece);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));  // the reader's pace
  }
  EXPECT_LT(consumed, proto::kDefaultChunkBytes);
}

TEST_F(BlockingClient, WhatASlowReaderGrantsIsSentBeforeEverythingThatArrivedIsConsumed) {
  server.store("k", random_text(8 * proto::kDefaultChunkBytes));
  auto reader = client.open("k");
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (server.counts().get_bytes < 2 * proto::kDefaultChunkBytes) {
    ASSERT_LT(std::chrono::steady_clock::now(), until);
    std::this_thread::yield();
  }
  EXPECT_EQ(reader->next().size(), proto::kDefaultChunkBytes);
  EXPECT_EQ(reader->next(100).size(), 100u);  // the first chunk is free by now, the second is not
  while (server.counts().progress == 0) {
    ASSERT_LT(std::chrono::steady_clock::now(), until);
    std::this_thread::yield();
  }
}

TEST_F(BlockingClient, ASlowWritersBytesAreSentBeforeTheyAreMany) {
  Writer writer = client.writer("k");
  std::string text = random_text(proto::kMaxInlineBytes + 1);
  writer.write(as_bytes(text));
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (server.counts().put_bytes == 0) {
    ASSERT_LT(std::chrono::steady_clock::now(), until);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));  // the writer's pace
    writer.write(as_bytes("x"));
    text += "x";
  }
  writer.write(as_bytes("the end"));
  EXPECT_EQ(writer.commit().size, text.size() + 7);
  EXPECT_EQ(*server.find("k")->bytes, text + "the end");
}

}  // namespace
}  // namespace cistern
