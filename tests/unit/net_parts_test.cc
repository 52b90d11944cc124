// The loop, the writer, a connection's budget and the plan of memory, each by itself.
#include <sys/mman.h>
#include <sys/socket.h>

#include <thread>

#include <gtest/gtest.h>

#include "server/net/asio_loop.h"
#include "server/net/connection_budget.h"
#include "server/net/memory_plan.h"
#include "server/net/unique_fd.h"
#include "server/net/writer.h"

namespace cistern::net {
namespace {

using namespace std::chrono_literals;

// -----------------------------------------------------------------------------------------
// AsioLoop

TEST(AsioLoop, RunsTasksInOrderAndLater) {
  AsioLoop loop;
  std::vector<int> order;
  loop.post([&] {
    order.push_back(1);
    loop.post([&] {
      order.push_back(3);
      loop.stop();
    });
    order.push_back(2);
  });
  EXPECT_TRUE(order.empty());
  loop.run();
  EXPECT_EQ(order, (std::vector{1, 2, 3}));
}

TEST(AsioLoop, RunsTimersByTimeAndNotTheCancelled) {
  AsioLoop loop;
  std::vector<int> order;
  loop.post([&] {
    const base::TimePoint began = loop.now();
    loop.after(20ms, [&, began] {
      EXPECT_GE(loop.now() - began, 20ms);
      order.push_back(2);
      loop.stop();
    });
    const auto cancelled = loop.after(5ms, [&] { order.push_back(9); });
    loop.after(10ms, [&] { order.push_back(1); });
    loop.cancel(cancelled);
    loop.cancel(cancelled);
    loop.cancel(base::Loop::TimerId::kNone);
  });
  loop.run();
  EXPECT_EQ(order, (std::vector{1, 2}));
}

TEST(AsioLoop, ATimerMayCancelAnotherThatIsDue) {
  AsioLoop loop;
  bool ran = false;
  loop.post([&] {
    auto second = std::make_shared<base::Loop::TimerId>();
    loop.after(1ms, [&, second] { loop.cancel(*second); });
    *second = loop.after(1ms, [&] { ran = true; });
    loop.after(5ms, [&] { loop.stop(); });
  });
  loop.run();
  EXPECT_FALSE(ran);
}

// What was posted or timed and can't run any more is destroyed, and with it what it holds.
TEST(AsioLoop, DestroysWhatIsLeftWhenItStops) {
  AsioLoop loop;
  const auto held = std::make_shared<int>(1);
  loop.post([&loop, held] {
    loop.after(1h, [held] {});
    loop.stop();
  });
  std::thread thread([&] { loop.run(); });
  thread.join();
  EXPECT_EQ(held.use_count(), 1);
  loop.post([held] {});
  EXPECT_EQ(held.use_count(), 1);
}

TEST(AsioLoop, TakesTasksFromOtherThreads) {
  AsioLoop loop;
  std::thread thread([&] { loop.run(); });
  int sum = 0;
  std::vector<std::thread> posters;
  std::atomic<int> left = 4;
  for (int t = 0; t < 4; ++t) {
    posters.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) loop.post([&] { ++sum; });
      loop.post([&] {
        if (--left == 0) loop.stop();
      });
    });
  }
  for (std::thread& poster : posters) poster.join();
  thread.join();
  EXPECT_EQ(sum, 4000);
}

// -------------------------------------------------------------------------------------------
// Writer

struct Pair {
  Pair() {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) != 0) std::abort();
    ours.reset(ends[0]);
    theirs.reset(ends[1]);
  }
  std::string take() const {
    std::string all(1 << 20, '\0');
    const ssize_t got = ::recv(theirs.get(), all.data(), all.size(), 0);
    all.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    return all;
  }
  UniqueFd ours, theirs;
};

TEST(Writer, WritesControlMemoryAndExtentsInOrder) {
  const Pair pair;
  const UniqueFd file(::memfd_create("extent", MFD_CLOEXEC));
  ASSERT_EQ(::write(file.get(), "0123456789", 10), 10);
  Writer writer;
  proto::Batch& batch = writer.batch();
  const auto control = proto::as_bytes("head-tail");
  batch.control.assign(control.begin(), control.end());
  const auto memory = std::make_shared<std::string>("memory-");
  batch.segments.push_back({.size = 5, .offset = 0});
  batch.segments.push_back({.data = reinterpret_cast<const std::byte*>(memory->data()),
                            .size = memory->size(),
                            .owner = memory});
  batch.segments.push_back({.size = 4, .fd = file.get(), .offset = 3});
  batch.segments.push_back({.size = 4, .offset = 5});
  EXPECT_EQ(writer.write(pair.ours.get()), Writer::Outcome::kDone);
  EXPECT_EQ(pair.take(), "head-memory-3456tail");
  EXPECT_EQ(writer.written(), 20u);
  EXPECT_TRUE(writer.idle());
  EXPECT_TRUE(batch.empty());
  EXPECT_EQ(memory.use_count(), 1);
}

TEST(Writer, GoesOnWhereASocketWasFull) {
  const Pair pair;
  Writer writer;
  std::string expected;
  std::vector<std::shared_ptr<std::string>> owners;
  for (char letter = 'a'; letter <= 'z'; ++letter) {
    owners.push_back(std::make_shared<std::string>(50'000, letter));
    expected += *owners.back();
    writer.batch().segments.push_back(
        {.data = reinterpret_cast<const std::byte*>(owners.back()->data()),
         .size = owners.back()->size(),
         .owner = owners.back()});
  }
  std::string received;
  std::size_t blocked = 0;
  while (writer.write(pair.ours.get()) == Writer::Outcome::kBlocked) {
    ++blocked;
    received += pair.take();
  }
  for (std::string part = pair.take(); !part.empty(); part = pair.take()) received += part;
  EXPECT_GT(blocked, 0u);
  EXPECT_TRUE(received == expected);
  for (const auto& owner : owners) EXPECT_EQ(owner.use_count(), 1);
}

TEST(Writer, LetsGoOfWhatWasWrittenAlthoughTheRestWaits) {
  const Pair pair;
  Writer writer;
  const auto first = std::make_shared<std::string>(1000, 'a');
  const auto second = std::make_shared<std::string>(std::size_t{8} << 20, 'b');
  for (const auto& owner : {first, second}) {
    writer.batch().segments.push_back({.data = reinterpret_cast<const std::byte*>(owner->data()),
                                       .size = owner->size(),
                                       .owner = owner});
  }
  ASSERT_EQ(writer.write(pair.ours.get()), Writer::Outcome::kBlocked);
  EXPECT_EQ(first.use_count(), 1);
  EXPECT_EQ(second.use_count(), 2);
}

TEST(Writer, CopiesWhatAFullSocketHasNotTaken) {
  const Pair pair;
  Writer writer;
  std::string expected;
  std::vector<std::shared_ptr<std::string>> owners;
  for (char letter = 'a'; letter <= 'z'; ++letter) {
    owners.push_back(std::make_shared<std::string>(50'001, letter));
    expected += *owners.back();
    writer.batch().segments.push_back(
        {.data = reinterpret_cast<const std::byte*>(owners.back()->data()),
         .size = owners.back()->size(),
         .owner = owners.back()});
    writer.batch().bytes += owners.back()->size();
  }
  ASSERT_EQ(writer.write(pair.ours.get()), Writer::Outcome::kBlocked);
  const std::size_t left = writer.left_bytes();
  EXPECT_EQ(writer.borrowed_bytes(), left);
  writer.copy_borrowed();
  EXPECT_EQ(writer.borrowed_bytes(), 0u);
  EXPECT_EQ(writer.copied_bytes(), left);
  for (const auto& owner : owners) {
    EXPECT_EQ(owner.use_count(), 1);
    owner->assign(owner->size(), '!');
  }
  std::string received = pair.take();
  while (writer.write(pair.ours.get()) == Writer::Outcome::kBlocked) received += pair.take();
  for (std::string part = pair.take(); !part.empty(); part = pair.take()) received += part;
  EXPECT_TRUE(received == expected);
  EXPECT_EQ(writer.copied_bytes(), 0u);
}

TEST(Writer, SaysThatThePeerIsGone) {
  Pair pair;
  pair.theirs.reset();
  Writer writer;
  const auto bytes = std::make_shared<std::string>("x");
  writer.batch().segments.push_back(
      {.data = reinterpret_cast<const std::byte*>(bytes->data()), .size = 1, .owner = bytes});
  EXPECT_EQ(writer.write(pair.ours.get()), Writer::Outcome::kFailed);
  EXPECT_EQ(writer.error(), EPIPE);
}

// ---------------------------------------------------------------------------------
// ConnectionBudget

TEST(ConnectionBudget, GrowsByStepsAndGivesBack) {
  base::Ledger ledger({.limit = 0, .l1 = 0, .transfers = 0, .held = 0, .connections = proto::kMiB});
  const auto used = [&] { return ledger.used(base::Account::kConnections); };
  {
    ConnectionAccount account(ledger);
    ConnectionBudget budget(*account.admit());
    EXPECT_EQ(used(), kConnectionBytes);
    EXPECT_TRUE(budget.take(kSpareRequestBytes));
    EXPECT_EQ(used(), kConnectionBytes);
    EXPECT_TRUE(budget.take(100));
    EXPECT_GT(used(), kConnectionBytes);
    EXPECT_FALSE(budget.take(proto::kMiB));
    EXPECT_FALSE(budget.take_if_plenty(proto::kMiB / 2));
    budget.give(100);
    budget.trim();
    EXPECT_EQ(used(), kConnectionBytes);
  }
  EXPECT_EQ(used(), 0u);
}

// Who is in comes before newcomers, and what has to be kept before what can wait; and whatever they
// take, those that have room come in.
TEST(ConnectionBudget, SharesTheAccountOutByNeed) {
  using Need = ConnectionBudget::Need;
  constexpr std::uint64_t kConnections = 16;
  base::Ledger ledger(
      {.limit = 0, .l1 = 0, .transfers = 0, .held = 0, .connections = account_bytes(kConnections)});
  const std::uint64_t all = ledger.budgets().connections;
  const auto used = [&] { return ledger.used(base::Account::kConnections); };
  ConnectionAccount account(ledger);
  ConnectionBudget first(*account.admit());
  std::uint64_t buffers = 0;
  for (; first.take_if_plenty(proto::kKiB); buffers += proto::kKiB) {
  }
  EXPECT_GE(buffers, all / 8);
  std::vector<ConnectionAccount::Place> others;
  while (auto next = account.admit()) others.push_back(std::move(*next));
  EXPECT_EQ(1 + others.size(), kConnections);

  ConnectionBudget last(std::move(others.back()));
  EXPECT_FALSE(last.is_short_of(kRequestBytes));
  std::uint64_t requests = 0;
  for (; last.take(kRequestBytes); requests += kRequestBytes) {
  }
  EXPECT_GE(requests, kSpareRequestBytes + all / 32);
  EXPECT_TRUE(last.is_short_of(kRequestBytes));
  EXPECT_TRUE(last.cover_frames(kFramesBytes));
  EXPECT_FALSE(last.cover_frames(kFramesBytes + kRequestBytes));
  const std::uint64_t left = all - used();
  EXPECT_GE(left, all / 80);
  EXPECT_TRUE(last.cover_frames(kFramesBytes + left, Need::kUnavoidable));
  EXPECT_FALSE(last.cover_frames(kFramesBytes + left + kRequestBytes, Need::kUnavoidable));
  EXPECT_LE(used(), all);

  first.give(buffers);
  first.trim();
  last.uncover_frames(0);
  last.give(requests);
  last.trim();
  EXPECT_EQ(used(), kConnections * kConnectionBytes);
  others.clear();  // the last's has moved
  EXPECT_EQ(used(), 2 * kConnectionBytes);
  EXPECT_TRUE(account.admit());
}

// -------------------------------------------------------------------------------------- Memory
// plan

constexpr std::uint64_t kWindow = 2 * proto::kDefaultChunkBytes;

// As the daemon asks, with everything automatic on a machine of 8 cores.
MemoryDemand automatic(std::uint64_t limit_mib, bool with_l2) {
  const std::uint64_t limit = limit_mib * proto::kMiB;
  return {.limit_bytes = limit,
          .max_connections = 1024,
          .window_bytes = kWindow,
          .workers = std::min(8U, most_workers(limit)),
          .l2_connections = with_l2 ? 2U : 0U,
          .l2_connection_bytes = 1088 * proto::kKiB,
          .codec_bytes = with_l2 ? 3 * proto::kMiB : 0U};
}

void expect_sound(const base::Ledger::Budgets& budgets) {
  // All of it is used.
  EXPECT_EQ(budgets.base + budgets.l1 + budgets.transfers + budgets.connections +
                budgets.l2_buffers + budgets.codec,
            budgets.limit);
  EXPECT_GE(budgets.transfers, 2 * kWindow);
  EXPECT_LE(budgets.held, budgets.transfers);
  EXPECT_GE(budgets.connections, account_bytes(16));
}

TEST(MemoryPlan, SharesTheLimitOut) {
  for (const bool with_l2 : {false, true}) {
    for (const std::uint64_t limit_mib : {32, 64, 100, 224, 1024, 65536}) {
      const auto budgets = plan_memory(automatic(limit_mib, with_l2));
      ASSERT_TRUE(budgets) << limit_mib << ": " << budgets.error().message;
      expect_sound(*budgets);
      EXPECT_EQ(budgets->l2_buffers != 0, with_l2);
      EXPECT_EQ(budgets->codec, with_l2 ? 3 * proto::kMiB : 0);
    }
  }
}

// What `auto` makes of containers of 64 and 256 MiB: most of what isn't fixed is L1's.
TEST(MemoryPlan, SmallContainersHaveAnL1) {
  EXPECT_EQ(most_workers(32 * proto::kMiB), 2u);
  EXPECT_GE(plan_memory(automatic(32, false))->l1, 10 * proto::kMiB);
  EXPECT_GE(plan_memory(automatic(32, true))->l1, 3 * proto::kMiB);
  EXPECT_GE(plan_memory(automatic(224, false))->l1, 112 * proto::kMiB);
  EXPECT_GE(plan_memory(automatic(224, true))->l1, 80 * proto::kMiB);
}

// On a machine of any size.
TEST(MemoryPlan, ContainersOf256MiBHaveRoomFor200Connections) {
  for (unsigned workers = 1; workers <= most_workers(224 * proto::kMiB); ++workers) {
    for (const bool with_l2 : {false, true}) {
      MemoryDemand demand = automatic(224, with_l2);
      demand.workers = workers;
      const auto budgets = plan_memory(demand);
      ASSERT_TRUE(budgets) << budgets.error().message;
      EXPECT_GE(budgets->connections, account_bytes(200)) << workers;
      EXPECT_GE(budgets->l1, 64 * proto::kMiB) << workers;
    }
  }
}

TEST(MemoryPlan, CountsWorkersAndTheirConnectionsToL2) {
  const auto base = [](unsigned workers, unsigned l2_connections) {
    MemoryDemand demand = automatic(1024, true);
    demand.workers = workers;
    demand.l2_connections = l2_connections;
    return plan_memory(demand)->base;
  };
  EXPECT_EQ(base(2, 0) - base(1, 0), proto::kMiB / 2);
  EXPECT_EQ(base(2, 3) - base(2, 2), 2 * 1088 * proto::kKiB);
}

TEST(MemoryPlan, TakesL1AsItIsSet) {
  const auto budgets = plan_memory({.limit_bytes = 224 * proto::kMiB,
                                    .l1_bytes = 128 * proto::kMiB,
                                    .max_connections = 1024,
                                    .window_bytes = kWindow});
  ASSERT_TRUE(budgets);
  expect_sound(*budgets);
  EXPECT_EQ(budgets->l1, 128 * proto::kMiB);
  // A small L1 leaves room for as many connections as a limit of its own choice does.
  const auto small = plan_memory({.limit_bytes = 192 * proto::kMiB,
                                  .l1_bytes = 32 * proto::kMiB,
                                  .max_connections = 1024,
                                  .window_bytes = kWindow});
  ASSERT_TRUE(small);
  expect_sound(*small);
  EXPECT_GE(small->connections, account_bytes(200));
}

TEST(MemoryPlan, ShowsTheSumThatDoesNotFit) {
  MemoryDemand demand = automatic(128, false);
  demand.l1_bytes = 110 * proto::kMiB;
  demand.workers = 4;
  const auto budgets = plan_memory(demand);
  ASSERT_FALSE(budgets);
  const std::string& text = budgets.error().message;
  // 16 + 4.33 + 3.98 + 110
  for (const char* part : {"memory.limit is 128.0 MiB", "134.3 MiB are needed", "110.0 MiB for L1",
                           "l1.max_bytes", "16.0 MiB for the program itself with 4 workers"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << ": " << text;
  }
  EXPECT_EQ(text.find("L2"), std::string::npos) << text;
  demand.l2_connections = 2;
  demand.codec_bytes = 5 * proto::kMiB;
  const std::string with_l2 = plan_memory(demand).error().message;
  EXPECT_NE(with_l2.find("155.8 MiB are needed"), std::string::npos) << with_l2;
  EXPECT_NE(with_l2.find("5.0 MiB to compress chunks (storage.compression.level"),
            std::string::npos)
      << with_l2;
  EXPECT_NE(with_l2.find("l2.redis.connections_per_worker"), std::string::npos) << with_l2;
}

}  // namespace
}  // namespace cistern::net
