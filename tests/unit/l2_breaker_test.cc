// The circuit breaker: when it opens, who may try, and what everybody else is told.
#include <atomic>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "server/l2/breaker.h"
#include "tests/support/manual_loop.h"

namespace cistern::l2 {
namespace {

using base::Status;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ManualLoop;
using State = Breaker::State;

TEST(Backoff, DoublesUpToItsBoundWithJitter) {
  Backoff backoff;
  std::chrono::nanoseconds whole = std::chrono::milliseconds(50);
  for (int i = 0; i < 12; ++i) {
    const auto delay = backoff.next();
    EXPECT_LE(delay, whole);
    EXPECT_GE(delay, whole / 2);
    whole = std::min<std::chrono::nanoseconds>(2 * whole, std::chrono::seconds(5));
  }
  backoff.reset();
  EXPECT_LE(backoff.next(), std::chrono::milliseconds(50));
}

class BreakerTest : public ::testing::Test {
 protected:
  base::TimePoint now() const { return loop.now(); }
  bool allows(bool connected) const { return breaker->allows(now(), connected).has_value(); }
  void open() {
    breaker->connect_failed(now(), "Redis at x: connection refused");
    ASSERT_EQ(breaker->figures().state, State::kOpen);
  }

  ManualLoop loop;
  const std::shared_ptr<Breaker> breaker = Breaker::make("tcp://x:1");
};

TEST_F(BreakerTest, AFailedAttemptStopsAttemptsAndNotThoseWhoAreConnected) {
  EXPECT_TRUE(allows(false));
  EXPECT_FALSE(breaker->try_probe(now())) << "there is nothing to probe";
  open();
  EXPECT_FALSE(allows(false));
  EXPECT_TRUE(allows(true));
  EXPECT_EQ(breaker->figures().opens, 1u);
  breaker->connect_failed(now(), "again");
  EXPECT_EQ(breaker->figures().opens, 1u) << "it was open already";
}

TEST_F(BreakerTest, SaysSinceWhenWhyAndWhenNext) {
  open();
  loop.skip(milliseconds(10));
  const auto refused = breaker->allows(now(), false);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().status, Status::kL2Unavailable);
  EXPECT_TRUE(proto::is_retryable(refused.error().status));
  for (const char* part : {"connection refused", "not asked since 0.0 s", "next probe is due in"}) {
    EXPECT_NE(refused.error().message.find(part), std::string::npos) << refused.error().message;
  }
  loop.skip(seconds(6));
  const Breaker::Probe probe = breaker->try_probe(now());
  const std::string text = breaker->allows(now(), false).error().message;
  EXPECT_NE(text.find("not asked since 6.0 s; a probe is under way"), std::string::npos) << text;
}

TEST_F(BreakerTest, OneProbeAtATimeAndNotBeforeItIsDue) {
  open();
  EXPECT_FALSE(breaker->try_probe(now()));
  loop.skip(milliseconds(50));
  Breaker::Probe first = breaker->try_probe(now());
  ASSERT_TRUE(first);
  EXPECT_FALSE(breaker->try_probe(now())) << "two at a time";
  EXPECT_FALSE(allows(false)) << "a probe is not yet a success";
  first.failed(now(), "still not");
  EXPECT_FALSE(breaker->try_probe(now()));
  loop.skip(milliseconds(100));
  Breaker::Probe second = breaker->try_probe(now());
  ASSERT_TRUE(second);
  second.succeeded(now());
  EXPECT_TRUE(breaker->is_closed());
  EXPECT_TRUE(allows(false));
  EXPECT_EQ(breaker->figures().probes, 2u);
}

TEST_F(BreakerTest, AProbeThatIsGivenUpPassesToTheNext) {
  open();
  loop.skip(milliseconds(50));
  { const Breaker::Probe dropped = breaker->try_probe(now()); }
  EXPECT_TRUE(breaker->try_probe(now()));
}

TEST_F(BreakerTest, TimeoutsInARowStopThoseWhoAreConnectedToo) {
  for (unsigned i = 1; i < Breaker::kTimeouts; ++i) breaker->timed_out(now(), "no answer");
  EXPECT_TRUE(allows(true));
  breaker->answered();
  for (unsigned i = 1; i < Breaker::kTimeouts; ++i) breaker->timed_out(now(), "no answer");
  EXPECT_TRUE(allows(true)) << "an answer came between them";
  breaker->timed_out(now(), "no answer");
  EXPECT_FALSE(allows(true));
  EXPECT_FALSE(allows(false));
}

TEST_F(BreakerTest, ASingleTimeoutOpensItAgainWhileItIsOnTrial) {
  open();
  loop.skip(milliseconds(50));
  breaker->try_probe(now()).succeeded(now());
  breaker->timed_out(now(), "no answer");
  EXPECT_FALSE(allows(true));
  EXPECT_EQ(breaker->figures().opens, 2u);
}

TEST_F(BreakerTest, DelaysGrowUntilAnOperationWasAnswered) {
  open();
  for (int i = 0; i < 12; ++i) {
    loop.skip(Backoff::kLongest);
    Breaker::Probe probe = breaker->try_probe(now());
    ASSERT_TRUE(probe);
    if (i % 2 == 0) {
      probe.failed(now(), "no");
    } else {
      probe.succeeded(now());
      breaker->timed_out(now(), "no answer");  // the endpoint only shakes hands
    }
  }
  loop.skip(Backoff::kLongest / 2 - milliseconds(1));
  EXPECT_FALSE(breaker->try_probe(now())) << "the longest delay, less half of it at most";
  loop.skip(Backoff::kLongest);
  breaker->try_probe(now()).succeeded(now());
  breaker->answered();
  breaker->connect_failed(now(), "no");
  loop.skip(milliseconds(50));
  EXPECT_TRUE(breaker->try_probe(now())) << "the first delay again";
}

TEST_F(BreakerTest, AConnectionThatWasUnderWayClosesIt) {
  open();
  breaker->connected(now());
  EXPECT_TRUE(breaker->is_closed());
}

TEST_F(BreakerTest, OneOfThoseWhoWaitGetsTheProbeAndAllAreToldOfItsSuccess) {
  open();
  std::vector<Breaker::Probe> probes;
  int told = 0;
  const auto go = [&](Breaker::Probe probe) {
    if (probe) {
      probes.push_back(std::move(probe));
    } else {
      ++told;
    }
  };
  std::vector<std::shared_ptr<Breaker::Waiter>> waiters;
  for (int i = 0; i < 3; ++i) waiters.push_back(breaker->wait(loop, go));
  loop.run_posted();
  EXPECT_TRUE(probes.empty()) << "before it was due";
  loop.advance(milliseconds(50));
  ASSERT_EQ(probes.size(), 1u);
  probes[0].failed(now(), "no");
  loop.advance(milliseconds(100));
  ASSERT_EQ(probes.size(), 2u) << "another one's turn";
  EXPECT_EQ(told, 0);
  probes[1].succeeded(now());
  loop.run_posted();
  EXPECT_EQ(told, 1) << "the third; the others have had their probe";
  loop.advance(seconds(20));
  EXPECT_EQ(probes.size(), 2u);
  EXPECT_EQ(told, 1) << "once";
}

TEST_F(BreakerTest, WhoHasLeftIsNotCalled) {
  open();
  auto waiter = breaker->wait(loop, [](Breaker::Probe) { FAIL(); });
  loop.run_posted();
  waiter.reset();
  EXPECT_EQ(loop.timers(), 0u);
  loop.advance(seconds(10));
}

TEST_F(BreakerTest, ManyThreadsProbeOneAtATime) {
  open();
  constexpr int kThreads = 4;
  std::atomic<int> probing{0};
  std::atomic<int> most{0};
  const base::TimePoint start = now();
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 2000; ++i) {
        const base::TimePoint at = start + i * seconds(6);
        breaker->answered();
        static_cast<void>(breaker->allows(at, t % 2 == 0));
        Breaker::Probe probe = breaker->try_probe(at);
        if (!probe) continue;
        most = std::max(most.load(), ++probing);
        std::this_thread::yield();
        --probing;
        if (i % 3 == 0) {
          probe.succeeded(at);
          breaker->connect_failed(at, "no");
        } else {
          probe.failed(at, "no");
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(most, 1);
  EXPECT_GT(breaker->figures().probes, 0u);
}

}  // namespace
}  // namespace cistern::l2
