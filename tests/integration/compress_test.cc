// What compression saves and costs, through the real daemon and a real Redis.
#include <gtest/gtest.h>

#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/support/files.h"
#include "tests/support/redis_server.h"

namespace cistern::testing {
namespace {

constexpr std::uint64_t kMiB = 1024 * 1024;
const Millis kPatience(600'000);

#ifdef CISTERN_SANITIZED
constexpr std::uint64_t kTextBytes = 32 * kMiB;
constexpr std::uint64_t kNoiseBytes = 32 * kMiB;
#else
constexpr std::uint64_t kTextBytes = 1024 * kMiB;
constexpr std::uint64_t kNoiseBytes = 256 * kMiB;
#endif
constexpr std::uint64_t kChunkBytes = 1020 * 1024;

class Compress : public ::testing::Test {
 protected:
  void start(const std::string& storage) {
    DaemonOptions options;
    options.config = "memory: {limit: 192MiB}\n" + storage + "l2: {kind: redis, redis: {url: \"" +
                     redis_.url() + "\"}}\n";
    daemon_ = std::make_unique<Daemon>(options);
  }
  void put(const std::string& key, const std::string& path) {
    const Finished done = cistern(daemon_->endpoint(), {"put", key, path}, kPatience);
    ASSERT_EQ(done.status, 0) << done.errors;
  }
  // Through `daemon`, whose L1 doesn't have it.
  void expect_back(const std::string& key, const std::string& path) {
    const std::string back = dir_.file("back");
    const Finished done = cistern(daemon_->endpoint(), {"get", key, "-o", back}, kPatience);
    ASSERT_EQ(done.status, 0) << done.errors;
    EXPECT_EQ(difference(path, back), "");
  }
  double metric(const std::string& name, const std::vector<std::string>& labels = {}) const {
    return daemon_->metric("cistern_codec_" + name, labels);
  }

  TempDir dir_;
  RedisServer redis_;
  std::unique_ptr<Daemon> daemon_;
};

TEST_F(Compress, OfTextRedisHoldsLessThanAThird) {
  start("");
  const std::string text = dir_.file("text");
  make_log_file(text, kTextBytes, 1);
  const std::uint64_t before = redis_.info_number("used_memory");
  put("log", text);
  const std::uint64_t held = redis_.info_number("used_memory") - before;
  std::printf("Redis holds %.1f MiB of %.1f\n", static_cast<double>(held) / kMiB,
              static_cast<double>(kTextBytes) / kMiB);
  EXPECT_LT(held, kTextBytes / 3);
  EXPECT_EQ(metric("packed_chunks_total") + metric("crowded_chunks_total"),
            static_cast<double>((kTextBytes + kChunkBytes - 1) / kChunkBytes));
  expect_back("log", text);
  EXPECT_EQ(metric("faults_total"), 0);
  // What it took is given back; the contexts are not.
  EXPECT_TRUE(eventually(
      [&] {
        return daemon_->metric("cistern_ledger_bytes", {"account=\"codec\""}) <
               static_cast<double>(4 * kMiB);
      },
      Millis(20'000)));
  EXPECT_EQ(daemon_->stop(), 0);
}

TEST_F(Compress, RandomBytesAreHardlyTried) {
  start("");
  const std::string noise = dir_.file("noise");
  make_random_file(noise, kNoiseBytes, 1);
  put("noise", noise);
  const double chunks = static_cast<double>((kNoiseBytes + kChunkBytes - 1) / kChunkBytes);
  // Four, those that were under way when they were refused, and every 16th.
  const double tried = metric("refused_chunks_total") + metric("packed_chunks_total");
  std::printf("tried %.0f of %.0f chunks, %.3f ms of a core\n", tried, chunks,
              1000 * metric("seconds_total", {"work=\"encode\""}));
  EXPECT_GE(tried, 4);
  EXPECT_LE(tried, 4 + 8 + chunks / 16);
  EXPECT_EQ(metric("untried_chunks_total"), chunks - tried);
  EXPECT_EQ(metric("packed_chunks_total"), 0);
  expect_back("noise", noise);
  EXPECT_EQ(metric("unpacked_chunks_total"), 0);
  EXPECT_EQ(daemon_->stop(), 0);
}

// One that is told not to compress reads what another has compressed.
TEST_F(Compress, EveryDaemonReadsWhatAnotherCompressed) {
  start("storage: {compression: {algorithm: zstd, level: 3, threads: 2}}\n");
  const std::string text = dir_.file("text");
  make_log_file(text, 10 * kMiB + 5, 2);
  put("log", text);
  EXPECT_GT(metric("packed_chunks_total"), 0);
  EXPECT_EQ(daemon_->stop(), 0);
  start("storage: {compression: {algorithm: none}}\n");
  expect_back("log", text);
  EXPECT_GT(metric("unpacked_chunks_total"), 0);
  put("log", text);
  EXPECT_EQ(metric("packed_chunks_total"), 0);
  EXPECT_EQ(daemon_->stop(), 0);
}

// A frame in Redis that isn't what its envelope says: whatever bit is changed, the reader sees an
// error or nothing, and the value is gone.
TEST_F(Compress, ADamagedFrameIsALostValue) {
  start("");
  const std::string text = dir_.file("text");
  make_log_file(text, 3 * kMiB, 3);
  put("log", text);
  EXPECT_EQ(daemon_->stop(), 0);
  start("");
  const auto chunks = redis_.keys("cistern:c:*");
  ASSERT_EQ(chunks.size(), 4u);
  redis_.command({"SETRANGE", chunks[2], "5000", "other bytes"});
  const std::string back = dir_.file("back");
  const Finished lost = cistern(daemon_->endpoint(), {"get", "log", "-o", back}, kPatience);
  EXPECT_EQ(lost.status, 4) << lost.errors;
  EXPECT_NE(lost.errors.find("VALUE_LOST"), std::string::npos) << lost.errors;
  EXPECT_TRUE(eventually(
      [&] {
        return cistern(daemon_->endpoint(), {"stat", "log"}, kPatience).status == 1;
      },
      Millis(20'000)));
  EXPECT_EQ(daemon_->stop(), 0);
}

}  // namespace
}  // namespace cistern::testing
