#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "server/l2/redis_clock.h"
#include "server/l2/redis_connect.h"
#include "server/l2/redis_protocol.h"
#include "server/l2/redis_receiver.h"

namespace cistern::l2 {
namespace {

using base::Status;
using Kind = ReplyReceiver::Event::Kind;
using proto::as_bytes;
using proto::as_text;

ChunkIdentity identity_of(std::uint32_t index, std::uint32_t bytes) {
  return {0x77, chunk_key_hash(as_bytes("key")), index, bytes};
}

std::string payload_of(std::size_t bytes, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string payload(bytes, '\0');
  for (char& c : payload) c = static_cast<char>(random());
  return payload;
}

std::string chunk_reply(std::uint32_t index, const std::string& payload) {
  const auto size = static_cast<std::uint32_t>(payload.size());
  const proto::ChunkDigest digest = proto::chunk_digest(as_bytes(payload));
  const ChunkHeader header =
      encode_chunk_header(identity_of(index, size), {Codec::kRaw, size, digest, digest});
  return "$" + std::to_string(header.size() + payload.size()) + "\r\n" +
         std::string(as_text(header)) + payload + "\r\n";
}

// Feeds `stream` in pieces of at most `most` bytes.
struct Feeder {
  ReplyReceiver receiver;
  std::vector<ReplyReceiver::Expected> expected;
  std::vector<base::Result<StoredChunk>> replies;
  std::string broken;
  std::size_t direct_bytes = 0;  // that went to where there was room for more than the small buffer

  void feed(std::string_view stream, std::mt19937_64& random, std::size_t most) {
    while (!stream.empty() && broken.empty()) {
      const auto space = receiver.space();
      std::size_t n = std::min<std::size_t>(stream.size(), 1 + random() % most);
      n = std::min(n, space[0].size() + space[1].size());
      ASSERT_GT(n, 0u);
      const std::size_t first = std::min(n, space[0].size());
      std::memcpy(space[0].data(), stream.data(), first);
      if (n > first) std::memcpy(space[1].data(), stream.data() + first, n - first);
      if (space[1].size() > 0) direct_bytes += first;
      receiver.received(n);
      stream.remove_prefix(n);
      take();
    }
  }
  void take() {
    for (;;) {
      const bool is_due = replies.size() < expected.size();
      auto event = receiver.next(is_due ? &expected[replies.size()] : nullptr);
      if (event.kind == Kind::kNone) return;
      if (event.kind == Kind::kBroken) {
        broken = event.reply.error().message;
        return;
      }
      replies.push_back(std::move(event.reply));
    }
  }
};

TEST(ReplyReceiver, TakesRepliesInPiecesOfAnySize) {
  for (const std::size_t most : {1u, 3u, 57u, 600u, 5000u, 1000000u}) {
    std::mt19937_64 random(most);
    Feeder feeder;
    std::string stream;
    std::vector<std::string> payloads;
    for (std::uint32_t i = 0; i < 20; ++i) {
      payloads.push_back(payload_of(1 + random() % 20000, i));
      const auto size = static_cast<std::uint32_t>(payloads.back().size());
      feeder.expected.push_back({false, true, {}});
      stream += "+OK\r\n";
      feeder.expected.push_back({true, true, identity_of(i, size)});
      stream += chunk_reply(i, payloads.back());
      feeder.expected.push_back({true, true, identity_of(i, size)});
      stream += "$-1\r\n";
      feeder.expected.push_back({true, true, identity_of(i, size)});
      stream += "-LOADING it\r\n";
      feeder.expected.push_back({true, false, identity_of(i, size)});
      stream += chunk_reply(i, payloads.back());
      feeder.expected.push_back({true, true, identity_of(i + 1, size)});
      stream += chunk_reply(i, payloads.back());
    }
    feeder.feed(stream, random, most);
    ASSERT_EQ(feeder.broken, "") << most;
    ASSERT_EQ(feeder.replies.size(), feeder.expected.size()) << most;
    for (std::size_t i = 0; i < 20; ++i) {
      const auto* reply = &feeder.replies[6 * i];
      EXPECT_TRUE(reply[0] && reply[0]->bytes == nullptr);
      ASSERT_TRUE(reply[1] && reply[1]->bytes != nullptr);
      EXPECT_EQ(as_text(reply[1]->bytes->bytes()), payloads[i]);
      EXPECT_EQ(reply[1]->bytes->digest(), proto::chunk_digest(as_bytes(payloads[i])));
      EXPECT_EQ(reply[2].error().status, Status::kValueLost);
      EXPECT_EQ(reply[3].error().status, Status::kL2Unavailable);
      EXPECT_TRUE(reply[4] && reply[4]->bytes == nullptr);
      EXPECT_EQ(reply[5].error().status, Status::kValueLost);
    }
  }
}

TEST(ReplyReceiver, ReceivesPayloadIntoTheChunkItself) {
  constexpr std::size_t kBytes = 1 << 20;
  const std::string payload = payload_of(kBytes, 1);
  std::mt19937_64 random(1);
  Feeder feeder;
  feeder.expected.push_back({true, true, identity_of(0, kBytes)});
  feeder.feed(chunk_reply(0, payload), random, 1 << 16);
  ASSERT_EQ(feeder.replies.size(), 1u);
  // All but what came together with the header.
  EXPECT_GE(feeder.direct_bytes, kBytes - 512);
}

TEST(ReplyReceiver, GivesACompressedChunkAsItIsStored) {
  const std::string payload = payload_of(700, 3);
  const proto::ChunkDigest digest = proto::chunk_digest(as_bytes(payload));
  const auto reply = [&](std::uint32_t claimed) {
    const ChunkHeader header =
        encode_chunk_header(identity_of(0, 1000), {Codec::kZstd, claimed, 0xabc, digest});
    return "$" + std::to_string(header.size() + payload.size()) + "\r\n" +
           std::string(as_text(header)) + payload + "\r\n";
  };
  std::mt19937_64 random(1);
  Feeder feeder;
  for (int i = 0; i < 3; ++i) feeder.expected.push_back({true, true, identity_of(0, 1000)});
  feeder.feed(reply(700) + reply(699) + reply(701), random, 100);
  ASSERT_EQ(feeder.replies.size(), 3u) << feeder.broken;
  ASSERT_TRUE(feeder.replies[0]) << feeder.replies[0].error().message;
  EXPECT_EQ(feeder.replies[0]->codec, Codec::kZstd);
  EXPECT_EQ(feeder.replies[0]->raw_bytes, 1000u);
  EXPECT_EQ(feeder.replies[0]->raw_digest, 0xabcu);
  EXPECT_EQ(as_text(feeder.replies[0]->bytes->bytes()), payload);
  EXPECT_EQ(feeder.replies[1].error().status, Status::kValueLost);
  EXPECT_EQ(feeder.replies[2].error().status, Status::kValueLost);
}

TEST(ReplyReceiver, AllocatesNothingForWhatIsNotWanted) {
  const std::uint64_t before = base::Chunk::live_bytes();
  constexpr std::size_t kBytes = 1 << 20;
  const std::string reply = chunk_reply(0, payload_of(kBytes, 1));
  std::mt19937_64 random(1);
  Feeder feeder;
  feeder.expected.push_back({true, true, identity_of(0, kBytes)});
  feeder.expected.push_back({true, true, identity_of(0, kBytes)});
  feeder.feed(std::string_view(reply).substr(0, kBytes / 2), random, 1 << 16);
  EXPECT_GT(base::Chunk::live_bytes(), before);
  feeder.receiver.abandon();
  EXPECT_EQ(base::Chunk::live_bytes(), before);
  feeder.feed(std::string_view(reply).substr(kBytes / 2), random, 1 << 16);
  ASSERT_EQ(feeder.replies.size(), 1u);
  EXPECT_TRUE(feeder.replies[0] && feeder.replies[0]->bytes == nullptr);
  feeder.feed(reply, random, 1 << 16);
  ASSERT_EQ(feeder.replies.size(), 2u);
  EXPECT_TRUE(feeder.replies[1] && feeder.replies[1]->bytes != nullptr)
      << "the hasher started over";
}

TEST(ReplyReceiver, GivesUpOnWhatIsNotTheProtocol) {
  const std::string streams[] = {"x\r\n",     "\r\n",    ":1\r\n",
                                 "*1\r\n",    "$x\r\n",  "$99999999999999999999\r\n",
                                 "$-2\r\n",   "+OK\r\n", std::string(600, '+'),
                                 "$3\r\nabcd"};
  for (const std::string& stream : streams) {
    std::mt19937_64 random(1);
    Feeder feeder;
    feeder.expected.push_back({true, true, identity_of(0, 10)});
    feeder.feed(stream, random, 100);
    feeder.feed("zz", random, 100);
    if (stream.starts_with("$3")) {
      // The trailer isn't looked at in what is dropped; the next reply shows it.
      EXPECT_EQ(feeder.replies.size(), 1u);
    }
    EXPECT_NE(feeder.broken, "") << stream;
  }
  std::mt19937_64 random(1);
  Feeder unasked;
  unasked.feed("+OK\r\n", random, 100);
  EXPECT_NE(unasked.broken, "");
  Feeder status;
  status.expected.push_back({false, true, {}});
  status.feed("$5\r\n", random, 100);
  EXPECT_NE(status.broken, "");
  Feeder trailer;
  trailer.expected.push_back({true, true, identity_of(0, 10)});
  std::string reply = chunk_reply(0, payload_of(10, 1));
  reply[reply.size() - 2] = 'x';
  trailer.feed(reply, random, 100);
  EXPECT_NE(trailer.broken, "");
}

TEST(RedisProtocol, FormsCommands) {
  std::string out;
  append_command(out, {"SET", "a b", std::string_view("\0\r\n", 3), ""});
  EXPECT_EQ(out, std::string("*4\r\n$3\r\nSET\r\n$3\r\na b\r\n$3\r\n\0\r\n\r\n$0\r\n\r\n", 37));
}

TEST(RedisProtocol, GivesErrorsAStatusAndAdvice) {
  const std::pair<const char*, Status> errors[] = {
      {"OOM command not allowed when used memory > 'maxmemory'.", Status::kL2Error},
      {"READONLY You can't write against a read only replica.", Status::kL2Unavailable},
      {"LOADING Redis is loading the dataset in memory", Status::kL2Unavailable},
      {"NOAUTH Authentication required.", Status::kL2Unavailable},
      {"WRONGPASS invalid username-password pair", Status::kL2Unavailable},
      {"NOPERM this user has no permissions", Status::kL2Error},
      {"MOVED 3999 127.0.0.1:6381", Status::kL2Error},
      {"MISCONF Redis is configured to save RDB snapshots", Status::kL2Error},
      {"ERR The user executing the script can't run this command or subcommand", Status::kL2Error},
      {"ERR max number of clients reached", Status::kL2Unavailable},
      {"ERR something else", Status::kL2Error}};
  for (const auto& [text, status] : errors) {
    const base::Error error = redis_error(text);
    EXPECT_EQ(error.status, status) << text;
    EXPECT_NE(error.message.find(text), std::string::npos);
  }
  EXPECT_NE(redis_error("ERR The user executing the script can't access at least one of the keys")
                .message.find("permission"),
            std::string::npos);
}

TEST(RedisClock, NeverRunsAheadOfRedis) {
  std::mt19937_64 random(7);
  const auto start = base::TimePoint(std::chrono::hours(1));
  for (int round = 0; round < 200; ++round) {
    RedisClock clock;
    // Redis' clock runs at a rate within one part in a thousand of ours.
    const double rate = 1.0 + (static_cast<double>(random() % 1999) - 999.0) / 1e6;
    const auto redis_us = [&](base::TimePoint at) {
      return 1'700'000'000'000'000 +
             static_cast<std::uint64_t>(rate * static_cast<double>((at - start).count()) / 1000.0);
    };
    base::TimePoint now = start;
    for (int i = 0; i < 50; ++i) {
      const base::TimePoint asked = now;
      now += std::chrono::microseconds(random() % 50'000);
      const std::uint64_t shown = redis_us(now);
      now += std::chrono::microseconds(random() % 50'000);
      clock.measured(asked, now, shown);
      ASSERT_LE(clock.earliest_ms(now), redis_us(now) / 1000);
      now += std::chrono::milliseconds(random() % 30'000);
      ASSERT_LE(clock.earliest_ms(now), redis_us(now) / 1000);
      ASSERT_GT(clock.earliest_ms(now) + 200, redis_us(now) / 1000);
    }
  }
}

TEST(RedisClock, FollowsAClockThatWasSetBack) {
  RedisClock clock;
  const auto start = base::TimePoint(std::chrono::hours(1));
  clock.measured(start, start + std::chrono::milliseconds(1), 5'000'000'000);
  const auto later = start + std::chrono::seconds(1);
  clock.measured(later, later + std::chrono::milliseconds(1), 1'000'000'000);
  EXPECT_EQ(clock.earliest_ms(later + std::chrono::milliseconds(1)), 1'000'000u);
}

}  // namespace
}  // namespace cistern::l2
