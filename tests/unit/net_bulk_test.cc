// The queue of bulk turns: between watchers that never have enough, and between sessions. What is
// bounded is counted in turns and bytes, as the loop's own thread sees them, never in time.
#include <sys/socket.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/net_fixture.h"

namespace cistern::net {
namespace {

// -------------------------------------------------------------------------------------------
// Readiness

// One end is watched; what `ready` and `bulk` do is the test's.
struct Watched final : Readiness::Watcher {
  explicit Watched(Readiness& where) : readiness(where) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) != 0) std::abort();
    ours.reset(ends[0]);
    theirs.reset(ends[1]);
    id = readiness.add(ours.get(), *this);
  }
  ~Watched() override {
    if (id) remove();
  }
  void remove() { readiness.remove(*std::exchange(id, std::nullopt), ours.get()); }
  void later() const { readiness.later(*id); }
  // Makes it readable, at once.
  void poke() const { ASSERT_EQ(::send(theirs.get(), "x", 1, MSG_NOSIGNAL), 1); }

  void on_ready(const Readiness::Events& events) override {
    if (!events.readable) return;
    char bytes[16];
    while (::recv(ours.get(), bytes, sizeof bytes, 0) > 0) {
    }
    if (ready) ready();
  }
  void on_bulk_turn() override {
    if (bulk) bulk();
  }

  Readiness& readiness;
  std::optional<Readiness::Id> id;
  UniqueFd ours;
  UniqueFd theirs;
  std::function<void()> ready;
  std::function<void()> bulk;
};

class BulkTurns : public ::testing::Test {
 protected:
  static constexpr int kEnough = 1000;

  // A defect may leave the loop without anything to do.
  BulkTurns() {
    loop_.after(20s, [this] { loop_.stop(); });
  }

  // `count` watchers which always want another turn; each turn is counted, and then calls `each`.
  void endless(int count, const std::function<void()>& each) {
    for (int i = 0; i < count; ++i) {
      auto& watcher = *watchers_.emplace_back(std::make_unique<Watched>(readiness_));
      watcher.bulk = [this, &watcher, each] {
        ++turns_;
        watcher.later();
        each();
      };
      watcher.later();
    }
  }

  AsioLoop loop_;
  Readiness readiness_{loop_};
  std::vector<std::unique_ptr<Watched>> watchers_;
  int turns_ = 0;
};

TEST_F(BulkTurns, LooksAtTheSocketsAfterEachBulkTurn) {
  Watched small(readiness_);
  int sent_at = 0;
  int seen = 0;
  small.ready = [&] {
    EXPECT_EQ(turns_, sent_at);  // none between
    if (++seen >= kEnough) loop_.stop();
  };
  endless(8, [&] {
    if (turns_ > 2 * kEnough) loop_.stop();
    sent_at = turns_;
    small.poke();
  });
  loop_.run();
  EXPECT_GE(seen, kEnough);
}

TEST_F(BulkTurns, GivesBulkTurnsThoughSocketsAreAlwaysReady) {
  std::vector<std::unique_ptr<Watched>> small;
  int requests = 0;
  for (int i = 0; i < 4; ++i) {
    auto& watcher = *small.emplace_back(std::make_unique<Watched>(readiness_));
    watcher.ready = [&] {
      if (++requests >= 100 * kEnough) loop_.stop();
      watcher.poke();
    };
    watcher.poke();
  }
  endless(2, [&] {
    if (turns_ >= kEnough) loop_.stop();
  });
  loop_.run();
  EXPECT_GE(turns_, kEnough);
  // A batch of sockets for each turn, and one when Asio had its own.
  EXPECT_LE(requests, 4 * 2 * turns_);
}

TEST_F(BulkTurns, GivesBulkTurnsInTheOrderOfAsking) {
  std::vector<int> order;
  std::vector<std::unique_ptr<Watched>> bulk;
  for (int i = 0; i < 3; ++i) {
    auto& watcher = *bulk.emplace_back(std::make_unique<Watched>(readiness_));
    watcher.bulk = [&, i] {
      order.push_back(i);
      if (order.size() >= 6) return loop_.stop();
      watcher.later();
      watcher.later();  // no second one
    };
    watcher.later();
    watcher.later();
  }
  loop_.run();
  order.resize(6);
  EXPECT_EQ(order, (std::vector{0, 1, 2, 0, 1, 2}));
}

// Tasks, timers and sockets of others: while bulk never ends.
TEST_F(BulkTurns, LeavesAsioItsTurn) {
  bool timer_ran = false;
  int posts = 0;
  std::function<void()> post = [&] {
    if (++posts < kEnough) return loop_.post(post);
    if (timer_ran) loop_.stop();
  };
  endless(3, [&] {
    if (turns_ > 1000 * kEnough) loop_.stop();
  });
  loop_.post([&] {
    loop_.after(1ms, [&] {
      timer_ran = true;
      if (posts >= kEnough) loop_.stop();
    });
  });
  loop_.post(post);
  loop_.run();
  EXPECT_TRUE(timer_ran);
  EXPECT_EQ(posts, kEnough);
}

TEST_F(BulkTurns, WaitsAgainOnceTheQueueIsEmpty) {
  Watched watcher(readiness_);
  int seen = 0;
  watcher.bulk = [&] { watcher.poke(); };
  watcher.ready = [&] {
    if (++seen == kEnough) return loop_.stop();
    // From a task of the loop, when nobody dispatches.
    loop_.post([&] { watcher.later(); });
  };
  watcher.poke();
  loop_.run();
  EXPECT_EQ(seen, kEnough);
}

TEST_F(BulkTurns, ForgetsTheTurnOfOneThatIsRemoved) {
  auto first = std::make_unique<Watched>(readiness_);
  auto second = std::make_unique<Watched>(readiness_);
  auto third = std::make_unique<Watched>(readiness_);
  std::unique_ptr<Watched> heir;
  bool heir_had_turn = false;
  first->bulk = [&] {
    // It's the next in the queue; its place is another's then.
    second.reset();
    heir = std::make_unique<Watched>(readiness_);
    heir->bulk = [&] { heir_had_turn = true; };
  };
  second->bulk = [] { FAIL() << "it was removed"; };
  third->bulk = [&] {
    EXPECT_FALSE(heir_had_turn);
    heir->bulk = [&] { loop_.stop(); };
    heir->later();
    third.reset();  // itself, too
  };
  first->later();
  second->later();
  third->later();
  loop_.run();
  EXPECT_FALSE(third);
}

// ------------------------------------------------------------------------------------- Sessions

class BulkSessions : public ServerTest {
 protected:
  static constexpr int kReaders = 6;
  static constexpr std::size_t kBig = 8 * proto::kMiB;

  BulkSessions() { options_.workers = 1; }

  Worker& worker() { return *server_->workers().front(); }
  std::uint64_t bytes_out() { return worker().metrics().bytes_out.get(); }

  void store(std::string_view key, std::size_t size) {
    RawClient client = greeted();
    const auto stored = client.put(1, key, some_bytes(size), kChunk);
    ASSERT_TRUE(stored) << "no answer";
    ASSERT_EQ(stored->type(), Type::kStored) << stored->text();
  }
  // Reads `key` again and again, as fast as it comes.
  void begin_readers(std::string_view key) {
    for (int i = 0; i < kReaders; ++i) {
      readers_.emplace_back([this, key, client = greeted()]() mutable {
        std::vector<std::byte> bytes(proto::kMiB);
        std::uint32_t id = 1;
        for (; !over_; ++id) {
          client.get(id, key, proto::kMaxCreditBytes);
          // Its frames are of no interest here: what was asked for is always more than was read.
          for (std::size_t got = 0; got < kBig && !over_ && client.readable(10s);) {
            const ssize_t now = ::recv(client.fd(), bytes.data(), bytes.size(), 0);
            if (now <= 0) return;
            got += static_cast<std::size_t>(now);
          }
        }
      });
    }
  }
  void end_readers() {
    over_ = true;
    for (std::thread& reader : readers_) reader.join();
    readers_.clear();
  }
  ~BulkSessions() override { end_readers(); }

  std::atomic<bool> over_ = false;
  std::vector<std::thread> readers_;
};

// A request that has arrived is answered before more than one bulk turn is written, and what small
// turns of the others write. Both ends of the interval are taken on the worker's thread: it sends
// the request itself, and the answer to STATS is made by it.
TEST_F(BulkSessions, AnswersASmallRequestBeforeTheNextBulkTurns) {
  std::uint64_t arrived_at = 0;
  std::atomic<std::uint64_t> between = 0;
  options_.session.stats_json = [&] {
    between = bytes_out() - arrived_at;
    return std::string("{}");
  };
  start();
  store("big", kBig);
  begin_readers("big");
  ASSERT_TRUE(eventually([&] { return bytes_out() > kReaders * kBig; }));
  RawClient client = greeted();
  std::uint64_t most = 0;
  for (std::uint32_t id = 1; id <= 300; ++id) {
    worker().loop().post([&, id] {
      arrived_at = bytes_out();
      client.plain(id, Type::kStats);
    });
    const auto answer = client.receive();
    ASSERT_TRUE(answer && answer->id() == id);
    most = std::max(most, between.load());
  }
  EXPECT_LE(most, (512 + kReaders * 64) * proto::kKiB);
}

TEST_F(BulkSessions, StreamsWhileSmallRequestsNeverPause) {
  start();
  store("big", kBig);
  RawClient busy = greeted();
  constexpr std::uint32_t kPings = 100'000;
  Out pings;
  for (std::uint32_t id = 1; id <= 1000; ++id) proto::encode_plain(pings, id, Type::kPing, {});
  std::atomic<bool> over = false;
  std::thread asks([&] {
    for (std::uint32_t sent = 0; sent < kPings || !over; sent += 1000) busy.send(pings);
    ::shutdown(busy.fd(), SHUT_WR);
  });
  std::thread takes([&] {
    std::vector<std::byte> bytes(proto::kMiB);
    while (::recv(busy.fd(), bytes.data(), bytes.size(), 0) > 0) {
    }
  });
  RawClient reader = greeted();
  reader.get(7, "big", 64 << 20);
  bool ended = false;
  while (auto frame = reader.receive()) {
    ended = frame->type() == Type::kEnd;
    if (ended) break;
  }
  over = true;
  asks.join();
  takes.join();
  EXPECT_TRUE(ended);
}

// Readers that leave in the middle, and a server that is stopped meanwhile.
TEST_F(BulkSessions, ClosesSessionsThatHaveABulkTurnToCome) {
  start();
  store("big", kBig);
  for (int round = 0; round < 20; ++round) {
    std::vector<RawClient> clients;
    for (int i = 0; i < kReaders; ++i) {
      clients.push_back(greeted());
      clients.back().get(1, "big", 64 << 20);
    }
    for (const RawClient& client : clients) ASSERT_TRUE(client.readable(10s));
  }
  EXPECT_TRUE(eventually([&] {
    return open_streams() == 0 && worker().connections() == 0 &&
           ledger_->used(base::Account::kConnections) == 0;
  }));
  begin_readers("big");
  const std::uint64_t before = bytes_out();
  EXPECT_TRUE(eventually([&] { return bytes_out() > before + kReaders * kBig; }));
  server_.reset();
  end_readers();
  EXPECT_EQ(ledger_->used(base::Account::kConnections), 0u);
}

}  // namespace
}  // namespace cistern::net
