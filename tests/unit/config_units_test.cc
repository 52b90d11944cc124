#include <cstdint>
#include <optional>
#include <random>
#include <string>

#include <gtest/gtest.h>

#include "config/units.h"

namespace cistern::config {
namespace {

using std::chrono::milliseconds;

TEST(Units, ReadsSizes) {
  EXPECT_EQ(parse_size("0"), 0u);
  EXPECT_EQ(parse_size("0B"), 0u);
  EXPECT_EQ(parse_size("17B"), 17u);
  EXPECT_EQ(parse_size("1020KiB"), 1020u * 1024);
  EXPECT_EQ(parse_size("1MiB"), 1u << 20);
  EXPECT_EQ(parse_size("16GiB"), 16ull << 30);
  EXPECT_EQ(parse_size("2TiB"), 2ull << 40);
  EXPECT_EQ(parse_size("1KB"), 1'000u);
  EXPECT_EQ(parse_size("1MB"), 1'000'000u);
  EXPECT_EQ(parse_size("1GB"), 1'000'000'000u);
  EXPECT_EQ(parse_size("1TB"), 1'000'000'000'000u);
  EXPECT_EQ(parse_size("16 MiB"), 16u << 20);
  EXPECT_EQ(parse_size("18446744073709551615B"), ~std::uint64_t{0});
}

TEST(Units, RefusesWhatIsNoSize) {
  for (const std::string text :
       {"", "B", "1", "-1B", "+1B", " 1B", "1B ", "1  B", "1.5GiB", "1kib", "1kB", "1Kib", "1 ",
        "1KiBs", "0x10B", "1e3B", "18446744073709551616B", "16777216TiB", "1s"}) {
    EXPECT_EQ(parse_size(text), std::nullopt) << '"' << text << '"';
  }
}

TEST(Units, ReadsDurations) {
  EXPECT_EQ(parse_duration("0"), milliseconds(0));
  EXPECT_EQ(parse_duration("250ms"), milliseconds(250));
  EXPECT_EQ(parse_duration("30s"), std::chrono::seconds(30));
  EXPECT_EQ(parse_duration("5m"), std::chrono::minutes(5));
  EXPECT_EQ(parse_duration("2h"), std::chrono::hours(2));
  EXPECT_EQ(parse_duration("7d"), std::chrono::hours(7 * 24));
  for (const std::string text : {"", "s", "1", "-1s", "1.5s", "1S", "1M", "1us", "1w", "1min",
                                 "18446744073709551615ms", "213503982335d"}) {
    EXPECT_EQ(parse_duration(text), std::nullopt) << '"' << text << '"';
  }
}

TEST(Units, ReadsNumbers) {
  EXPECT_EQ(parse_count("0"), 0u);
  EXPECT_EQ(parse_count("1024"), 1024u);
  for (const std::string text : {"", "-1", "+1", "1.0", "1e3", "0x1", " 1", "1k", "auto"}) {
    EXPECT_EQ(parse_count(text), std::nullopt) << '"' << text << '"';
  }
}

TEST(Units, ReadsShares) {
  EXPECT_EQ(parse_share("0"), 0u);
  EXPECT_EQ(parse_share("0%"), 0u);
  EXPECT_EQ(parse_share("0.1"), 100u);
  EXPECT_EQ(parse_share("10%"), 100u);
  EXPECT_EQ(parse_share("0.125"), 125u);
  EXPECT_EQ(parse_share("12.5%"), 125u);
  EXPECT_EQ(parse_share("1"), 1000u);
  for (const std::string text :
       {"", "%", ".", ".1", "1.", "-0.1", "+0.1", "0.1234", "1.25%", "0.1.1", "0,1", "1e-1", " 0.1",
        "10 %", "10%%", "0.-1", "18446744073709551615"}) {
    EXPECT_EQ(parse_share(text), std::nullopt) << '"' << text << '"';
  }
}

TEST(Units, WritesShares) {
  EXPECT_EQ(format_share(0), "0");
  EXPECT_EQ(format_share(1), "0.001");
  EXPECT_EQ(format_share(100), "0.1");
  EXPECT_EQ(format_share(125), "0.125");
  EXPECT_EQ(format_share(1000), "1");
  for (std::uint64_t share = 0; share <= 2000; ++share) {
    ASSERT_EQ(parse_share(format_share(share)), share);
  }
}

TEST(Units, WritesTheLargestUnitThatDivides) {
  EXPECT_EQ(format_size(0), "0B");
  EXPECT_EQ(format_size(1000), "1000B");
  EXPECT_EQ(format_size(1020 * 1024), "1020KiB");
  EXPECT_EQ(format_size(1 << 20), "1MiB");
  EXPECT_EQ(format_size(16ull << 30), "16GiB");
  EXPECT_EQ(format_duration(milliseconds(0)), "0s");
  EXPECT_EQ(format_duration(milliseconds(1500)), "1500ms");
  EXPECT_EQ(format_duration(milliseconds(90'000)), "90s");
  EXPECT_EQ(format_duration(milliseconds(300'000)), "5m");
  EXPECT_EQ(format_duration(std::chrono::hours(48)), "2d");
}

TEST(Units, ReadsWhatItWrites) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (int i = 0; i < 10'000; ++i) {
    const std::uint64_t bytes = random() >> (random() % 64);
    ASSERT_EQ(parse_size(format_size(bytes)), bytes);
    const milliseconds duration(static_cast<std::int64_t>(bytes >> 1));
    ASSERT_EQ(parse_duration(format_duration(duration)), duration);
  }
}

}  // namespace
}  // namespace cistern::config
