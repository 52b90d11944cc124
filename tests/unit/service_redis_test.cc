// The service over a real Redis: what it leaves there, and what its death does to a client.
#include <memory>
#include <string>

#include <gtest/gtest.h>

#include "server/l2/redis_store.h"
#include "tests/support/asio_loop.h"
#include "tests/support/redis_server.h"
#include "tests/support/service_fixture.h"

namespace cistern::testing {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kHuge = 12 * kMiB + 5;  // more than L1 holds

class OverRedis : public ::testing::Test {
 protected:
  OverRedis() {
    l2::RedisOptions options;
    options.url = l2::parse_redis_url(redis_.url()).value();
    options.op_timeout = 1s;
    store_ = std::make_unique<l2::RedisStore>(options, loop_.io(), loop_, metrics_);
    service_ = std::make_unique<service::Service>(shared_, loop_, store_.get(), metrics_);
    EXPECT_TRUE(loop_.run_until([this] { return store_->available().has_value(); }));
  }
  ~OverRedis() override {
    bool closed = false;
    service_->drain([&] { store_->close([&] { closed = true; }); });
    EXPECT_TRUE(loop_.run_until([&] { return closed; }));
    EXPECT_EQ(ledger_.transferring(), 0u);
    EXPECT_EQ(shared_.gate->entries(), 0u);
  }

  void put(Putter& putter, std::string text, std::uint64_t ttl_ms = 0) {
    putter.text = std::move(text);
    putter.upload = service_->open_put(
        {.key = proto::as_bytes("k"), .size = putter.text.size(), .ttl_ms = ttl_ms}, putter);
    EXPECT_TRUE(loop_.run_until([&] {
      putter.send();
      if (putter.upload && putter.sent == putter.text.size()) putter.end();
      return putter.answered();
    }));
    putter.leave();
  }
  void get(Getter& getter) {
    getter.operation = service_->get({.key = proto::as_bytes("k")}, getter);
    EXPECT_TRUE(loop_.run_until([&] { return getter.answered(); }));
  }
  void finish(Getter& getter) {
    EXPECT_TRUE(loop_.run_until([&] {
      getter.pull();
      getter.sent();
      return getter.ended || getter.error;
    }));
  }
  void forget_in_l1() {
    const base::Bytes key = proto::as_bytes("k");
    cache_.erase(key, base::hash_key(key), {}, l1::Removal::kEvicted, loop_.now());
  }

  static constexpr ServiceSetup kSetup{};
  RedisServer redis_;
  AsioLoop loop_;
  base::WorkerMetrics metrics_;
  base::Ledger ledger_{{.limit = 0,
                        .l1 = kSetup.l1_bytes,
                        .transfers = kSetup.transfer_bytes,
                        .held = kSetup.held_bytes,
                        .connections = 0,
                        .l2_buffers = kSetup.l2_buffer_bytes}};
  l1::Cache cache_{{.budget_bytes = kSetup.l1_bytes, .max_age = base::Duration{0}, .shards = 1},
                   ledger_};
  service::Shared shared_{Workers::options(kSetup), cache_, ledger_};
  std::unique_ptr<l2::RedisStore> store_;
  std::unique_ptr<service::Service> service_;
};

TEST_F(OverRedis, ValuesOfEverySizeComeBackFromBothTiers) {
  std::uint64_t seed = 0;
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{100}, 16 * kKiB, 16 * kKiB + 1, 1 * kMiB, kHuge}) {
    Putter putter;
    put(putter, text_of(++seed, size));
    ASSERT_TRUE(putter.stored) << putter.error->message;
    for (int i = 0; i < 2; ++i) {
      Getter getter;
      get(getter);
      finish(getter);
      EXPECT_TRUE(getter.bytes == putter.text) << size;
      getter.leave();
      forget_in_l1();
    }
  }
}

TEST_F(OverRedis, EveryChunkHasTheExpiryOfItsValueAndReplacedOnesTheGrace) {
  Putter first, second, third;
  put(first, text_of(1, 5 * kChunk), 3'600'000);
  const auto in_seconds = [&](const std::string& key) {
    return static_cast<double>(redis_.command({"TTL", key}).integer);
  };
  const auto firsts = redis_.keys("*c:*");
  ASSERT_EQ(firsts.size(), 5u);
  for (const std::string& key : firsts) EXPECT_NEAR(in_seconds(key), 3660, 5);
  put(second, text_of(2, 3 * kChunk));
  EXPECT_TRUE(loop_.run_until([&] { return in_seconds(firsts[0]) <= 60; }));
  for (const std::string& key : firsts) EXPECT_NEAR(in_seconds(key), 60, 5);
  put(third, "small");
  EXPECT_TRUE(loop_.run_until([&] {
    const auto keys = redis_.keys("*c:*");
    return std::all_of(keys.begin(), keys.end(),
                       [&](const std::string& key) { return in_seconds(key) <= 60; });
  }));
}

TEST_F(OverRedis, ItsDeathInAGetIsToldAndInAPutChangesNothing) {
  Putter putter;
  put(putter, text_of(1, kHuge));
  Putter small;
  Getter getter;
  get(getter);
  getter.pull(kChunk);
  redis_.kill();
  finish(getter);
  ASSERT_TRUE(getter.error);
  EXPECT_TRUE(proto::is_retryable(getter.error->status)) << getter.error->message;
  EXPECT_LT(getter.bytes.size(), kHuge);
  getter.leave();

  Putter late;
  put(late, text_of(2, kHuge));
  ASSERT_TRUE(late.error);
  EXPECT_TRUE(proto::is_retryable(late.error->status)) << late.error->message;

  redis_.start();
  EXPECT_TRUE(loop_.run_until([this] { return store_->available().has_value(); }));
  Putter again;
  put(again, text_of(3, kHuge));
  EXPECT_TRUE(again.stored) << again.error->message;
}

TEST_F(OverRedis, AnAbandonedUploadLeavesNothing) {
  auto putter = std::make_unique<Putter>();
  putter->text = text_of(1, kHuge);
  putter->upload = service_->open_put(
      {.key = proto::as_bytes("k"), .size = putter->text.size(), .ttl_ms = 0}, *putter);
  EXPECT_TRUE(loop_.run_until([&] {
    putter->send();
    return putter->sent > kHuge / 2;
  }));
  putter->leave();
  EXPECT_TRUE(loop_.run_until([this] { return redis_.keys().empty(); }));
}

}  // namespace
}  // namespace cistern::testing
