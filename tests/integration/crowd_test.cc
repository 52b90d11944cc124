// Many readers ask at once for one value that only Redis has: it is read once for all of them, each
// goes at its own pace, and the daemon keeps to its memory.
#include "tests/support/crowd.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <numeric>
#include <thread>

#include <gtest/gtest.h>

#include "client/cpp/client.h"
#include "tests/support/daemon.h"
#include "tests/support/proxy.h"
#include "tests/support/redis_monitor.h"
#include "tests/support/redis_server.h"
#include "tests/support/values.h"

namespace cistern::testing {
namespace {

constexpr std::uint64_t kMiB = 1024 * 1024;
#ifdef CISTERN_SANITIZED
constexpr std::uint64_t kValueBytes = 8 * kMiB;
constexpr unsigned kReaders = 60;
constexpr unsigned kFewReaders = 10;
#else
constexpr std::uint64_t kValueBytes = 64 * kMiB;
constexpr unsigned kReaders = 200;
constexpr unsigned kFewReaders = 20;
#endif
// Half of them grant little credit, the others grant all and don't read their sockets.
constexpr unsigned kSlowReaders = 10;
constexpr std::uint64_t kPrefetchChunks = 4;
const Millis kPatience(240'000);

std::string redis_config(std::uint16_t port) {
  // Where bytes are withheld, it isn't for want of time that somebody fails.
  return "limits: {request_timeout: 5m}\n"
         "l2: {kind: redis, replace_grace: 10m, redis: {op_timeout: 4m, url: \"redis://127.0.0.1:" +
         std::to_string(port) + "/0\"}}\n";
}

std::string config(std::uint64_t limit_bytes, std::uint64_t l1_bytes, const char* patience) {
  return "memory: {limit: " + std::to_string(limit_bytes) + "B}\n" +
         "l1: {max_bytes: " + std::to_string(l1_bytes) + "B, fill_patience: " + patience + "}\n";
}
// L1 that keeps the value, and one that it doesn't fit.
std::string large_l1() { return config(1536 * kMiB, 1024 * kMiB, "100ms"); }
std::string small_l1(const char* patience = "100ms") {
  return config(192 * kMiB, kValueBytes / 2, patience);
}

// The most anonymous and shared memory that a process ever had, looked at all the time.
class MemoryWatch {
 public:
  explicit MemoryWatch(const Process& process)
      : thread_([this, &process] {
          while (!stopped_) {
            peak_ = std::max(peak_.load(),
                             process.status_bytes("RssAnon") + process.status_bytes("RssShmem"));
            std::this_thread::sleep_for(Millis(5));  // the interval of the samples
          }
        }) {}
  ~MemoryWatch() { stop(); }
  MemoryWatch(const MemoryWatch&) = delete;
  MemoryWatch& operator=(const MemoryWatch&) = delete;

  std::uint64_t stop() {
    stopped_ = true;
    if (thread_.joinable()) thread_.join();
    return peak_;
  }

 private:
  std::atomic<std::uint64_t> peak_{0};
  std::atomic<bool> stopped_{false};
  std::thread thread_;
};

class CrowdOfReaders : public ::testing::Test {
 protected:
  // The value is written by another daemon, so that it's cold in the one that is read from.
  CrowdOfReaders() {
    Daemon writer({.config = redis_config(redis_.port()), .server = {}});
    Client client({.endpoint = writer.endpoint()});
    const std::vector<std::byte> bytes = value_of(11, kValueBytes);
    client.put("value", bytes);
    const std::optional<ValueInfo> info = client.stat("value");
    value_ = std::make_shared<ExpectedValue>(bytes, info->chunk_bytes);
    version_ = info->version;
  }

  std::unique_ptr<Crowd> crowd(const Daemon& daemon, unsigned count, const Crowd::Pace& pace,
                               unsigned threads = 1) const {
    return std::make_unique<Crowd>(daemon.endpoint(), "value", value_, count, pace, threads);
  }
  std::unique_ptr<Crowd> fast(const Daemon& daemon, unsigned count) const {
    return crowd(daemon, count, {}, 2);
  }
  std::unique_ptr<Crowd> slow_by_credit(const Daemon& daemon) const {
    return crowd(daemon, kSlowReaders / 2, {.bytes = 1024});
  }
  std::unique_ptr<Crowd> slow_by_socket(const Daemon& daemon) const {
    return crowd(daemon, kSlowReaders / 2, {.bytes = 1024, .by_socket = true});
  }

  // All of the readers have it whole. That they compared every byte is the crowd's doing.
  void expect_whole(const Crowd& crowd) const {
    EXPECT_TRUE(crowd.wait_ended(kPatience));
    EXPECT_EQ(crowd.unless_all(Crowd::State::kDone), "");
    for (const Crowd::Outcome& outcome : crowd.outcomes()) {
      ASSERT_EQ(outcome.received, kValueBytes);
      ASSERT_EQ(outcome.version, version_);
    }
  }

  // They were let be at their pace, and are cancelled now.
  void expect_prefix(Crowd& crowd) const {
    EXPECT_TRUE(crowd.wait([](const auto& outcome) { return outcome.received > 0; }, kPatience));
    EXPECT_EQ(crowd.unless_all(Crowd::State::kReading), "");
    crowd.cancel();
    EXPECT_TRUE(crowd.wait_ended(kPatience));
    EXPECT_EQ(crowd.unless_all(Crowd::State::kCancelled), "");
    for (const Crowd::Outcome& outcome : crowd.outcomes()) {
      EXPECT_GT(outcome.received, 0u);
      EXPECT_LT(outcome.received, kValueBytes);
    }
  }

  struct Seen {
    std::map<std::string, unsigned> reads;  // by chunk
    std::uint64_t peak_bytes;
  };
  // By all kReaders at once, kSlowReaders of them slow.
  Seen read_by_all(Daemon& daemon) {
    const auto slow = slow_by_credit(daemon);
    const auto stuck = slow_by_socket(daemon);
    const auto others = fast(daemon, kReaders - kSlowReaders);
    RedisMonitor monitor(redis_);
    MemoryWatch memory(daemon.process());
    for (Crowd* crowd : {slow.get(), stuck.get(), others.get()}) crowd->ask();
    expect_whole(*others);
    expect_prefix(*slow);
    expect_prefix(*stuck);
    Seen seen{monitor.chunk_reads(), 0};
    EXPECT_EQ(seen.reads.size(), chunk_count());
    seen.peak_bytes = memory.stop();
    return seen;
  }

  static void expect_under_limit(const Daemon& daemon, std::uint64_t peak_bytes) {
#ifndef CISTERN_SANITIZED
    EXPECT_LT(peak_bytes, static_cast<std::uint64_t>(daemon.metric("cistern_memory_limit_bytes")));
    ::testing::Test::RecordProperty("peak_mib", static_cast<int>(peak_bytes / kMiB));
    std::printf("peak of anonymous and shared memory: %.1f MiB\n",
                static_cast<double>(peak_bytes) / static_cast<double>(kMiB));
#else
    EXPECT_GT(peak_bytes, 0u);
    EXPECT_GT(daemon.metric("cistern_memory_limit_bytes"), 0);
#endif
  }

  std::uint64_t chunk_count() const { return value_->chunks.size(); }

  RedisServer redis_;
  std::shared_ptr<const ExpectedValue> value_;
  std::uint64_t version_ = 0;
};

std::uint64_t total(const std::map<std::string, unsigned>& reads) {
  return std::accumulate(reads.begin(), reads.end(), std::uint64_t{0},
                         [](std::uint64_t sum, const auto& read) { return sum + read.second; });
}

std::string text(const std::map<std::string, unsigned>& reads) {
  std::map<unsigned, unsigned> chunks_by_count;
  for (const auto& [name, count] : reads) ++chunks_by_count[count];
  std::string result;
  for (const auto& [count, chunks] : chunks_by_count) {
    result += std::to_string(chunks) + " chunks were read " + std::to_string(count) + " times; ";
  }
  return result;
}

// No reader can be too slow for a value that L1 keeps: one read of each chunk, and no more.
TEST_F(CrowdOfReaders, OfAValueThatL1KeepsReadsEachChunkOnce) {
  Daemon daemon({.config = large_l1() + redis_config(redis_.port()), .server = {}});
  const auto [reads, peak_bytes] = read_by_all(daemon);
  EXPECT_EQ(total(reads), chunk_count()) << text(reads);
  expect_under_limit(daemon, peak_bytes);
#ifndef CISTERN_SANITIZED
  // The value is there once, beside the program and its transfers, and not once for each reader.
  EXPECT_LT(peak_bytes, 2 * kValueBytes + 64 * kMiB);
#endif
}

// A value that L1 can't keep runs past its readers. One that is let go of goes on by itself and
// costs reads of its own. With the default patience of 100 ms these are also readers that a busy
// machine keeps from 190 MiB of their turns for so long; with 3 s they are the slow ones alone.
// What is bounded is twice the chunks, where a read for each reader would be 200 times, and what
// each slow one asks ahead.
TEST_F(CrowdOfReaders, OfAValueThatL1CannotKeepReadsEachChunkForAllWhoKeepUp) {
  Daemon daemon({.config = small_l1("3s") + redis_config(redis_.port()), .server = {}});
  const auto [reads, peak_bytes] = read_by_all(daemon);
  EXPECT_LE(total(reads), 2 * chunk_count() + kSlowReaders * (kPrefetchChunks + 1)) << text(reads);
  std::printf("%s\n", text(reads).c_str());
  expect_under_limit(daemon, peak_bytes);
}

// Redis is what is slow here, at 150 ms for a chunk: everybody who reads at all keeps up, and each
// chunk is read once for them. Slow readers cost what they ask ahead; a second read of each chunk
// is what a machine may cost that stops a reader for longer than the fill waits.
TEST_F(CrowdOfReaders, WhoAllKeepUpCostsNoMoreThanOneReader) {
  Proxy proxy(redis_.port());
  Daemon daemon({.config = small_l1() + redis_config(proxy.port()), .server = {}});
  const auto slow = slow_by_credit(daemon);
  const auto others = fast(daemon, kFewReaders);
  RedisMonitor monitor(redis_);
  proxy.throttle_replies(16 * 1024, Millis(3));
  for (Crowd* crowd : {slow.get(), others.get()}) crowd->ask();
  expect_whole(*others);
  expect_prefix(*slow);

  const std::map<std::string, unsigned> reads = monitor.chunk_reads();
  EXPECT_EQ(reads.size(), chunk_count());
  EXPECT_LE(total(reads), 2 * chunk_count() + kSlowReaders * (kPrefetchChunks + 1)) << text(reads);
  std::printf("%s\n", text(reads).c_str());
}

// What has come is for everyone who waits, whatever is still missing.
class CrowdAtAGate : public CrowdOfReaders, public ::testing::WithParamInterface<bool> {};

TEST_P(CrowdAtAGate, EverybodyHasTheFirstChunkWhileTheSecondIsWithheld) {
  Proxy proxy(redis_.port());
  Daemon daemon({.config = (GetParam() ? large_l1() : small_l1()) + redis_config(proxy.port()),
                 .server = {}});
  const auto slow = slow_by_credit(daemon);
  const auto stuck = slow_by_socket(daemon);
  const auto others = fast(daemon, kReaders - kSlowReaders);
  proxy.close_gate_after(1, 100'000);
  for (Crowd* crowd : {slow.get(), stuck.get(), others.get()}) crowd->ask();
  const Millis patience(60'000);
  for (const Crowd* crowd : {slow.get(), stuck.get(), others.get()}) {
    const bool all =
        crowd->wait([](const auto& outcome) { return outcome.received > 0; }, patience);
    EXPECT_TRUE(all) << crowd->unless_all(Crowd::State::kDone);
  }
  EXPECT_EQ(proxy.passed(), 1u);
  for (const Crowd::Outcome& outcome : others->outcomes()) {
    EXPECT_LE(outcome.received, value_->chunk_bytes);
  }
  proxy.open_gate();
  expect_whole(*others);
  expect_prefix(*slow);
  expect_prefix(*stuck);
}

INSTANTIATE_TEST_SUITE_P(L1, CrowdAtAGate, ::testing::Bool(), [](const auto& instance) {
  return instance.param ? "Keeps" : "CannotKeep";
});

}  // namespace
}  // namespace cistern::testing
