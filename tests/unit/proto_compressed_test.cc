// Compressed chunks on the wire: what a client that asked for them is given, what that costs of its
// credit, and what breaks the protocol. What the bytes decode to isn't the wire's business.
#include <gtest/gtest.h>

#include "tests/support/proto_pair.h"

namespace cistern::proto {
namespace {

using testing::Buffer;
using testing::make_value;
using testing::Pair;
using testing::Random;

constexpr std::uint32_t kChunk = 4096;

// A chunk as it is sent; compressed where it has fewer bytes than raw_bytes.
struct Sent {
  Buffer bytes;
  std::uint32_t raw_bytes = 0;
  bool compressed() const { return bytes.size() < raw_bytes; }
  bool operator==(const Sent&) const = default;
};

// A value of chunks in either form, the last one short.
std::vector<Sent> mixed(std::size_t chunks, Random& random) {
  std::vector<Sent> all;
  for (std::size_t i = 0; i < chunks; ++i) {
    const std::uint32_t raw = i + 1 < chunks ? kChunk : 1000;
    const std::size_t size = random.below(2) == 0 ? raw : 1 + random.below(raw - 1);
    all.push_back({make_value(size, static_cast<unsigned>(i)), raw});
  }
  return all;
}
std::uint64_t size_of(const std::vector<Sent>& chunks) {
  std::uint64_t size = 0;
  for (const Sent& chunk : chunks) size += chunk.raw_bytes;
  return size;
}

class Server : public testing::ServerSide {
 public:
  using ServerSide::ServerSide;
  std::vector<Sent> chunks;
  std::size_t index = 0, offset = 0;

  void answer_get(std::uint32_t id, std::uint32_t flags) {
    ValueHead head;
    head.flags = kInL2 | flags;
    head.size = size_of(chunks);
    head.chunk_bytes = kChunk;
    conn.start_value(id, head);
  }
  Piece next_piece(std::uint32_t, std::size_t max_bytes) override {
    Piece piece;
    if (index == chunks.size()) {
      piece.kind = Piece::Kind::kEnd;
      piece.end.size = size_of(chunks);
      return piece;
    }
    const Sent& chunk = chunks[index];
    const std::size_t size = std::min(max_bytes, chunk.bytes.size() - offset);
    if (size == 0) return piece;
    piece.kind = Piece::Kind::kBytes;
    piece.bytes.data = chunk.bytes.data() + offset;
    piece.bytes.size = size;
    piece.compressed = chunk.compressed();
    offset += size;
    if (offset < chunk.bytes.size()) return piece;
    piece.chunk_end = 0xD16E57 + index;
    piece.compressed_end = {chunk_digest(chunk.bytes), chunk.raw_bytes};
    ++index;
    offset = 0;
    return piece;
  }
};

class Client : public testing::ClientSide {
 public:
  std::vector<Sent> chunks;
  bool ended = false;
  bool judges = true;

  void on_value(std::uint32_t, const ValueHead&) override {}
  MutableBytes on_data_target(std::uint32_t, std::size_t bytes) override {
    const std::size_t had = part_.size();
    part_.resize(had + bytes);
    return MutableBytes(part_).subspan(had);
  }
  void on_data_done(std::uint32_t id, std::size_t, std::optional<ChunkDigest> chunk_end) override {
    if (!chunk_end || !judges) return;
    EXPECT_EQ(*chunk_end, 0xD16E57 + chunks.size());
    Sent chunk{std::exchange(part_, {}), 0};
    chunk.raw_bytes = static_cast<std::uint32_t>(chunk.bytes.size());
    if (conn.compressed()) {
      chunk.raw_bytes = conn.compressed_end().raw_bytes;
      EXPECT_EQ(conn.compressed_end().stored_digest, chunk_digest(chunk.bytes));
    }
    const std::uint32_t raw_bytes = chunk.raw_bytes;
    chunks.push_back(std::move(chunk));
    if (!by_hand) conn.grant(id, raw_bytes);
  }
  void on_end(std::uint32_t, const End&) override { ended = true; }

 private:
  Buffer part_;
};

ServerLimits limits() {
  ServerLimits limits = testing::small_limits();
  limits.compressed = true;
  return limits;
}

template <typename... Arguments>
Buffer encoded(const Arguments&... arguments) {
  Out out;
  encode(out, arguments...);
  return {out.begin(), out.end()};
}

// The two of them; the server answers the one GET by hand.
struct Both {
  explicit Both(std::vector<Sent> chunks) {
    server.by_hand = true;
    server.chunks = std::move(chunks);
    client.conn.hello("test");
    run();
  }
  std::uint32_t get(std::uint32_t credit, std::uint32_t frame_bytes = 0) {
    const std::uint32_t id = client.conn.get({.key = as_bytes("k"),
                                              .credit_bytes = credit,
                                              .frame_bytes = frame_bytes,
                                              .compressed = true});
    run();
    server.answer_get(id, kCompressed);
    run();
    return id;
  }
  void run() {
    for (;;) {
      bool moved = move(client.conn, server.conn, [this] { return server.conn.process(1 << 20); });
      moved |= move(server.conn, client.conn, [this] {
        client.conn.process();
        return true;
      });
      if (!moved || client.lost) return;
    }
  }
  template <typename From, typename To, typename Process>
  bool move(From& from, To& to, const Process& process) {
    Buffer wire = testing::collect_all(from);
    if (wire.empty()) return false;
    testing::feed(to, wire, split, process);
    return true;
  }

  Server server{limits()};
  Client client;
  testing::Split split = testing::all_at_once();
};

TEST(Compressed, ChunksOfBothFormsArriveInWhateverPieces) {
  Random random;
  std::cout << "CISTERN_SEED=" << random.seed() << "\n";
  for (int round = 0; round < 60; ++round) {
    Both both(mixed(1 + random.below(12), random));
    // From less than a chunk on, so that the end of one is owed.
    const auto credit = static_cast<std::uint32_t>(1 + random.below(3 * kChunk));
    const auto frame = static_cast<std::uint32_t>(1024 + random.below(5000));
    if (random.below(2) == 0) both.split = testing::random_split(random, 700);
    const std::uint32_t id = both.get(credit, frame);
    // Whoever can't hold a chunk grants up to one.
    for (int more = 0; more < 20 && !both.client.ended; ++more) {
      both.client.conn.grant(id, kChunk);
      both.run();
    }
    EXPECT_FALSE(both.client.lost) << both.client.lost->message;
    EXPECT_TRUE(both.client.ended);
    EXPECT_EQ(both.client.chunks, both.server.chunks);
  }
}

TEST(Compressed, AChunkCostsItsRawBytes) {
  Both both({{make_value(100), kChunk}, {make_value(100), kChunk}, {make_value(100), kChunk}});
  both.client.by_hand = true;
  // Two chunks but for one byte: the second is sent whole, and one byte is owed.
  const std::uint32_t id = both.get(2 * kChunk - 1);
  EXPECT_EQ(both.client.chunks.size(), 2u);
  both.client.conn.grant(id, 1);
  both.run();
  EXPECT_EQ(both.client.chunks.size(), 2u);
  both.client.conn.grant(id, 99);
  both.run();
  EXPECT_EQ(both.client.chunks.size(), 2u) << "of the third 99 bytes are sent";
  both.client.conn.grant(id, 1);
  both.run();
  EXPECT_EQ(both.client.chunks.size(), 3u);
  EXPECT_TRUE(both.client.ended);
}

TEST(Compressed, NeedsItsFeature) {
  testing::ServerSide without;
  without.exchange(encoded(Hello{.features = kKnownFeatures}));
  const auto refused =
      without.exchange(encoded(3u, GetRequest{.key = as_bytes("k"), .compressed = true}));
  EXPECT_EQ(decode_error(refused.at(0).payload)->code,
            static_cast<std::uint16_t>(Status::kUnsupported));

  testing::ServerSide with(limits());
  const auto frames = with.exchange(encoded(Hello{.features = ~std::uint64_t{0}}));
  EXPECT_EQ(decode_welcome(frames.at(0).payload)->features, kKnownFeatures);
}

// ---- What breaks the protocol

// What becomes of a client that is sent these DATA frames for a value of two chunks.
class Breaks : public ::testing::Test {
 protected:
  std::string lost(const Buffer& data, bool announced = true, std::uint32_t credit = 3 * kChunk) {
    Both both({{make_value(100), kChunk}, {make_value(100), 1000}});
    both.client.judges = false;  // and grants nothing
    const std::uint32_t id =
        both.client.conn.get({.key = as_bytes("k"), .credit_bytes = credit, .compressed = true});
    EXPECT_EQ(id, 1u);
    both.run();
    Out head;
    encode(head, id,
           ValueHead{
               .flags = announced ? kCompressed : 0, .size = kChunk + 1000, .chunk_bytes = kChunk});
    Buffer wire(head.begin(), head.end());
    testing::append(wire, data);
    testing::feed(both.client.conn, wire, testing::all_at_once(), [&] {
      both.client.conn.process();
      return true;
    });
    return both.client.lost ? both.client.lost->message : "";
  }
  static Buffer frame(std::size_t size, std::optional<std::uint32_t> raw_bytes) {
    Out out;
    encode_compressed_head(
        out, 1, size, raw_bytes ? std::optional<ChunkDigest>(0xD16E57) : std::nullopt,
        raw_bytes ? std::optional(CompressedEnd{chunk_digest(make_value(size)), *raw_bytes})
                  : std::nullopt);
    Buffer wire(out.begin(), out.end());
    testing::append(wire, make_value(size));
    return wire;
  }
  static Buffer raw_frame(std::size_t size, std::optional<ChunkDigest> end) {
    Out out;
    encode_data_head(out, 1, size, end);
    Buffer wire(out.begin(), out.end());
    testing::append(wire, make_value(size));
    return wire;
  }
  static Buffer both_of(Buffer a, const Buffer& b) {
    testing::append(a, b);
    return a;
  }
};

TEST_F(Breaks, WhatIsRightDoesNot) {
  EXPECT_EQ(lost(frame(100, kChunk)), "");
  EXPECT_EQ(lost(both_of(frame(50, std::nullopt), frame(50, kChunk))), "");
  EXPECT_EQ(lost(frame(kChunk - 1, kChunk)), "");
}

TEST_F(Breaks, CompressedChunksThatWereNotAnnounced) {
  EXPECT_NE(lost(frame(100, kChunk), false), "");
}

TEST_F(Breaks, ARawLengthThatIsNotTheChunks) {
  EXPECT_NE(lost(frame(100, kChunk - 1)).find("4095"), std::string::npos);
  EXPECT_NE(lost(frame(100, kChunk + 1)), "");
  EXPECT_NE(lost(frame(100, 0)), "");
}

TEST_F(Breaks, AChunkThatIsNotSmaller) {
  EXPECT_NE(lost(frame(kChunk, kChunk)), "");
  EXPECT_NE(lost(both_of(frame(kChunk - 1, std::nullopt), frame(1, kChunk))), "");
}

TEST_F(Breaks, AChunkOfTwoForms) {
  EXPECT_NE(lost(both_of(frame(100, std::nullopt), raw_frame(100, std::nullopt))), "");
  EXPECT_NE(lost(both_of(raw_frame(100, std::nullopt), frame(100, kChunk))), "");
}

TEST_F(Breaks, MoreThanTheCredit) {
  EXPECT_NE(lost(frame(100, kChunk), true, 99), "");
  EXPECT_EQ(lost(frame(100, kChunk), true, 100), "");
  EXPECT_NE(lost(both_of(frame(100, kChunk), frame(1, 1000)), true, 101), "") << "4095 are owed";
}

}  // namespace
}  // namespace cistern::proto
