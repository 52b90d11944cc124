#include <future>
#include <mutex>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "server/base/check.h"
#include "server/base/log.h"
#include "server/base/memory.h"
#include "server/base/metrics.h"
#include "tests/support/machine.h"
#include "tests/support/manual_loop.h"

namespace cistern::base {
namespace {

using testing::Machine;

TEST(System, CoresByAffinityAndQuota) {
  const unsigned all = usable_cores();
  EXPECT_GE(all, 1u);
  Machine machine;
  machine.put("proc/self/cgroup", "0::/a\n");
  machine.put("cgroup/a/cpu.max", "50000 100000\n");
  EXPECT_EQ(usable_cores(machine.paths), 1u);
  machine.put("cgroup/a/cpu.max", "max 100000\n");
  EXPECT_GE(usable_cores(machine.paths), all);
}

// Everything that was logged from init to shutdown.
class Lines {
 public:
  explicit Lines(log::Format format, log::Level level = log::Level::kTrace) {
    log::init({level, format, [this](std::string_view line) {
                 const std::lock_guard lock(mutex_);
                 lines_.emplace_back(line);
               }});
  }
  ~Lines() {
    if (!ended_) log::shutdown();
  }
  std::vector<std::string> end() {
    log::shutdown();
    ended_ = true;
    return lines_;
  }

 private:
  std::mutex mutex_;
  std::vector<std::string> lines_;
  bool ended_ = false;
};

TEST(Log, JsonLineHasEveryField) {
  Lines lines(log::Format::kJson);
  log::warn("something_happened", {{"text", "a \"quoted\"\n\\ \x01 line"},
                                   {"int", -5},
                                   {"large", ~std::uint64_t{0}},
                                   {"double", 0.5},
                                   {"nan", std::numeric_limits<double>::quiet_NaN()},
                                   {"yes", true}});
  const auto got = lines.end();
  ASSERT_EQ(got.size(), 1u);
  const auto json = nlohmann::json::parse(got[0]);
  EXPECT_EQ(json["event"], "something_happened");
  EXPECT_EQ(json["level"], "warn");
  EXPECT_EQ(json["text"], "a \"quoted\"\n\\ \x01 line");
  EXPECT_EQ(json["int"], -5);
  EXPECT_EQ(json["large"], ~std::uint64_t{0});
  EXPECT_EQ(json["double"], 0.5);
  EXPECT_TRUE(json["nan"].is_null());
  EXPECT_EQ(json["yes"], true);
  EXPECT_EQ(json["time"].get<std::string>().size(), 24u);
}

TEST(Log, InvalidUtf8IsReplacedAndValidIsKept) {
  EXPECT_EQ(log::json_escape("gr\xC3\xBC\xC3\x9F \xE2\x82\xAC \xF0\x9F\x98\x80"),
            "gr\xC3\xBC\xC3\x9F \xE2\x82\xAC \xF0\x9F\x98\x80");
  const std::string replaced = "\xEF\xBF\xBD";
  EXPECT_EQ(log::json_escape("\xC3"), replaced);
  EXPECT_EQ(log::json_escape("\xC0\xAF"), replaced + replaced);
  EXPECT_EQ(log::json_escape("\xED\xA0\x80"), replaced + replaced + replaced);
  EXPECT_EQ(log::json_escape("\xF4\x90\x80\x80"), replaced + replaced + replaced + replaced);
  EXPECT_EQ(log::json_escape("a\xFFz"), "a" + replaced + "z");
  // Whatever the bytes, the result is JSON.
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  EXPECT_TRUE(nlohmann::json::accept("\"" + log::json_escape(all) + "\""));
}

TEST(Log, TextLineIsOneLine) {
  Lines lines(log::Format::kText);
  log::info("started", {{"endpoint", "tcp://127.0.0.1:7400"}, {"why", "two\nlines"}, {"n", 3u}});
  const auto got = lines.end();
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(got[0].substr(24),
            " info started endpoint=tcp://127.0.0.1:7400 why=\"two\\nlines\" n=3");
}

TEST(Log, LevelIsChecked) {
  Lines lines(log::Format::kText, log::Level::kWarn);
  log::info("no");
  log::error("yes");
  log::set_level(log::Level::kDebug);
  log::debug("also");
  log::trace("nor this");
  EXPECT_EQ(lines.end().size(), 2u);
}

TEST(Log, LimitCountsWhatItHolds) {
  log::Limit limit(2);
  std::uint64_t suppressed = 0;
  EXPECT_TRUE(limit.pass(10, suppressed));
  EXPECT_TRUE(limit.pass(10, suppressed));
  for (int i = 0; i < 5; ++i) EXPECT_FALSE(limit.pass(10, suppressed));
  EXPECT_TRUE(limit.pass(11, suppressed));
  EXPECT_EQ(suppressed, 5u);
  EXPECT_TRUE(limit.pass(11, suppressed));
  EXPECT_EQ(suppressed, 0u);
}

TEST(Log, FullQueueDropsAndNeverWaits) {
  std::promise<void> gate;
  const std::shared_future<void> opened = gate.get_future().share();
  std::atomic<unsigned> written{0};
  log::init({log::Level::kInfo, log::Format::kText, [&](std::string_view) {
               opened.wait();
               ++written;
             }});
  constexpr unsigned kEvents = 10'000;
  for (unsigned i = 0; i < kEvents; ++i) log::info("event", {{"i", i}});
  EXPECT_GT(log::dropped(), 0u);
  const std::uint64_t dropped = log::dropped();
  gate.set_value();
  log::shutdown();
  EXPECT_EQ(written + dropped, kEvents);
}

TEST(Metrics, CountsByOperationAndStatus) {
  auto metrics = std::make_unique<WorkerMetrics>();
  metrics->count_request(Op::kPut, Status::kNoRoom, std::chrono::microseconds(10));
  metrics->count_put_rejected(Status::kNoRoom);
  metrics->count_l2(L2Op::kCommit, L2Result::kUnknown, std::chrono::seconds(100));
  metrics->bytes_in.add(7);
  metrics->open_streams.add(2);
  metrics->open_streams.add(-1);
  const std::size_t no_room = status_index(Status::kNoRoom);
  EXPECT_EQ(proto::all_statuses()[no_room].status, Status::kNoRoom);
  EXPECT_EQ(metrics->requests[1][no_room].get(), 1u);
  EXPECT_EQ(metrics->puts_rejected[no_room].get(), 1u);
  EXPECT_EQ(metrics->l2[static_cast<std::size_t>(L2Op::kCommit)][6].get(), 1u);
  EXPECT_EQ(metrics->bytes_in.get(), 7u);
  EXPECT_EQ(metrics->open_streams.get(), 1);
  // The bounds are inclusive; past the last one is the bucket without a bound.
  EXPECT_EQ(metrics->request_latency[1].count(0), 1u);
  EXPECT_EQ(
      metrics->l2_latency[static_cast<std::size_t>(L2Op::kCommit)].count(kLatencyBounds.size()),
      1u);
  EXPECT_DOUBLE_EQ(metrics->l2_latency[static_cast<std::size_t>(L2Op::kCommit)].sum_seconds(),
                   100.0);
}

TEST(Metrics, TablesAreComplete) {
  ASSERT_EQ(kStatusCount, proto::all_statuses().size());
  for (std::size_t i = 0; i < kStatusCount; ++i) {
    EXPECT_EQ(status_index(proto::all_statuses()[i].status), i);
  }
  EXPECT_EQ(name(Op::kDelete), "delete");
  EXPECT_EQ(name(L2Op::kReadChunk), "read_chunk");
  EXPECT_EQ(name(L2Result::kUnavailable), "unavailable");
  EXPECT_TRUE(std::ranges::is_sorted(kLatencyBounds));
  EXPECT_GE(all_counters().size(), 13u);
  EXPECT_EQ(alignof(WorkerMetrics) % 64, 0u);
}

TEST(ManualLoop, RunsTimersInOrderAndAtTheirTime) {
  testing::ManualLoop loop;
  std::vector<int> order;
  const TimePoint start = loop.now();
  loop.after(std::chrono::seconds(2), [&] { order.push_back(2); });
  loop.after(std::chrono::seconds(1), [&] {
    EXPECT_EQ(loop.now() - start, std::chrono::seconds(1));
    order.push_back(1);
    loop.after(std::chrono::milliseconds(500), [&] { order.push_back(15); });
    loop.post([&] { order.push_back(10); });
  });
  const auto cancelled = loop.after(std::chrono::seconds(1), [&] { order.push_back(99); });
  loop.cancel(cancelled);
  loop.after(std::chrono::seconds(9), [&] { order.push_back(9); });
  loop.advance(std::chrono::seconds(3));
  EXPECT_EQ(order, (std::vector<int>{1, 10, 15, 2}));
  EXPECT_EQ(loop.timers(), 1u);
}

TEST(CheckDeathTest, SaysWhereAndAborts) {
  EXPECT_DEATH(CHECK(1 + 1 == 3), "defect at .*base_system_test.cc:.*1 \\+ 1 == 3");
}

}  // namespace
}  // namespace cistern::base
