#include <atomic>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "server/base/ledger.h"
#include "tests/support/manual_loop.h"

namespace cistern::base {
namespace {

using testing::ManualLoop;

Ledger::Budgets budgets() {
  Ledger::Budgets b;
  b.limit = 1000;
  b.l1 = 500;
  b.transfers = 100;
  b.held = 40;
  b.connections = 50;
  return b;
}

// What a ticket's callback was given.
struct Grants {
  Ledger::Granted taker(int id) {
    return [this, id](Reservation got) {
      order.push_back(id);
      held.push_back(std::move(got));
    };
  }
  std::vector<int> order;
  std::vector<Reservation> held;
};

TEST(Ledger, GivesBackByScope) {
  Ledger ledger(budgets());
  {
    Reservation one = ledger.try_reserve(Account::kFills, 60);
    ASSERT_TRUE(one);
    EXPECT_FALSE(ledger.try_reserve(Account::kFills, 41));
    EXPECT_TRUE(one.try_grow(40));
    EXPECT_FALSE(one.try_grow(1));
    one.shrink_to(10);
    EXPECT_EQ(ledger.transferring(), 10u);
    const Reservation moved = std::move(one);
    EXPECT_EQ(moved.bytes(), 10u);
    EXPECT_EQ(ledger.transferring(), 10u);
  }
  EXPECT_EQ(ledger.transferring(), 0u);
}

TEST(Ledger, HeldIsBoundedByItselfAndByTransfers) {
  Ledger ledger(budgets());
  EXPECT_FALSE(ledger.try_reserve(Account::kHeld, 41));
  const Reservation held = ledger.try_reserve(Account::kHeld, 40);
  ASSERT_TRUE(held);
  EXPECT_FALSE(ledger.try_reserve(Account::kFills, 61));
  const Reservation transfers = ledger.try_reserve(Account::kFills, 60);
  ASSERT_TRUE(transfers);
  EXPECT_TRUE(ledger.try_reserve(Account::kConnections, 50));
  EXPECT_FALSE(ledger.try_reserve(Account::kConnections, 51));
  EXPECT_FALSE(ledger.try_reserve(Account::kL1, 501));
}

TEST(Ledger, FillsReadersAndUploadsShareOneBudgetAndOneQueue) {
  Ledger ledger(budgets());
  ManualLoop loop;
  Grants grants;
  const Reservation held = ledger.try_reserve(Account::kHeld, 20);
  const Reservation fill = ledger.try_reserve(Account::kFills, 30);
  const Reservation reader = ledger.try_reserve(Account::kReaders, 25);
  Reservation upload = ledger.try_reserve(Account::kUploads, 25);
  ASSERT_TRUE(held && fill && reader && upload);
  for (const Account account : {Account::kHeld, Account::kFills, Account::kReaders}) {
    EXPECT_FALSE(ledger.try_reserve(account, 1)) << name(account);
  }
  EXPECT_EQ(ledger.transferring(), 80u);
  const auto first = ledger.wait(Account::kReaders, 20, loop, grants.taker(1));
  const auto second = ledger.wait(Account::kFills, 5, loop, grants.taker(2));
  upload.shrink_to(15);
  EXPECT_EQ(ledger.waiting(), 2u);  // the one would fit, but isn't the first
  for (const Account account : {Account::kFills, Account::kReaders, Account::kUploads}) {
    EXPECT_FALSE(ledger.try_reserve(account, 1)) << name(account);
  }
  upload.release();
  loop.run_posted();
  EXPECT_EQ(grants.order, (std::vector<int>{1, 2}));
  EXPECT_EQ(ledger.used(Account::kReaders), 45u);
  EXPECT_EQ(ledger.used(Account::kFills), 35u);
  EXPECT_EQ(ledger.used(Account::kUploads), 0u);
}

TEST(Ledger, SumsTheTimeOfThoseThatWaited) {
  Ledger ledger(budgets());
  ManualLoop loop;
  Grants grants;
  const auto at_once = ledger.wait(Account::kUploads, 100, loop, grants.taker(1));
  loop.advance(std::chrono::seconds(1));
  const auto later = ledger.wait(Account::kReaders, 10, loop, grants.taker(2));
  auto leaves = ledger.wait(Account::kReaders, 10, loop, grants.taker(3));
  loop.advance(std::chrono::seconds(2));
  leaves.reset();
  EXPECT_EQ(ledger.waited_total(), std::chrono::seconds(2));
  loop.advance(std::chrono::seconds(3));
  grants.held.clear();
  loop.run_posted();
  EXPECT_EQ(grants.order, (std::vector<int>{1, 2}));
  EXPECT_EQ(ledger.waited_total(), std::chrono::seconds(7));
  EXPECT_EQ(ledger.waits_total(), 2u);
}

TEST(Ledger, WaiterIsGrantedLaterOnItsLoop) {
  Ledger ledger(budgets());
  ManualLoop loop;
  Grants grants;
  const auto ticket = ledger.wait(Account::kUploads, 100, loop, grants.taker(1));
  EXPECT_EQ(ledger.transferring(), 100u);
  EXPECT_EQ(ledger.waits_total(), 0u);
  EXPECT_TRUE(grants.order.empty());
  loop.run_posted();
  ASSERT_EQ(grants.held.size(), 1u);
  EXPECT_EQ(grants.held[0].bytes(), 100u);
}

TEST(Ledger, RefusesForEverWhatCanNeverBe) {
  Ledger ledger(budgets());
  ManualLoop loop;
  Grants grants;
  EXPECT_EQ(ledger.wait(Account::kUploads, 101, loop, grants.taker(1)), nullptr);
  EXPECT_EQ(ledger.waiting(), 0u);
}

TEST(Ledger, ServesWaitersInOrderAndBeforeOthers) {
  Ledger ledger(budgets());
  ManualLoop loop;
  Grants grants;
  Reservation first = ledger.try_reserve(Account::kFills, 90);
  const auto large = ledger.wait(Account::kUploads, 80, loop, grants.taker(1));
  const auto small = ledger.wait(Account::kUploads, 5, loop, grants.taker(2));
  EXPECT_EQ(ledger.waiting(), 2u);
  EXPECT_EQ(ledger.waits_total(), 2u);
  // There is room for these, but the large one has waited longer.
  EXPECT_FALSE(ledger.try_reserve(Account::kFills, 1));
  EXPECT_FALSE(first.try_grow(1));
  first.shrink_to(50);
  EXPECT_EQ(ledger.waiting(), 2u);
  first.shrink_to(15);
  EXPECT_EQ(ledger.waiting(), 0u);
  EXPECT_EQ(ledger.transferring(), 100u);
  loop.run_posted();
  EXPECT_EQ(grants.order, (std::vector<int>{1, 2}));
}

TEST(Ledger, DroppedTicketLeavesTheQueueAndLetsOthersBy) {
  Ledger ledger(budgets());
  ManualLoop loop;
  Grants grants;
  const Reservation first = ledger.try_reserve(Account::kFills, 50);
  auto blocked = ledger.wait(Account::kUploads, 60, loop, grants.taker(1));
  const auto next = ledger.wait(Account::kUploads, 50, loop, grants.taker(2));
  blocked.reset();
  EXPECT_EQ(ledger.waiting(), 0u);
  loop.run_posted();
  EXPECT_EQ(grants.order, std::vector<int>{2});
}

TEST(Ledger, GrantThatNobodyTakesGoesBack) {
  Ledger ledger(budgets());
  ManualLoop loop;
  Grants grants;
  auto ticket = ledger.wait(Account::kUploads, 100, loop, grants.taker(1));
  const auto next = ledger.wait(Account::kUploads, 100, loop, grants.taker(2));
  EXPECT_EQ(ledger.transferring(), 100u);
  ticket.reset();  // granted, the task is posted, but has not run
  EXPECT_EQ(ledger.transferring(), 100u);
  EXPECT_EQ(ledger.waiting(), 0u);
  loop.run_posted();
  EXPECT_EQ(grants.order, std::vector<int>{2});
  grants.held.clear();
  EXPECT_EQ(ledger.transferring(), 0u);
}

TEST(Ledger, CallbackMayDropItsTicketAndUseTheLedger) {
  Ledger ledger(budgets());
  ManualLoop loop;
  std::shared_ptr<Ledger::Ticket> ticket;
  bool ran = false;
  ticket = ledger.wait(Account::kUploads, 10, loop, [&](Reservation got) {
    ticket.reset();
    got.release();
    ran = ledger.transferring() == 0;
  });
  loop.run_posted();
  EXPECT_TRUE(ran);
}

// One thread grants by giving back while the loop's thread drops its tickets.
TEST(Ledger, DroppingRacesGranting) {
  Ledger ledger(budgets());
  ManualLoop loop;
  std::atomic<bool> stop{false};
  std::thread giver([&] {
    while (!stop) {
      Reservation one = ledger.try_reserve(Account::kFills, 70);
      std::this_thread::yield();
    }
  });
  const std::thread::id here = std::this_thread::get_id();
  std::mt19937 random(7);
  // A callback's captures must die on the loop's thread, whichever thread grants.
  struct Witness {
    std::thread::id home;
    ~Witness() { EXPECT_EQ(std::this_thread::get_id(), home); }
  };
  std::size_t granted = 0;
  // The giver may be preempted with its reservation in hand, so that nothing is granted meanwhile.
  for (int i = 0; i < 20'000 || (granted == 0 && i < 20'000'000); ++i) {
    auto witness = std::make_shared<Witness>(Witness{here});
    auto ticket =
        ledger.wait(Account::kUploads, 50, loop, [&granted, witness](Reservation) { ++granted; });
    witness.reset();
    if (random() % 2 == 0) loop.run_posted();
    ticket.reset();
    loop.run_posted();
  }
  stop = true;
  giver.join();
  EXPECT_GT(granted, 0u);
  EXPECT_EQ(ledger.transferring(), 0u);
  EXPECT_EQ(ledger.waiting(), 0u);
}

}  // namespace
}  // namespace cistern::base
