// The protocols' parsers without a socket: replies whole, in parts and byte by byte, and what isn't
// one.
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "proto/messages.h"
#include "tests/bench/load/driver.h"

namespace cistern::bench {
namespace {

constexpr std::uint32_t kChunkBytes = 4096;
constexpr std::uint32_t kWindowBytes = 8192;

// What a driver said of each slot.
class Record final : public Sink {
 public:
  struct Reply {
    std::uint64_t size = 0;
    std::string bytes;
    bool has_ended = false;
    Outcome outcome = Outcome::kFailed;
    std::string why;
  };

  void on_size(Slot slot, std::uint64_t size) override { replies[slot].size = size; }
  void on_bytes(Slot slot, std::uint64_t position, proto::Bytes bytes) override {
    EXPECT_EQ(position, replies[slot].bytes.size());
    replies[slot].bytes += proto::as_text(bytes);
  }
  bool wants(Slot, std::uint64_t) const override { return true; }
  void on_end(Slot slot, Outcome outcome, std::string_view why) override {
    EXPECT_FALSE(replies[slot].has_ended);
    replies[slot].has_ended = true;
    replies[slot].outcome = outcome;
    replies[slot].why = why;
  }

  std::map<Slot, Reply> replies;
};

std::string take(Outbox& out) {
  std::string text;
  while (!out.empty()) {
    const Outbox::Batch batch = out.batch();
    text += proto::as_text(batch.bytes);
    out.sent(batch.bytes.size());
  }
  return text;
}

std::string value_of(const Corpus& corpus, KeyIndex key) {
  std::string value;
  while (value.size() < corpus.size(key)) {
    value += proto::as_text(corpus.piece(key, value.size(), corpus.size(key) - value.size()));
  }
  return value;
}

// Feeds `text` in steps of so many bytes; what the driver complains of.
std::string feed(Driver& driver, std::string_view text, std::size_t step, Outbox& out, Sink& sink) {
  for (std::size_t at = 0; at < text.size(); at += step) {
    // A copy of its own, so that a sanitizer sees what is read past its end.
    const std::string part(text.substr(at, step));
    std::string error = driver.feed(proto::as_bytes(part), out, sink);
    if (!error.empty()) return error;
  }
  return {};
}

SystemOptions options_for_test() {
  return {.keys = 4, .has_puts = true, .window_bytes = kWindowBytes};
}

class Parsers : public ::testing::TestWithParam<std::size_t> {
 protected:
  std::string feed_all(Driver& driver, std::string_view text) {
    return feed(driver, text, GetParam(), out_, record_);
  }

  Corpus corpus_{"k", {10, 10}};
  Outbox out_;
  Record record_;
};

INSTANTIATE_TEST_SUITE_P(Steps, Parsers, ::testing::Values(1, 2, 3, 7, 1'000'000));

TEST_P(Parsers, Redis) {
  const auto system = make_redis(corpus_, options_for_test());
  const auto driver = system->driver();
  for (Slot slot = 0; slot < 3; ++slot) driver->get(out_, slot, slot);
  EXPECT_EQ(take(out_).substr(0, 33), "*2\r\n$3\r\nGET\r\n$10\r\nk000000000\r\n*2\r");
  driver->put(out_, 3, 3);
  EXPECT_EQ(take(out_),
            "*3\r\n$3\r\nSET\r\n$10\r\nk000000003\r\n$10\r\n" + value_of(corpus_, 3) + "\r\n");
  driver->put(out_, 4, 3);
  driver->get(out_, 5, 2);
  EXPECT_EQ(feed_all(*driver,
                     "$10\r\n0123\r\n6789\r\n$-1\r\n$0\r\n\r\n+OK\r\n-OOM no memory\r\n-ERR x\r\n"),
            "");
  EXPECT_EQ(record_.replies[0].bytes, "0123\r\n6789");
  EXPECT_EQ(record_.replies[0].outcome, Outcome::kHit);
  EXPECT_EQ(record_.replies[1].outcome, Outcome::kMiss);
  EXPECT_EQ(record_.replies[2].outcome, Outcome::kHit);
  EXPECT_EQ(record_.replies[2].size, 0u);
  EXPECT_EQ(record_.replies[3].outcome, Outcome::kStored);
  EXPECT_EQ(record_.replies[4].outcome, Outcome::kRefused);
  EXPECT_EQ(record_.replies[5].outcome, Outcome::kFailed);
  EXPECT_EQ(record_.replies[5].why, "-ERR x");
  EXPECT_NE(feed_all(*driver, "+OK\r\n"), "");  // nothing is open
}

TEST_P(Parsers, RedisWithTimeToLive) {
  SystemOptions options = options_for_test();
  options.ttl_ms = 1500;
  const auto system = make_redis(corpus_, options);
  system->driver()->put(out_, 0, 1);
  EXPECT_EQ(take(out_), "*4\r\n$6\r\nPSETEX\r\n$10\r\nk000000001\r\n$4\r\n1500\r\n$10\r\n" +
                            value_of(corpus_, 1) + "\r\n");
}

TEST_P(Parsers, Memcached) {
  SystemOptions options = options_for_test();
  options.ttl_ms = 1500;
  const auto system = make_memcached(corpus_, options);
  const auto driver = system->driver();
  for (Slot slot = 0; slot < 2; ++slot) driver->get(out_, slot, slot);
  EXPECT_EQ(take(out_), "mg k000000000 v\r\nmg k000000001 v\r\n");
  driver->put(out_, 2, 2);
  EXPECT_EQ(take(out_), "ms k000000002 10 T2\r\n" + value_of(corpus_, 2) + "\r\n");
  for (Slot slot = 3; slot < 6; ++slot) driver->put(out_, slot, 2);
  EXPECT_EQ(feed_all(*driver,
                     "VA 4 f0\r\n\r\n\r\n\r\nEN\r\nHD\r\nNS\r\n"
                     "SERVER_ERROR out of memory storing object\r\nERROR\r\n"),
            "");
  EXPECT_EQ(record_.replies[0].bytes, "\r\n\r\n");
  EXPECT_EQ(record_.replies[0].outcome, Outcome::kHit);
  EXPECT_EQ(record_.replies[1].outcome, Outcome::kMiss);
  EXPECT_EQ(record_.replies[2].outcome, Outcome::kStored);
  EXPECT_EQ(record_.replies[3].outcome, Outcome::kRefused);
  EXPECT_EQ(record_.replies[4].outcome, Outcome::kRefused);
  EXPECT_EQ(record_.replies[5].outcome, Outcome::kFailed);
}

TEST_P(Parsers, LinesThatAreNone) {
  for (const std::string text : {"?\r\n", "+OK\n", "VA x\r\n", "$12x\r\n", "$1\r\nabc"}) {
    for (const auto make : {make_redis, make_memcached}) {
      const auto system = make(corpus_, options_for_test());
      const auto driver = system->driver();
      driver->get(out_, 0, 0);
      EXPECT_NE(feed_all(*driver, text), "") << text;
    }
  }
  const auto system = make_redis(corpus_, options_for_test());
  const auto driver = system->driver();
  driver->get(out_, 0, 0);
  EXPECT_NE(feed_all(*driver, std::string(10'000, 'x')), "");
}

// The server's side of Cistern's protocol, as far as the tests need it.
class CisternParsers : public Parsers {
 protected:
  CisternParsers() {
    driver_->open(out_);
    take(out_);
    std::vector<std::byte> welcome;
    proto::encode(welcome, proto::Welcome{.max_value_bytes = 1 << 30,
                                          .max_frame_bytes = 65536,
                                          .chunk_bytes = kChunkBytes,
                                          .max_key_bytes = 100,
                                          .max_inline_bytes = 16384,
                                          .max_streams = 7,
                                          .stream_window_bytes = 65536});
    EXPECT_FALSE(driver_->is_open());
    EXPECT_EQ(feed_all(*driver_, proto::as_text(welcome)), "");
    EXPECT_TRUE(driver_->is_open());
    EXPECT_EQ(driver_->max_open(), 7u);
  }

  // The id of the request that was sent last.
  std::uint32_t asked() {
    const std::string text = take(out_);
    return proto::decode_header(proto::as_bytes(text).data()).id;
  }

  std::string value_head(std::uint32_t id, std::uint64_t size) {
    std::vector<std::byte> frame;
    proto::encode(frame, id, proto::ValueHead{.size = size, .chunk_bytes = kChunkBytes});
    return std::string(proto::as_text(frame));
  }

  std::string data(std::uint32_t id, std::string_view bytes,
                   std::optional<std::string_view> chunk) {
    std::vector<std::byte> frame;
    std::optional<proto::ChunkDigest> digest;
    if (chunk) digest = proto::chunk_digest(proto::as_bytes(*chunk));
    proto::encode_data_head(frame, id, bytes.size(), digest);
    return std::string(proto::as_text(frame)) + std::string(bytes);
  }

  std::string end(std::uint32_t id, std::string_view value) {
    proto::ValueHasher hasher;
    for (std::size_t at = 0; at < value.size(); at += kChunkBytes) {
      hasher.add(proto::chunk_digest(proto::as_bytes(value.substr(at, kChunkBytes))));
    }
    std::vector<std::byte> frame;
    proto::encode(frame, id, proto::End{hasher.finish(kChunkBytes, value.size()), value.size()});
    return std::string(proto::as_text(frame));
  }

  Corpus large_{"k", {20'000, 20'000}};
  std::unique_ptr<System> system_ = make_cistern(large_, options_for_test());
  std::unique_ptr<Driver> driver_ = system_->driver();
};

INSTANTIATE_TEST_SUITE_P(Steps, CisternParsers, ::testing::Values(1, 2, 3, 7, 13, 1'000'000));

TEST_P(CisternParsers, StreamsWithinCredit) {
  const std::string value = value_of(large_, 1).substr(0, 10'000);
  driver_->get(out_, 0, 1);
  const std::uint32_t id = asked();
  EXPECT_EQ(feed_all(*driver_, value_head(id, value.size())), "");
  EXPECT_EQ(feed_all(*driver_, data(id, value.substr(0, 4096), value.substr(0, 4096))), "");
  // Half of the window is spent: it is granted anew.
  const std::string credit = take(out_);
  ASSERT_EQ(credit.size(), 16u);
  EXPECT_EQ(proto::load_le<std::uint32_t>(proto::as_bytes(credit).data() + 12), 4096u);
  EXPECT_EQ(
      feed_all(*driver_, data(id, value.substr(4096, 1000), {}) +
                             data(id, value.substr(5096, 3096), value.substr(4096, 4096)) +
                             data(id, value.substr(8192), value.substr(8192)) + end(id, value)),
      "");
  EXPECT_EQ(record_.replies[0].bytes, value);
  EXPECT_EQ(record_.replies[0].outcome, Outcome::kHit) << record_.replies[0].why;
}

TEST_P(CisternParsers, DigestsThatAreWrong) {
  const std::string value = value_of(large_, 1).substr(0, 4000);
  driver_->get(out_, 0, 1);
  std::uint32_t id = asked();
  EXPECT_EQ(feed_all(*driver_, value_head(id, value.size()) + data(id, value, "other bytes") +
                                   end(id, value)),
            "");
  EXPECT_EQ(record_.replies[0].outcome, Outcome::kFailed);
  EXPECT_NE(record_.replies[0].why.find("digest"), std::string::npos);
  record_.replies.clear();
  driver_->get(out_, 0, 1);
  id = asked();
  EXPECT_EQ(feed_all(*driver_, value_head(id, value.size()) + data(id, value, value) +
                                   end(id, value.substr(1) + "x")),
            "");
  EXPECT_EQ(record_.replies[0].outcome, Outcome::kFailed);
}

TEST_P(CisternParsers, FramesThatBreakTheRules) {
  const std::string bytes(4096, 'x');
  const std::vector<std::string> frames = {
      data(1, bytes, bytes),                                // no such request
      value_head(0, 10'000) + data(0, bytes, {}),           // a chunk's end without its flag
      value_head(0, 10'000) + data(0, "x", "x"),            // the flag without a chunk's end
      value_head(0, 10'000) + data(0, bytes + "x", bytes),  // across the end of a chunk
      value_head(0, 10) + value_head(0, 10),                // twice
      std::string("\xff\xff\xff\x00\x82\x00\x00\x00\x00\x00\x00\x00", 12),  // too long
  };
  for (const std::string& text : frames) {
    const auto driver = system_->driver();
    driver->get(out_, 0, 1);
    const std::uint32_t id = asked();
    std::string patched = text;
    // Frames are written for id 0; the real one is known only now.
    for (std::size_t at = 0; at + 12 <= patched.size();) {
      const proto::FrameHeader header = proto::decode_header(proto::as_bytes(patched).data() + at);
      if (header.id == 0) {
        proto::store_le(reinterpret_cast<std::byte*>(&patched[at + 8]), id);
      }
      at += 12 + header.length;
    }
    EXPECT_NE(feed_all(*driver, patched), "");
  }
}

TEST_P(CisternParsers, PutsWithinCredit) {
  const std::string value = value_of(large_, 2);
  driver_->put(out_, 0, 2);
  const std::uint32_t id = asked();
  std::string sent;
  for (int i = 0; i < 40 && sent.size() < value.size(); ++i) {
    std::vector<std::byte> credit;
    proto::encode_credit(credit, id, 3000);
    EXPECT_EQ(feed_all(*driver_, proto::as_text(credit)), "");
    const std::string frames = take(out_);
    for (std::size_t at = 0; at < frames.size();) {
      const proto::FrameHeader header = proto::decode_header(proto::as_bytes(frames).data() + at);
      const std::string_view payload = std::string_view(frames).substr(at + 12, header.length);
      at += 12 + header.length;
      if (header.type == static_cast<std::uint8_t>(proto::Type::kEnd)) {
        EXPECT_EQ(std::string(payload), end(id, value).substr(12));
        continue;
      }
      EXPECT_EQ(header.type, static_cast<std::uint8_t>(proto::Type::kData));
      const bool is_end = (header.flags & proto::kFlagChunkEnd) != 0;
      sent += payload.substr(is_end ? 8 : 0);
      EXPECT_EQ(is_end, sent.size() % kChunkBytes == 0 || sent.size() == value.size());
      EXPECT_LE(sent.size(), 3000u * static_cast<unsigned>(i + 1));
    }
  }
  EXPECT_EQ(sent, value);
  std::vector<std::byte> stored;
  proto::encode(stored, id, proto::Stored{.size = value.size()});
  EXPECT_EQ(feed_all(*driver_, proto::as_text(stored)), "");
  EXPECT_EQ(record_.replies[0].outcome, Outcome::kStored);
}

TEST_P(CisternParsers, ErrorsOfRequests) {
  const std::vector<std::pair<proto::Status, Outcome>> cases = {
      {proto::Status::kNotFound, Outcome::kMiss},
      {proto::Status::kNoRoom, Outcome::kRefused},
      {proto::Status::kValueTooLarge, Outcome::kRefused},
      {proto::Status::kInternal, Outcome::kFailed},
  };
  for (const auto& [status, outcome] : cases) {
    record_.replies.clear();
    driver_->get(out_, 0, 1);
    std::vector<std::byte> frame;
    proto::encode(
        frame, asked(), proto::Type::kError,
        proto::ErrorMessage{.code = static_cast<std::uint16_t>(status), .message = "why"});
    EXPECT_EQ(feed_all(*driver_, proto::as_text(frame)), "");
    EXPECT_EQ(record_.replies[0].outcome, outcome);
  }
  std::vector<std::byte> fatal;
  proto::encode(fatal, 0, proto::Type::kError,
                proto::ErrorMessage{.code = 33, .message = "too many"});
  EXPECT_EQ(feed_all(*driver_, proto::as_text(fatal)), "TOO_MANY_CONNECTIONS: too many");
}

}  // namespace
}  // namespace cistern::bench
