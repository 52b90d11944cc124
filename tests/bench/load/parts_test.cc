// Histogram, plan, corpus, outbox and configuration.
#include <cmath>
#include <set>
#include <stdexcept>

#include <gtest/gtest.h>

#include "tests/bench/load/config.h"
#include "tests/bench/load/corpus.h"
#include "tests/bench/load/histogram.h"
#include "tests/bench/load/outbox.h"
#include "tests/bench/load/plan.h"

namespace cistern::bench {
namespace {

TEST(Histogram, PercentilesAreOffByLittle) {
  Histogram histogram;
  for (std::int64_t i = 1; i <= 1'000'000; ++i) histogram.add(i);
  EXPECT_EQ(histogram.count(), 1'000'000u);
  EXPECT_NEAR(histogram.mean(), 500'000.5, 0.6);
  for (const double share : {0.01, 0.5, 0.9, 0.99, 0.999}) {
    const auto found = static_cast<double>(histogram.percentile(share));
    EXPECT_GE(found, share * 1e6);
    EXPECT_LE(found, share * 1e6 * 1.016 + 1);
  }
  EXPECT_EQ(histogram.percentile(1), 1'000'000u);
}

TEST(Histogram, EveryValueIsInItsBucket) {
  for (std::int64_t value = 0; value < std::int64_t{1} << 39; value += 1 + value / 9) {
    Histogram histogram;
    histogram.add(value);
    const auto buckets = histogram.buckets();
    ASSERT_EQ(buckets.size(), 1u);
    EXPECT_GE(buckets[0].first, static_cast<std::uint64_t>(value));
    EXPECT_LE(static_cast<double>(buckets[0].first), static_cast<double>(value) * 1.016);
  }
  Histogram histogram;
  histogram.add(-5);
  histogram.add(std::int64_t{1} << 60);
  EXPECT_EQ(histogram.count(), 2u);
  EXPECT_EQ(histogram.max(), std::uint64_t{1} << 60);
  Histogram sum;
  sum.add(histogram);
  sum.add(histogram);
  EXPECT_EQ(sum.count(), 4u);
  EXPECT_EQ(Histogram().percentile(0.5), 0u);
}

Config config_of(const std::string& members) {
  return parse_config(R"({"system": "redis", "endpoint": "tcp://127.0.0.1:1")" + members + "}");
}

TEST(Plan, ZipfDrawsByRank) {
  constexpr std::uint64_t kRanks = 1000;
  double sum = 0;
  for (std::uint64_t rank = 0; rank < kRanks; ++rank) {
    sum += std::pow(static_cast<double>(rank + 1), -0.99);
  }
  const ZipfRanks ranks(kRanks, 0.99);
  std::vector<double> counts(kRanks);
  std::uint64_t state = 7;
  const auto random = [&] { return static_cast<double>(mix(++state) >> 11) * 0x1p-53; };
  constexpr int kDraws = 1'000'000;
  for (int i = 0; i < kDraws; ++i) ++counts.at(ranks.draw(random));
  for (const std::uint64_t rank : {0u, 1u, 2u, 10u, 100u, 500u}) {
    const double expected = std::pow(static_cast<double>(rank + 1), -0.99) / sum * kDraws;
    EXPECT_NEAR(counts[rank], expected, 6 * std::sqrt(expected)) << rank;
  }
}

TEST(Plan, FillsInOrderOnce) {
  const Config config = config_of(R"(, "keys": 100, "first_key": 50)");
  Plan plan(config);
  EXPECT_FALSE(plan.next(0));
  plan.begin_fill(60, 65);
  for (KeyIndex key = 60; key < 65; ++key) {
    const auto next = plan.next(0);
    ASSERT_TRUE(next);
    EXPECT_EQ(next->key, key);
    EXPECT_TRUE(next->is_put);
  }
  EXPECT_FALSE(plan.next(0));
}

TEST(Plan, EndsAfterItsOperations) {
  const Config config = config_of(
      R"(, "keys": 100, "operations": 10000, "connections": 3, "scan_share": 0.25,
         "mix": {"get": 3, "put": 1})");
  Plan plan(config);
  std::set<KeyIndex> scanned;
  for (int run = 0; run < 2; ++run) {
    plan.begin_run();
    int puts = 0, scans = 0, all = 0;
    for (; const auto next = plan.next(static_cast<unsigned>(all % 3)); ++all) {
      puts += next->is_put ? 1 : 0;
      if (next->key < 100) continue;
      ++scans;
      EXPECT_TRUE(scanned.insert(next->key).second);
    }
    EXPECT_EQ(all, 10'000);
    EXPECT_NEAR(puts, 2500, 250);
    EXPECT_NEAR(scans, 2500, 250);
  }
}

TEST(Plan, RunsThroughAllKeysInOrder) {
  const Config config = config_of(R"(, "keys": 3, "first_key": 7, "sequential": true)");
  Plan plan(config);
  plan.begin_run();
  for (const KeyIndex key : {7u, 8u, 9u, 7u}) EXPECT_EQ(plan.next(0)->key, key);
  plan.stop();
  EXPECT_FALSE(plan.next(0));
}

TEST(Corpus, ValuesAreFunctionsOfTheirKeys) {
  const Corpus corpus("k", {1, 1'000'000});
  EXPECT_EQ(corpus.key(42), "k000000042");
  std::uint64_t below_thousand = 0;
  for (KeyIndex key = 0; key < 1000; ++key) {
    EXPECT_EQ(corpus.size(key), Corpus("k", {1, 1'000'000}).size(key));
    EXPECT_LE(corpus.size(key), 1'000'000u);
    if (corpus.size(key) < 1000) ++below_thousand;
    if (key >= 10) continue;
  }
  EXPECT_NEAR(static_cast<double>(below_thousand), 500, 80);
  EXPECT_TRUE(corpus.matches(5, 0, corpus.piece(5, 0, 100)));
  EXPECT_TRUE(corpus.matches(5, 100, corpus.piece(5, 100, 100)));
  EXPECT_FALSE(corpus.matches(5, 0, corpus.piece(6, 0, 100)));
  EXPECT_FALSE(corpus.matches(5, 1, corpus.piece(5, 0, 100)));
}

TEST(Outbox, KeepsTheOrderOverPartialSends) {
  const std::string elsewhere = "elsewhere";
  Outbox out;
  out.append("one,");
  out.append("two,");
  out.refer(proto::as_bytes(elsewhere));
  out.append(",three");
  std::string sent;
  while (!out.empty()) {
    const Outbox::Batch batch = out.batch();
    const std::string all(proto::as_text(batch.bytes));
    EXPECT_EQ(batch.is_last, sent.size() >= std::string("one,two,elsewhere").size());
    const std::size_t step = std::min<std::size_t>(3, all.size());
    sent += all.substr(0, step);
    out.sent(step);
  }
  EXPECT_EQ(sent, "one,two,elsewhere,three");
}

TEST(Config, SaysWhatIsWrong) {
  const auto complaint = [](const std::string& text) -> std::string {
    try {
      parse_config(text);
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "";
  };
  const std::string begin = R"({"system": "redis", "endpoint": "tcp://127.0.0.1:1")";
  EXPECT_EQ(complaint(begin + "}"), "");
  EXPECT_NE(complaint("x").find("JSON"), std::string::npos);
  EXPECT_NE(complaint(R"({"system": "x"})").find("load.system"), std::string::npos);
  EXPECT_NE(complaint(R"({"system": "redis"})").find("load.endpoint"), std::string::npos);
  EXPECT_NE(complaint(begin + R"(, "depht": 1})").find("no member depht"), std::string::npos);
  EXPECT_NE(complaint(begin + R"(, "depth": 0})").find("from 1 to 1024"), std::string::npos);
  EXPECT_NE(complaint(begin + R"(, "mix": {"get": 0}})").find("both 0"), std::string::npos);
  EXPECT_NE(complaint(begin + R"(, "value": {"log_uniform": [5, 4]}})").find("from 5"),
            std::string::npos);
}

}  // namespace
}  // namespace cistern::bench
