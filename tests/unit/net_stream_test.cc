// Streams over real sockets: credit, frames, cancelling, and times that run out.
#include <gtest/gtest.h>

#include "tests/unit/net_fixture.h"

namespace cistern::net {
namespace {

// What a streamed GET brought.
struct Received {
  std::vector<std::byte> bytes;
  std::size_t largest_frame = 0;
  std::optional<Frame> last;  // END or ERROR; empty when nothing came any more
};

// Reads DATA of `id` until it ends, or until `stop_at` bytes have come.
Received receive_value(RawClient& client, std::uint32_t id, std::size_t stop_at = ~std::size_t{0},
                       std::uint32_t grant_each = 0) {
  Received received;
  while (received.bytes.size() < stop_at) {
    received.last = client.receive();
    if (!received.last || received.last->type() != Type::kData || received.last->id() != id) break;
    std::span<const std::byte> payload(received.last->payload);
    if ((received.last->header.flags & proto::kFlagChunkEnd) != 0) {
      payload = payload.subspan(proto::kChunkDigestBytes);
    }
    received.largest_frame = std::max(received.largest_frame, payload.size());
    received.bytes.insert(received.bytes.end(), payload.begin(), payload.end());
    if (grant_each != 0) client.credit(id, grant_each);
  }
  return received;
}

class StreamTest : public ServerTest {
 protected:
  // Stores `size` bytes under `key` and returns them.
  std::vector<std::byte> store(std::string_view key, std::size_t size) {
    RawClient client = greeted();
    auto value = some_bytes(size);
    const auto stored = client.put(1, key, value, kChunk);
    EXPECT_TRUE(stored && stored->type() == Type::kStored);
    return value;
  }
};

TEST_F(StreamTest, CarriesLargeValuesBothWays) {
  start();
  const auto value = store("big", 3 * proto::kMiB + 17);
  RawClient client = greeted();
  client.get(7, "big", 16 << 20);
  const auto head = client.receive();
  ASSERT_TRUE(head);
  ASSERT_EQ(head->type(), Type::kValue);
  const Received received = receive_value(client, 7);
  EXPECT_TRUE(received.bytes == value);
  ASSERT_TRUE(received.last);
  ASSERT_EQ(received.last->type(), Type::kEnd);
  EXPECT_EQ(proto::decode_end(received.last->payload)->size, value.size());
  EXPECT_TRUE(eventually([&] { return open_streams() == 0; }));
  EXPECT_TRUE(eventually([&] { return ledger_->transferring() == 0; }));
}

TEST_F(StreamTest, SendsNoMoreThanTheCredit) {
  start();
  const auto value = store("big", proto::kMiB);
  RawClient client = greeted();
  client.get(7, "big", 100'000);
  ASSERT_EQ(client.receive()->type(), Type::kValue);
  Received received = receive_value(client, 7, 100'000);
  EXPECT_EQ(received.bytes.size(), 100'000u);
  // Other requests of the connection go on; nothing of the stream comes with their answers.
  client.plain(8, Type::kPing, "abc");
  const auto pong = client.receive();
  ASSERT_TRUE(pong);
  EXPECT_EQ(pong->type(), Type::kPong);
  EXPECT_FALSE(client.readable(50ms));
  client.credit(7, 2 << 20);
  const Received rest = receive_value(client, 7);
  EXPECT_EQ(received.bytes.size() + rest.bytes.size(), value.size());
  EXPECT_EQ(rest.last->type(), Type::kEnd);
}

// A small value, too, which would else come inline.
TEST_F(StreamTest, StreamsASmallValueThatTheFirstCreditDoesNotCover) {
  start();
  const auto value = store("small", 3000);
  RawClient client = greeted();
  client.get(7, "small", 1000);
  const auto head = client.receive();
  ASSERT_TRUE(head && head->type() == Type::kValue);
  EXPECT_EQ(proto::decode_value(head->payload)->flags & proto::kValueInline, 0u);
  Received received = receive_value(client, 7, 1000);
  EXPECT_EQ(received.bytes.size(), 1000u);
  EXPECT_FALSE(client.readable(20ms));
  client.credit(7, 2000);
  const Received rest = receive_value(client, 7);
  received.bytes.insert(received.bytes.end(), rest.bytes.begin(), rest.bytes.end());
  EXPECT_TRUE(received.bytes == value);
  ASSERT_TRUE(rest.last && rest.last->type() == Type::kEnd);
  EXPECT_EQ(proto::decode_end(rest.last->payload)->digest,
            proto::ValueHasher::of_single(proto::chunk_digest(value), kChunk, value.size()));
  EXPECT_EQ(open_streams(), 0);
}

TEST_F(StreamTest, KeepsToTheReadersFrameSize) {
  start();
  const auto value = store("big", proto::kMiB);
  RawClient client = greeted();
  client.get(7, "big", 4 << 20, 10'000);
  ASSERT_EQ(client.receive()->type(), Type::kValue);
  const Received received = receive_value(client, 7);
  EXPECT_LE(received.largest_frame, 10'000u);
  EXPECT_TRUE(received.bytes == value);
}

TEST_F(StreamTest, LetsSmallAnswersPassBetweenLargeOnes) {
  start();
  store("big", 8 * proto::kMiB);
  store("small", 100);
  RawClient client = greeted();
  for (std::uint32_t id = 1; id <= 3; ++id) client.get(id, "big", 64 << 20);
  client.get(9, "small");
  // The answer is owed before the three are half done.
  std::size_t before = 0;
  for (;;) {
    const auto frame = client.receive();
    ASSERT_TRUE(frame);
    if (frame->id() == 9) break;
    before += frame->payload.size();
    EXPECT_LE(frame->payload.size(), proto::kMiB + proto::kChunkDigestBytes);
  }
  EXPECT_LT(before, 12 * proto::kMiB);
}

TEST_F(StreamTest, EndsACancelledRead) {
  start();
  store("big", 4 * proto::kMiB);
  RawClient client = greeted();
  client.get(7, "big", 70'000);
  ASSERT_EQ(client.receive()->type(), Type::kValue);
  receive_value(client, 7, 70'000);
  client.plain(7, Type::kCancel);
  const auto answer = client.receive();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->type(), Type::kError);
  EXPECT_EQ(answer->status(), Status::kCancelled);
  EXPECT_EQ(open_streams(), 0);
  client.credit(7, 1 << 20);
  client.plain(8, Type::kPing);
  EXPECT_EQ(client.receive()->type(), Type::kPong);
}

TEST_F(StreamTest, AnUploadThatVanishesLeavesTheOldValue) {
  start();
  const auto old = store("k", 200'000);
  {
    RawClient client = greeted();
    proto::PutRequest put;
    put.key = proto::as_bytes("k");
    put.size = 300'000;
    client.request(1, put);
    ASSERT_EQ(client.receive()->type(), Type::kCredit);
    Out head;
    proto::encode_data_head(head, 1, 30'000, std::nullopt);
    client.send(head);
    client.send(some_bytes(20'000, 2));
  }
  EXPECT_TRUE(eventually([&] { return closes(CloseReason::kPeerClosed) == 2; }));
  EXPECT_TRUE(eventually([&] {
    return open_streams() == 0 && ledger_->transferring() == 0 &&
           ledger_->used(base::Account::kConnections) == 0;
  }));
  RawClient client = greeted();
  client.get(2, "k");
  ASSERT_EQ(client.receive()->type(), Type::kValue);
  EXPECT_TRUE(receive_value(client, 2).bytes == old);
}

TEST_F(StreamTest, RefusesWhatCanNeverBeStoredBeforeItsPayload) {
  start();
  RawClient client = greeted();
  proto::PutRequest put;
  put.key = proto::as_bytes("k");
  put.size = 65 * proto::kMiB;
  client.request(1, put);
  const auto answer = client.receive();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status(), Status::kValueTooLarge);
  EXPECT_EQ(requests(base::Op::kPut, Status::kValueTooLarge), 1u);
}

TEST_F(StreamTest, FailsAStreamThatStalls) {
  options_.session.stall_timeout = 100ms;
  start();
  store("big", proto::kMiB);
  RawClient client = greeted();
  client.get(7, "big", 70'000);
  ASSERT_EQ(client.receive()->type(), Type::kValue);
  receive_value(client, 7, 70'000);
  const auto answer = client.receive();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->type(), Type::kError);
  EXPECT_EQ(answer->status(), Status::kStalled);
  EXPECT_NE(answer->text().find("limits.stall_timeout"), std::string::npos);
  // The connection lives.
  client.plain(8, Type::kPing);
  EXPECT_EQ(client.receive()->type(), Type::kPong);
}

TEST_F(StreamTest, AnUploadThatStallsIsFailedAndLeavesNothing) {
  options_.session.stall_timeout = 100ms;
  start();
  RawClient client = greeted();
  proto::PutRequest put;
  put.key = proto::as_bytes("k");
  put.size = 300'000;
  client.request(1, put);
  ASSERT_EQ(client.receive()->type(), Type::kCredit);
  const auto answer = client.receive();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status(), Status::kStalled);
  EXPECT_TRUE(eventually([&] { return ledger_->transferring() == 0; }));
}

// Credit that moves keeps a stream alive for longer than the timeout.
TEST_F(StreamTest, AStreamThatMovesDoesNotStall) {
  options_.session.stall_timeout = 200ms;
  start();
  const auto value = store("big", 40'000);
  RawClient client = greeted();
  client.get(7, "big", 1'000);
  ASSERT_EQ(client.receive()->type(), Type::kValue);
  const auto began = std::chrono::steady_clock::now();
  std::size_t received = 0;
  while (received < value.size()) {
    received += receive_value(client, 7, 1'000).bytes.size();
    EXPECT_FALSE(received < value.size() && client.readable(20ms));
    client.credit(7, 1'000);
  }
  EXPECT_GT(std::chrono::steady_clock::now() - began, 400ms);
  EXPECT_EQ(client.receive()->type(), Type::kEnd);
}

// A reader that is slow with one chunk says so without granting anything.
TEST_F(StreamTest, ACreditOfNothingIsASignOfLife) {
  options_.session.stall_timeout = 200ms;
  start();
  store("big", proto::kMiB);
  RawClient client = greeted();
  client.get(7, "big", 1'000);
  ASSERT_EQ(client.receive()->type(), Type::kValue);
  EXPECT_EQ(receive_value(client, 7, 1'000).bytes.size(), 1'000u);
  const auto until = std::chrono::steady_clock::now() + 600ms;
  while (std::chrono::steady_clock::now() < until) {
    client.credit(7, 0);
    ASSERT_FALSE(client.readable(20ms));
  }
  const auto answer = client.receive();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status(), Status::kStalled);
}

// It doesn't prolong the wait for the first answer, though.
TEST_F(StreamTest, CreditDoesNotProlongTheWaitForAnAnswer) {
  options_.session.request_timeout = 200ms;
  make_store_ = [](base::Loop& loop, asio::io_context&, base::WorkerMetrics&) {
    return std::make_unique<SilentStore>(loop);
  };
  start();
  RawClient client = greeted();
  client.get(7, "k");
  const auto until = std::chrono::steady_clock::now() + 10s;
  while (!client.readable(20ms) && std::chrono::steady_clock::now() < until) client.credit(7, 1);
  const auto answer = client.receive();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status(), Status::kTimeout);
}

// The bytes of one frame that come slowly move, too.
TEST_F(StreamTest, AnUploadInOneSlowFrameDoesNotStall) {
  options_.session.stall_timeout = 200ms;
  start();
  RawClient client = greeted();
  proto::PutRequest put;
  put.key = proto::as_bytes("k");
  put.size = 30'000;
  client.request(1, put);
  ASSERT_EQ(client.receive()->type(), Type::kCredit);
  const auto value = some_bytes(30'000);
  const proto::ChunkDigest digest = proto::chunk_digest(value);
  Out head;
  proto::encode_data_head(head, 1, value.size(), digest);
  client.send(head);
  for (std::size_t sent = 0; sent < value.size(); sent += 1'000) {
    client.send(Bytes(value).subspan(sent, 1'000));
    ASSERT_FALSE(client.readable(20ms));
  }
  Out end;
  proto::encode(
      end, 1,
      proto::End{proto::ValueHasher::of_single(digest, kChunk, value.size()), value.size()});
  client.send(end);
  const auto stored = client.receive();
  ASSERT_TRUE(stored);
  EXPECT_EQ(stored->type(), Type::kStored);
}

// What the kernel took at once and the line carries away slowly moves, though nothing is written.
TEST_F(StreamTest, AReaderOnASlowLineDoesNotStall) {
  options_.session.stall_timeout = 500ms;
  start();
  store("big", 8 * proto::kMiB);
  RawClient client = connect();
  const int small = 4096;
  ::setsockopt(client.fd(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  ASSERT_TRUE(client.hello());
  client.get(7, "big", 8 << 20);
  std::vector<std::byte> piece(4096);
  std::size_t received = 0;
  while (received < 1'200'000) {
    ASSERT_TRUE(client.readable(10s));
    const ssize_t got = ::recv(client.fd(), piece.data(), piece.size(), 0);
    ASSERT_GT(got, 0) << received;
    received += static_cast<std::size_t>(got);
    ::poll(nullptr, 0, 10);  // the line's pace
  }
  EXPECT_EQ(closes(CloseReason::kOutputStalled), 0u);
  EXPECT_EQ(open_streams(), 1);
  EXPECT_EQ(requests(base::Op::kGet, Status::kStalled), 0u);
}

TEST_F(StreamTest, ClosesASocketThatTakesNothing) {
  options_.session.stall_timeout = 100ms;
  start();
  store("big", 16 * proto::kMiB);
  RawClient slow = greeted();
  slow.get(7, "big", 64 << 20);
  RawClient other = greeted();
  EXPECT_TRUE(eventually([&] {
    other.plain(1, Type::kPing);
    const auto pong = other.receive();
    return pong && pong->type() == Type::kPong && closes(CloseReason::kOutputStalled) == 1;
  }));
  EXPECT_EQ(open_streams(), 0);
}

TEST_F(StreamTest, AnswersInTimeWhatTheSecondTierLeavesOpen) {
  options_.session.request_timeout = 150ms;
  make_store_ = [](base::Loop& loop, asio::io_context&, base::WorkerMetrics&) {
    return std::make_unique<SilentStore>(loop);
  };
  start();
  RawClient client = greeted();
  client.get(1, "k");
  client.key_request(2, Type::kStat, "k");
  for (std::uint32_t i = 0; i < 2; ++i) {
    const auto answer = client.receive();
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->type(), Type::kError);
    EXPECT_EQ(answer->status(), Status::kTimeout);
    EXPECT_NE(answer->text().find("limits.request_timeout"), std::string::npos);
  }
  EXPECT_EQ(open_streams(), 0);
  EXPECT_EQ(requests(base::Op::kGet, Status::kTimeout), 1u);
  client.plain(8, Type::kPing);
  EXPECT_EQ(client.receive()->type(), Type::kPong);
}

// A client that asks and doesn't read must not grow what the server owes, nor stop others.
TEST_F(StreamTest, StopsReadingWhatAsksAndDoesNotRead) {
  start();
  const auto value = store("k", 4000);
  RawClient greedy = greeted();
  Out gets;
  for (std::uint32_t id = 1; id <= 20'000; ++id) {
    proto::GetRequest get;
    get.key = proto::as_bytes("k");
    get.credit_bytes = 1 << 20;
    proto::encode(gets, id, get);
  }
  std::thread sender([&] { greedy.send(gets); });
  RawClient other = greeted();
  for (std::uint32_t id = 1; id <= 50; ++id) {
    other.plain(id, Type::kPing);
    ASSERT_EQ(other.receive()->type(), Type::kPong);
    EXPECT_LT(ledger_->used(base::Account::kConnections), 4 * proto::kMiB);
  }
  for (std::uint32_t id = 1; id <= 20'000; ++id) {
    const auto answer = greedy.receive();
    ASSERT_TRUE(answer);
    ASSERT_EQ(answer->type(), Type::kValue);
    ASSERT_EQ(answer->id(), id);
  }
  sender.join();
}

}  // namespace
}  // namespace cistern::net
