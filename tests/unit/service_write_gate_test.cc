#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "server/service/write_gate.h"
#include "tests/support/manual_loop.h"

namespace cistern::testing {
namespace {

using service::WriteGate;

const base::Bytes kKey = proto::as_bytes("k");

// A token as a flight has one.
WriteGate::MissToken miss_of(WriteGate& gate, base::Bytes key = kKey) {
  WriteGate::MissToken taken;
  gate.board(
      key, base::hash_key(key), base::TimePoint{}, [] { return false; },
      [](base::TimePoint) { return true; },
      [&](WriteGate::MissToken token) {
        taken = std::move(token);
        return std::shared_ptr<service::Flight>();
      });
  return taken;
}

struct Queue {
  WriteGate gate;
  ManualLoop loops[2];
  std::vector<std::string> order;
  std::vector<WriteGate::Turn> turns;

  std::shared_ptr<WriteGate::Waiter> enter(const std::string& who, std::size_t loop = 0) {
    return gate.enter(kKey, base::hash_key(kKey), loops[loop], [this, who](WriteGate::Turn turn) {
      order.push_back(who);
      turns.push_back(std::move(turn));
    });
  }
  WriteGate::MissToken miss() { return miss_of(gate); }
  bool may_publish(const WriteGate::MissToken& token) {
    return gate.publish_if_allowed(token, [] {});
  }
  void run() {
    for (ManualLoop& loop : loops) loop.run_posted();
  }
};

TEST(WriteGate, GrantsOneAtATimeInOrderOnEachLoop) {
  Queue queue;
  EXPECT_EQ(queue.enter("a"), nullptr);
  const auto b = queue.enter("b", 1);
  const auto c = queue.enter("c");
  queue.run();
  EXPECT_EQ(queue.order, std::vector<std::string>({"a"}));
  queue.turns.clear();
  queue.loops[0].run_posted();
  EXPECT_EQ(queue.order.size(), 1u);  // it is the other loop's
  queue.run();
  EXPECT_EQ(queue.order, std::vector<std::string>({"a", "b"}));
  queue.turns.clear();
  queue.run();
  EXPECT_EQ(queue.order, std::vector<std::string>({"a", "b", "c"}));
  queue.turns.clear();
  EXPECT_EQ(queue.gate.entries(), 0u);
}

TEST(WriteGate, PassesOverThoseWhoLeftWaitingOrGranted) {
  Queue queue;
  queue.enter("a");
  auto b = queue.enter("b");
  auto c = queue.enter("c");
  const auto d = queue.enter("d");
  b.reset();
  queue.turns.clear();  // c is granted, and leaves before it hears of it
  c.reset();
  queue.run();
  EXPECT_EQ(queue.order, std::vector<std::string>({"a", "d"}));
  queue.turns.clear();
  EXPECT_EQ(queue.gate.entries(), 0u);
}

TEST(WriteGate, AMissPublishesOnlyWithoutAWrite) {
  Queue queue;
  {
    const auto undisturbed = queue.miss();
    EXPECT_TRUE(queue.may_publish(undisturbed));
  }
  EXPECT_EQ(queue.gate.entries(), 0u);
  {
    const auto before = queue.miss();
    queue.enter("a");
    const auto during = queue.miss();
    EXPECT_FALSE(queue.may_publish(before));
    EXPECT_FALSE(queue.may_publish(during));
    queue.turns.clear();
    EXPECT_FALSE(queue.may_publish(before));
    EXPECT_FALSE(queue.may_publish(during));
    const auto after = queue.miss();
    EXPECT_TRUE(queue.may_publish(after));
    auto queued = queue.enter("b");
    EXPECT_FALSE(queue.may_publish(after));
    queue.turns.clear();
  }
  {
    const auto before = queue.miss();
    queue.gate.change(kKey, base::hash_key(kKey), [] {});
    EXPECT_FALSE(queue.may_publish(before));
    const auto other = miss_of(queue.gate, proto::as_bytes("other"));
    queue.gate.change(kKey, base::hash_key(kKey), [] {});
    EXPECT_TRUE(queue.may_publish(other));
  }
  EXPECT_EQ(queue.gate.entries(), 0u);
}

TEST(WriteGate, ThreadsNeverHoldOneKeyTogether) {
  WriteGate gate;
  constexpr int kThreads = 3;
  constexpr int kTurns = 3000;
  std::vector<ManualLoop> loops(kThreads);
  std::atomic<int> holders{0}, finished{0};
  std::atomic<bool> together{false};
  std::vector<std::thread> threads;
  for (int id = 0; id < kThreads; ++id) {
    threads.emplace_back([&, id] {
      ManualLoop& loop = loops[static_cast<std::size_t>(id)];
      for (int turn = 0; turn < kTurns; ++turn) {
        bool done = false;
        auto token = miss_of(gate);
        const auto waiter = gate.enter(kKey, base::hash_key(kKey), loop, [&](WriteGate::Turn held) {
          if (holders.fetch_add(1) != 0) together = true;
          if (gate.publish_if_allowed(token, [] {})) together = true;
          holders.fetch_sub(1);
          held.release();
          done = true;
        });
        if (turn % 7 == 0 && !done) continue;  // leaves
        while (!done) {
          if (!loop.run_one()) std::this_thread::yield();
        }
      }
      ++finished;
      while (finished.load() < kThreads) {
        if (!loop.run_one()) std::this_thread::yield();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(together);
  EXPECT_EQ(gate.entries(), 0u);
}

}  // namespace
}  // namespace cistern::testing
