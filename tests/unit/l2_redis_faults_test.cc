// RedisStore and a Redis that dies, stands still, answers late or not at all.
#include <chrono>
#include <functional>

#include <asio/ip/tcp.hpp>
#include <asio/write.hpp>

#include "tests/unit/l2_redis_fixture.h"

namespace cistern::l2 {
namespace {

using Clock = std::chrono::steady_clock;

class RedisFaultsTest : public StoreFixture {
 protected:
  RedisOptions through_proxy() {
    RedisOptions options = options_for("redis://127.0.0.1:" + std::to_string(proxy.port()));
    options.op_timeout = milliseconds(600);
    return options;
  }
  RedisOptions direct() {
    RedisOptions options = options_for(redis.url());
    options.op_timeout = milliseconds(600);
    return options;
  }
  // Until a small operation works.
  void await_recovery() {
    const auto until = Clock::now() + seconds(15);
    while (Clock::now() < until) {
      if (get("recovery probe")) return;
      loop.run_for(milliseconds(10));
    }
    FAIL() << "the store does not recover";
  }
  // Until both connections have been made.
  void settle() {
    ASSERT_TRUE(get("absent"));
    const Value probe = make_value("probe", 20000, 1, 4096);
    ASSERT_TRUE(write(probe, 0));
  }
  std::uint64_t calls(const std::string& command) {
    const std::string stats = redis.info("cmdstat_" + command);
    return stats.empty() ? 0 : std::stoull(stats.substr(stats.find("calls=") + 6));
  }

  RedisServer redis;
  Proxy proxy{redis.port()};
};

TEST_F(RedisFaultsTest, ALateCommitIsRefusedByTheClock) {
  open(through_proxy());
  settle();
  proxy.hold_requests(testing::containing("EVALSHA"));
  const auto start = Clock::now();
  auto first = start_commit(make_value("key", 100, 1));
  ASSERT_TRUE(loop.run_until([&] { return proxy.wait_held(milliseconds(0)); }));
  proxy.hold_requests(nullptr);
  proxy.cut();
  const auto unknown = wait(first);
  ASSERT_TRUE(unknown) << unknown.error().message;
  EXPECT_EQ(unknown->kind, CommitKind::kUnknown);
  EXPECT_FALSE(unknown->cause.empty());
  EXPECT_GE(Clock::now() - start, milliseconds(590)) << "unknown was said before it was certain";
  await_recovery();
  const auto second = commit(make_value("key", 100, 2));
  ASSERT_TRUE(second) << second.error().message;
  ASSERT_EQ(second->kind, CommitKind::kCommitted);
  const std::uint64_t calls_before = calls("evalsha");
  proxy.release_held();
  ASSERT_TRUE(loop.run_until([&] { return calls("evalsha") > calls_before; }))
      << "it never arrived";
  const auto found = get("key");
  ASSERT_TRUE(found && found->has_value());
  EXPECT_EQ((*found)->meta.version, 2u);
}

TEST_F(RedisFaultsTest, ACommitThatIsHeldLessThanItsTimeHappens) {
  // The counterpart of the test above: what refuses there is the clock, not the proxy.
  RedisOptions options = through_proxy();
  options.op_timeout = seconds(3);
  open(options);
  settle();
  proxy.hold_requests(testing::containing("EVALSHA"));
  auto first = start_commit(make_value("key", 100, 1));
  ASSERT_TRUE(loop.run_until([&] { return proxy.wait_held(milliseconds(0)); }));
  proxy.cut();
  proxy.release_held();
  const auto unknown = wait(first);
  ASSERT_TRUE(unknown);
  EXPECT_EQ(unknown->kind, CommitKind::kUnknown);
  await_recovery();
  EXPECT_TRUE(get("key")->has_value());
}

TEST_F(RedisFaultsTest, ACommitLeftInAStoppedRedisNeverHappens) {
  open(direct());
  settle();
  redis.freeze();
  auto first = start_commit(make_value("key", 100, 1));
  const auto unknown = wait(first);
  ASSERT_TRUE(unknown) << unknown.error().message;
  EXPECT_EQ(unknown->kind, CommitKind::kUnknown);
  redis.thaw();
  await_recovery();
  EXPECT_FALSE(get("key")->has_value());
}

TEST_F(RedisFaultsTest, ARemoveIsAsUnknownAsACommit) {
  open(direct());
  ASSERT_TRUE(commit(make_value("key", 100, 1)));
  redis.freeze();
  const auto unknown = remove("key");
  ASSERT_TRUE(unknown);
  EXPECT_EQ(unknown->kind, CommitKind::kUnknown);
  redis.thaw();
  await_recovery();
  EXPECT_TRUE(get("key")->has_value());
}

TEST_F(RedisFaultsTest, WhatWasNeverSentFailsForCertain) {
  redis.stop();
  RedisOptions options = direct();
  options.op_timeout = std::chrono::minutes(1);
  open(options);
  const auto start = Clock::now();
  const auto refused = commit(make_value("key", 100, 1));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().status, Status::kL2Unavailable);
  EXPECT_LT(Clock::now() - start, seconds(30)) << "it waited for its time";
  EXPECT_EQ(get("key").error().status, Status::kL2Unavailable);
  EXPECT_EQ(read(make_value("key", 20000, 1), 0).error().status, Status::kL2Unavailable);
  EXPECT_EQ(write(make_value("key", 20000, 1), 0).error().status, Status::kL2Unavailable);
  EXPECT_EQ(expire({"key", 1, 3}, seconds(1), true).error().status, Status::kL2Unavailable);
  EXPECT_FALSE(store->available());
  EXPECT_EQ(store->available().error().status, Status::kL2Unavailable);
  redis.start();
  await_recovery();
  EXPECT_TRUE(commit(make_value("key", 100, 1)));
}

TEST_F(RedisFaultsTest, ARedisThatOnlyAcceptsIsGivenUpAfterTheConnectTimeout) {
  proxy.freeze(true);
  RedisOptions options = through_proxy();
  options.connect_timeout = milliseconds(300);
  open(options);
  const auto start = Clock::now();
  EXPECT_TRUE(store->available()) << "the first attempt is under way";
  auto chunk = start_read(make_value("key", 20000, 1), 0);
  auto committed = start_commit(make_value("key", 100, 1));
  auto manifest = get("key");
  ASSERT_FALSE(manifest);
  EXPECT_EQ(manifest.error().status, Status::kL2Unavailable);
  EXPECT_NE(manifest.error().message.find("connect_timeout"), std::string::npos);
  EXPECT_EQ(wait(chunk).error().status, Status::kL2Unavailable);
  EXPECT_EQ(wait(committed).error().status, Status::kL2Unavailable);
  EXPECT_GE(Clock::now() - start, milliseconds(290));
  EXPECT_LT(Clock::now() - start, seconds(10));
  proxy.freeze(false);
  await_recovery();
}

TEST_F(RedisFaultsTest, OperationsTimeOut) {
  open(through_proxy());
  settle();
  const Value value = make_value("key", 200000, 1);
  put(value);
  proxy.freeze(true);
  const auto start = Clock::now();
  auto manifest_answer = Answer<std::optional<Manifest>>();
  store->get_manifest("key", manifest_answer.take());
  auto chunk = start_read(value, 0);
  auto written = start_write(value, 1);
  EXPECT_EQ(wait(manifest_answer).error().status, Status::kL2Timeout);
  EXPECT_EQ(wait(chunk).error().status, Status::kL2Timeout);
  EXPECT_EQ(wait(written).error().status, Status::kL2Timeout);
  EXPECT_GE(Clock::now() - start, milliseconds(590));
  EXPECT_LT(Clock::now() - start, seconds(4)) << "that was the default";
  proxy.freeze(false);
  await_recovery();
  loop.run_until([&] { return store->available().has_value(); });
  EXPECT_TRUE(same(*read(value, 0), value.chunks[0]));
  EXPECT_GE(metrics.l2_reconnects.get(), 2u);
}

TEST_F(RedisFaultsTest, ATransferThatMovesIsNotTimedOut) {
  open(through_proxy());
  const Value value = make_value("key", 300000, 1, 300 * 1024);
  put(value);
  proxy.throttle_replies(30000, milliseconds(200));
  const auto start = Clock::now();
  const auto chunk = read(value, 0);
  ASSERT_TRUE(chunk) << chunk.error().message;
  EXPECT_TRUE(same(*chunk, value.chunks[0]));
  EXPECT_GT(Clock::now() - start, milliseconds(1200)) << "the test proves nothing";
}

TEST_F(RedisFaultsTest, SurvivesKillingRedisInMidTransfer) {
  open(through_proxy());
  const Value value = make_value("key", 8 * 65536, 1);
  put(value);
  proxy.close_gate_after(2, 60000);
  std::vector<Answer<StoredChunk>> reads;
  for (std::uint64_t i = 0; i < value.count(); ++i) reads.push_back(start_read(value, i));
  std::vector<Answer<void>> writes;
  for (std::uint64_t i = 0; i < value.count(); ++i) writes.push_back(start_write(value, i));
  EXPECT_TRUE(wait(reads[0]));
  EXPECT_TRUE(wait(reads[1]));
  redis.kill();
  proxy.cut();
  for (std::uint64_t i = 2; i < value.count(); ++i) {
    const auto failed = wait(reads[i]);
    ASSERT_FALSE(failed);
    EXPECT_EQ(failed.error().status, Status::kL2Unavailable);
  }
  for (auto& written : writes) EXPECT_FALSE(wait(written));
  EXPECT_TRUE(loop.run_until([&] { return !store->available(); }));
  proxy.open_gate();
  redis.start();
  await_recovery();
  ASSERT_TRUE(loop.run_until([&] { return store->available().has_value(); }));
  EXPECT_FALSE(get("key")->has_value());
  // The chunks' connection may come back a little later than the other one.
  ASSERT_TRUE(loop.run_until([&] { return write(value, 0).has_value(); }));
  put(value);
  EXPECT_TRUE(same(*read(value, 7), value.chunks[7]));
}

TEST_F(RedisFaultsTest, ACancelledReadIsNeverAnswered) {
  open(through_proxy());
  const Value value = make_value("key", 6 * 65536, 1);
  put(value);
  const std::uint64_t live = base::Chunk::live_bytes();
  proxy.close_gate_after(1, 60000);
  std::vector<Store::ReadId> ids(value.count());
  std::vector<Answer<StoredChunk>> reads;
  for (std::uint64_t i = 0; i < value.count(); ++i) reads.push_back(start_read(value, i, &ids[i]));
  EXPECT_TRUE(wait(reads[0]));
  ASSERT_TRUE(loop.run_until([&] { return proxy.withheld() > 0; }));
  for (const std::uint64_t i : {1u, 3u, 5u}) store->cancel_read(ids[i]);
  store->cancel_read(ids[1]);  // again, and what is past or never was
  store->cancel_read(ids[0]);
  store->cancel_read(12345);
  proxy.open_gate();
  for (const std::uint64_t i : {2u, 4u}) {
    const auto chunk = wait(reads[i]);
    ASSERT_TRUE(chunk) << chunk.error().message;
    EXPECT_TRUE(same(*chunk, value.chunks[i]));
  }
  EXPECT_TRUE(same(*read(value, 5), value.chunks[5]));
  for (const std::uint64_t i : {1u, 3u, 5u}) EXPECT_EQ(reads[i].calls(), 0);
  reads.clear();
  EXPECT_EQ(base::Chunk::live_bytes(), live);
  EXPECT_EQ(metrics.l2_reconnects.get(), 0u);
}

TEST_F(RedisFaultsTest, AReadCancelledHalfWayLetsGoOfItsMemory) {
  open(through_proxy());
  const Value value = make_value("key", 300000, 1, 300 * 1024);
  put(value);
  const std::uint64_t live = base::Chunk::live_bytes();
  proxy.throttle_replies(30000, milliseconds(20));
  Store::ReadId id = 0;
  const auto cancelled = start_read(value, 0, &id);
  ASSERT_TRUE(loop.run_until([&] { return base::Chunk::live_bytes() > live; }));
  store->cancel_read(id);
  EXPECT_EQ(base::Chunk::live_bytes(), live);
  EXPECT_TRUE(same(*read(value, 0), value.chunks[0]));
  EXPECT_EQ(cancelled.calls(), 0);
  EXPECT_EQ(metrics.l2_reconnects.get(), 0u);
}

TEST_F(RedisFaultsTest, AReadCancelledAfterItsBytesCameIsNeverAnswered) {
  open(direct());
  const Value value = make_value("key", 2 * 65536, 1);
  put(value);
  Store::ReadId first = 0;
  Store::ReadId second = 0;
  // The one's callback cancels the other, whose answer may have been posted already.
  int calls = 0;
  const auto cancel_both = [&](const Result<StoredChunk>&) {
    ++calls;
    store->cancel_read(first);
    store->cancel_read(second);
  };
  first = store->read_chunk("key", value.manifest.meta, 0, Form::kStored, cancel_both);
  second = store->read_chunk("key", value.manifest.meta, 1, Form::kStored, cancel_both);
  ASSERT_TRUE(loop.run_until([&] { return calls > 0; }));
  EXPECT_TRUE(read(value, 0));
  EXPECT_EQ(calls, 1);
}

TEST_F(RedisFaultsTest, ACancelledReadThatWasNotSentIsNotSent) {
  RedisOptions options = direct();
  options.op_timeout = seconds(10);
  open(options);
  const Value value = make_value("key", 2 * 65536, 1);
  put(value);
  const std::uint64_t reads_before = calls("get");
  // More writes than the sockets' buffers hold, so that the reads behind them stay here.
  redis.freeze();
  std::vector<Answer<void>> writes;
  for (int i = 0; i < 200; ++i) writes.push_back(start_write(value, 0));
  std::vector<Store::ReadId> ids(10);
  std::vector<Answer<StoredChunk>> reads;
  for (auto& id : ids) reads.push_back(start_read(value, 1, &id));
  loop.run_for(milliseconds(50));
  for (const auto id : ids) store->cancel_read(id);
  redis.thaw();
  for (auto& written : writes) EXPECT_TRUE(wait(written));
  EXPECT_TRUE(same(*read(value, 1), value.chunks[1]));
  EXPECT_EQ(calls("get"), reads_before + 1);
  for (const auto& cancelled : reads) EXPECT_EQ(cancelled.calls(), 0);
}

TEST_F(RedisFaultsTest, TheQueueIsBounded) {
  RedisOptions options = through_proxy();
  options.max_queued = 8;
  open(options);
  const Value value = make_value("key", 65536, 1);
  put(value);
  proxy.freeze(true);
  std::vector<Answer<StoredChunk>> reads;
  for (int i = 0; i < 9; ++i) reads.push_back(start_read(value, 0));
  EXPECT_EQ(wait(reads[8]).error().status, Status::kL2Busy);
  std::vector<Answer<CommitResult>> commits;
  for (int i = 0; i < 9; ++i) commits.push_back(start_commit(value));
  EXPECT_EQ(wait(commits[8]).error().status, Status::kL2Busy);
  EXPECT_FALSE(commits[0].has_come());
  proxy.freeze(false);
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(wait(reads[static_cast<std::size_t>(i)]));
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(wait(commits[static_cast<std::size_t>(i)]));
}

TEST_F(RedisFaultsTest, TheStoresOfAProcessShareOneProber) {
  proxy.refuse(true);
  const auto breaker = Breaker::make("tcp://proxy");
  std::vector<std::unique_ptr<RedisStore>> stores;
  for (int i = 0; i < 3; ++i) {
    stores.push_back(
        std::make_unique<RedisStore>(through_proxy(), loop.io(), loop, metrics, breaker));
  }
  constexpr std::uint64_t kConnections = 3 * 2;
  ASSERT_TRUE(loop.run_until([&] { return breaker->figures().probes >= 4; }));
  EXPECT_LE(proxy.accepted(), kConnections + breaker->figures().probes);
  EXPECT_EQ(breaker->figures().opens, 1u);
  for (const auto& each : stores) EXPECT_FALSE(each->available());
  proxy.refuse(false);
  for (const auto& each : stores) {
    EXPECT_TRUE(loop.run_until([&] { return each->available().has_value(); }));
  }
  EXPECT_TRUE(breaker->is_closed());
  int closed = 0;
  for (const auto& each : stores) each->close([&] { ++closed; });
  EXPECT_TRUE(loop.run_until([&] { return closed == 3; }));
}

TEST_F(RedisFaultsTest, ClosingAnswersEverything) {
  open(through_proxy());
  settle();
  const Value value = make_value("key", 200000, 1);
  proxy.freeze(true);
  auto chunk = start_read(value, 0);
  auto written = start_write(value, 1);
  auto committed = start_commit(make_value("other", 10, 1));
  loop.run_for(milliseconds(20));
  bool is_closed = false;
  store->close([&] {
    is_closed = true;
    EXPECT_TRUE(committed.has_come());
    store.reset();  // the last reference goes in the callback
  });
  EXPECT_FALSE(is_closed);
  EXPECT_EQ(wait(chunk).error().status, Status::kShuttingDown);
  EXPECT_EQ(wait(written).error().status, Status::kShuttingDown);
  EXPECT_EQ(wait(start_commit(value)).error().status, Status::kShuttingDown);
  EXPECT_EQ(read(value, 0).error().status, Status::kShuttingDown);
  EXPECT_EQ(store->available().error().status, Status::kShuttingDown);
  const auto outcome = wait(committed);
  ASSERT_TRUE(outcome);
  EXPECT_EQ(outcome->kind, CommitKind::kUnknown);
  EXPECT_TRUE(loop.run_until([&] { return is_closed; }));
  loop.run_for(milliseconds(50));
}

TEST_F(RedisFaultsTest, ClosesInEveryState) {
  const auto close_now = [&](RedisOptions options, milliseconds after) {
    open(std::move(options));
    if (after.count() > 0) loop.run_for(after);
    auto answer = Answer<std::optional<Manifest>>();
    store->get_manifest("key", answer.take());
    close();
    EXPECT_EQ(answer.calls(), 1);
  };
  for (int us = 0; us < 12; ++us) close_now(direct(), milliseconds(us));
  proxy.freeze(true);
  close_now(through_proxy(), milliseconds(30));
  proxy.freeze(false);
  proxy.refuse(true);
  close_now(through_proxy(), milliseconds(30));
  redis.stop();
  close_now(direct(), milliseconds(0));
  close_now(direct(), milliseconds(30));
  RedisOptions nowhere = direct();
  nowhere.url.host = "does-not-exist.invalid";
  close_now(nowhere, milliseconds(0));
}

TEST_F(RedisFaultsTest, RefusesAWrongPasswordWithAdvice) {
  RedisServer locked({"--requirepass", "right"});
  const std::string port = std::to_string(locked.port());
  for (const std::string& url :
       {"redis://:hunter2@127.0.0.1:" + port, "redis://127.0.0.1:" + port}) {
    open(url);
    const auto refused = get("key");
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().status, Status::kL2Unavailable);
    EXPECT_NE(refused.error().message.find("l2.redis.url"), std::string::npos);
    EXPECT_EQ(refused.error().message.find("hunter2"), std::string::npos);
    close();
  }
}

TEST_F(RedisFaultsTest, RefusesARedisThatIsTooOld) {
  // No Redis 6 is at hand, so a socket answers as one would.
  asio::ip::tcp::acceptor acceptor(loop.io(),
                                   asio::ip::tcp::endpoint(asio::ip::address_v4::loopback(), 0));
  std::vector<std::shared_ptr<asio::ip::tcp::socket>> clients;
  const std::string version = "redis_version:6.2.6\r\n";
  const std::string answer = "$" + std::to_string(version.size()) + "\r\n" + version +
                             "\r\n$1\r\nx\r\n*2\r\n$1\r\n5\r\n$1\r\n5\r\n";
  std::function<void()> accept = [&] {
    acceptor.async_accept([&](const asio::error_code& error, asio::ip::tcp::socket client) {
      if (error) return;
      clients.push_back(std::make_shared<asio::ip::tcp::socket>(std::move(client)));
      asio::write(*clients.back(), asio::buffer(answer));
      accept();
    });
  };
  accept();
  open("redis://127.0.0.1:" + std::to_string(acceptor.local_endpoint().port()));
  const auto refused = get("key");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().status, Status::kL2Unavailable);
  EXPECT_NE(refused.error().message.find("6.2.6"), std::string::npos) << refused.error().message;
  EXPECT_NE(refused.error().message.find("7.0"), std::string::npos);
  close();
  acceptor.close();
  loop.run_for(milliseconds(5));
}

TEST_F(RedisFaultsTest, WorksBehindRandomDelays) {
  open(through_proxy());
  proxy.delay_replies(milliseconds(0), milliseconds(20), 42);
  std::vector<Value> values;
  for (base::Version v = 1; v <= 10; ++v) values.push_back(make_value("key", 150000, v));
  for (const Value& value : values) put(value);
  const auto found = get("key");
  ASSERT_TRUE(found && found->has_value());
  EXPECT_EQ((*found)->meta.version, 10u);
  for (std::uint64_t i = 0; i < values[9].count(); ++i) {
    EXPECT_TRUE(same(*read(values[9], i), values[9].chunks[i]));
  }
}

}  // namespace
}  // namespace cistern::l2
