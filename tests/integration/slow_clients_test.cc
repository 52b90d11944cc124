// Clients that are slow, silent or gone: they cost their own window, nobody else notices, and
// nothing of them stays.
#include <future>
#include <thread>

#include <gtest/gtest.h>

#include "client/cpp/client.h"
#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/support/raw_client.h"
#include "tests/support/redis_server.h"
#include "tests/support/values.h"

namespace cistern::testing {
namespace {

constexpr std::size_t kMiB = 1024 * 1024;
constexpr std::size_t kLargeBytes = 48 * kMiB;  // more than L1
constexpr std::size_t kMemoryLimitBytes = 128 * kMiB;
const Millis kPatience(60'000);

class SlowClients : public ::testing::Test {
 protected:
  SlowClients()
      : daemon_(
            {.config = "l1: {max_bytes: 16MiB}\n"
                       "limits: {stall_timeout: 3s}\n"
                       "l2: {kind: redis, provisional_ttl: 8s, replace_grace: 3s, redis: {url: \"" +
                       redis_.url() + "\", op_timeout: 2s}}\n",
             .server = "  workers: 2\n"}),
        client_({.endpoint = daemon_.endpoint()}) {
    client_.put("large", large_);
    client_.put("small", as_bytes("small value"));
  }

  // Others are served, on this connection and on new ones.
  void expect_service(const std::string& endpoint) {
    Client other({.endpoint = endpoint, .request_timeout = std::chrono::seconds(5)});
    EXPECT_EQ(other.get("small")->text(), "small value");
    EXPECT_EQ(other.get("large")->bytes, large_);
  }

  // Nothing is left of what was under way: in the daemon at once, in Redis after the provisional
  // expiry; and the values are as they were.
  void expect_nothing_left() {
    EXPECT_TRUE(eventually(
        [&] { return daemon_.metric("cistern_open_streams") == 0 && daemon_.in_transfers() == 0; },
        kPatience))
        << daemon_.admin("/metrics");
    const std::size_t chunk = client_.stat("large")->chunk_bytes;
    const std::size_t expected = (large_.size() + chunk - 1) / chunk;
    EXPECT_TRUE(
        eventually([&] { return redis_.keys("cistern:c:*").size() == expected; }, kPatience))
        << redis_.keys("cistern:c:*").size() << " chunks, expected " << expected;
    EXPECT_EQ(client_.get("large")->bytes, large_);
  }

  // Begins a PUT over "large" by hand and sends `chunks` of it, as credit allows.
  void begin_put(RawClient& raw, unsigned chunks) {
    proto::PutRequest put;
    put.key = proto::as_bytes("large");
    put.size = large_.size();
    raw.request(9u, put);
    const std::vector<std::byte> chunk = value_of(99, raw.welcome().chunk_bytes);
    std::uint64_t credit = 0;
    for (unsigned i = 0; i < chunks; ++i) {
      while (credit < chunk.size()) {
        const std::optional<Frame> frame = raw.receive();
        ASSERT_TRUE(frame && frame->is(proto::Type::kCredit));
        credit += *proto::decode_credit(frame->payload);
      }
      proto::Out head;
      proto::encode_data_head(head, 9, chunk.size(), proto::chunk_digest(chunk));
      raw.send(head);
      raw.send(chunk);
      credit -= chunk.size();
    }
  }

  const std::vector<std::byte> large_ = value_of(1, kLargeBytes);
  RedisServer redis_;
  Daemon daemon_;
  Client client_;
};

TEST_F(SlowClients, AReaderOfAKibibyteASecondIsServedAndNobodyElseWaits) {
  // On a thread of its own: its pace must not depend on how long the others take.
  std::future<std::vector<std::byte>> slow = std::async(std::launch::async, [&] {
    Client client({.endpoint = daemon_.endpoint()});
    std::optional<Reader> reader = client.open("large");
    std::vector<std::byte> got;
    // Longer than stall_timeout: a transfer that moves is never cut.
    for (int second = 0; second < 7; ++second) {
      std::byte piece[1024];
      const std::size_t bytes = reader->read(piece);
      got.insert(got.end(), piece, piece + bytes);
      std::this_thread::sleep_for(Millis(1000));  // the reader's pace
    }
    reader->close();
    client.ping();
    return got;
  });
  do {
    expect_service(daemon_.endpoint());
  } while (slow.wait_for(Millis(0)) != std::future_status::ready);
  const std::vector<std::byte> got = slow.get();
  EXPECT_EQ(got.size(), 7u * 1024);
  EXPECT_TRUE(std::equal(got.begin(), got.end(), large_.begin()));
  expect_nothing_left();
}

TEST_F(SlowClients, OneThatGrantsNoMoreCreditHoldsUpNothingElseOnItsConnection) {
  RawClient raw(daemon_.endpoint());
  proto::GetRequest get;
  get.key = proto::as_bytes("large");
  get.credit_bytes = 100'000;
  raw.request(1u, get);
  std::uint64_t received = 0;
  ASSERT_TRUE(raw.receive_for(1).is(proto::Type::kValue));
  while (received < get.credit_bytes) {
    const Frame frame = raw.receive_for(1);
    ASSERT_TRUE(frame.is(proto::Type::kData));
    received += frame.payload.size();
  }
  EXPECT_EQ(received, get.credit_bytes);
  for (std::uint32_t id = 2; id < 50; ++id) {
    proto::GetRequest small;
    small.key = proto::as_bytes("small");
    small.credit_bytes = 1000;
    raw.request(id, small);
    const Frame answer = raw.receive_for(id);
    ASSERT_TRUE(answer.is(proto::Type::kValue));
    EXPECT_EQ(proto::as_text(proto::decode_value(answer.payload)->inline_bytes), "small value");
  }
  const Frame end = raw.receive_for(1);  // after stall_timeout
  ASSERT_TRUE(end.is(proto::Type::kError));
  EXPECT_EQ(proto::decode_error(end.payload)->code, static_cast<int>(proto::Status::kStalled));
  expect_nothing_left();
}

TEST_F(SlowClients, OneThatStopsReadingItsSocketHoldsUpNobodyAndIsCutOff) {
  RawClient raw(daemon_.endpoint(), true, 4096);
  proto::GetRequest get;
  get.key = proto::as_bytes("large");
  get.credit_bytes = 1u << 30;
  for (std::uint32_t id = 1; id <= 20; ++id) raw.request(id, get);
  for (int i = 0; i < 5; ++i) expect_service(daemon_.unix_endpoint());
#ifndef CISTERN_SANITIZED
  EXPECT_LT(daemon_.process().status_bytes("VmHWM"), kMemoryLimitBytes);
#endif
  EXPECT_TRUE(eventually([&] { return daemon_.metric("cistern_open_streams") == 0; }, kPatience));
  expect_nothing_left();
}

TEST_F(SlowClients, AWriterThatStopsHalfWayLeavesTheOldValue) {
  RawClient raw(daemon_.endpoint());
  begin_put(raw, 5);
  expect_service(daemon_.endpoint());
  const Frame end = raw.receive_for(9);  // after stall_timeout
  ASSERT_TRUE(end.is(proto::Type::kError));
  EXPECT_EQ(proto::decode_error(end.payload)->code, static_cast<int>(proto::Status::kStalled));
  expect_nothing_left();
}

TEST_F(SlowClients, AWriterThatVanishesLeavesTheOldValue) {
  for (int i = 0; i < 5; ++i) {
    RawClient raw(daemon_.endpoint());
    begin_put(raw, 1 + static_cast<unsigned>(i));
    raw.close();
  }
  expect_service(daemon_.endpoint());
  expect_nothing_left();
}

// Each of them holds what its socket has not taken. Together that would be several times what there
// is for transfers; so it is copied, to the connection's account, and their windows are given back.
TEST(StandingStill, InManyColdValuesStarvesNobody) {
  constexpr int kReaders = 40;
  const RedisServer redis;
  const Daemon daemon({.config = "memory: {limit: 64MiB}\nl1: {max_bytes: 4MiB}\n"
                                 "limits: {max_connections: 64, request_timeout: 60s}\n"
                                 "l2: {kind: redis, redis: {url: \"" +
                                 redis.url() + "\"}}\n",
                       .server = "  workers: 2\n"});
  Client client({.endpoint = daemon.endpoint(), .request_timeout = kPatience});
  const std::vector<std::byte> value = value_of(1, 6 * kMiB);
  for (int i = 0; i <= kReaders; ++i) client.put("cold" + std::to_string(i), value);
  std::vector<std::unique_ptr<RawClient>> still;
  proto::GetRequest get;
  get.credit_bytes = 1u << 30;
  for (int i = 0; i < kReaders; ++i) {
    still.push_back(std::make_unique<RawClient>(daemon.endpoint(), true, 4096));
    const std::string key = "cold" + std::to_string(i);
    get.key = proto::as_bytes(key);
    still.back()->request(1u, get);
  }
  // More than there is: somebody waits.
  EXPECT_TRUE(
      eventually([&] { return daemon.metric("cistern_ledger_waits_total") > 0; }, kPatience));
  EXPECT_EQ(client.get("cold" + std::to_string(kReaders))->bytes, value);
  EXPECT_EQ(daemon.metric("cistern_open_streams"), kReaders);
}

}  // namespace
}  // namespace cistern::testing
