// A value is replaced or removed while many read it slowly: they get the old one, whole, however
// long they take; who asks later gets the new one; and Redis keeps nothing of the old one for ever.
#include <algorithm>
#include <chrono>
#include <ostream>

#include <gtest/gtest.h>

#include "client/cpp/client.h"
#include "tests/support/crowd.h"
#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/support/redis_server.h"
#include "tests/support/values.h"

namespace cistern::testing {
namespace {

constexpr std::uint64_t kMiB = 1024 * 1024;
constexpr std::uint64_t kChunkBytes = kMiB;
#ifdef CISTERN_SANITIZED
constexpr unsigned kReaders = 25;
#else
constexpr unsigned kReaders = 100;
#endif
constexpr std::uint64_t kChunks = 16;
constexpr std::uint64_t kOldBytes = kChunks * kChunkBytes;
constexpr std::uint64_t kNewBytes = 5 * kChunkBytes + 17;
const Millis kGrace(1'000);
// A reader takes a chunk in this time: the whole value takes several times the grace.
const Millis kChunkTime(400);
static_assert(kChunks * 400 > 5 * 1'000);
const Millis kPatience(240'000);

struct Place {
  const char* name;
  // What of the old value's memory there is when it is replaced.
  std::string config;
  unsigned readers;
  bool in_l1;
  bool is_taken;  // from its readers, when it's replaced
};
void PrintTo(const Place& place, std::ostream* out) { *out << place.name; }

std::string memory_config(std::uint64_t limit_bytes, std::uint64_t l1_bytes) {
  return "memory: {limit: " + std::to_string(limit_bytes) + "B}\n" +
         "l1: {max_bytes: " + std::to_string(l1_bytes) + "B}\n" +
         "storage: {chunk_bytes: " + std::to_string(kChunkBytes) + "B}\n";
}

// 24 MiB are the program's; a third of what is left beside L1 is for connections, the rest for
// transfers, of which half may hold what has left L1 and is still read.
const Place kPlaces[] = {
    {"InL1", memory_config(512 * kMiB, 8 * kOldBytes), kReaders, true, false},
    // Transfers get their least, 16 MiB, and what may be held of them is less than the value.
    {"InL1AndTakenFromItsReaders", memory_config(48 * kMiB + 4 * kOldBytes, 4 * kOldBytes), 20,
     true, true},
    {"NeverInL1", memory_config(512 * kMiB, kOldBytes / 2), kReaders, false, false},
};

class Replaced : public ::testing::TestWithParam<Place> {
 protected:
  Replaced()
      : daemon_({.config = GetParam().config + "l2: {kind: redis, replace_grace: 1s, redis: {" +
                           "op_timeout: 1s, url: \"" + redis_.url() + "\"}}\n",
                 .server = {}}),
        client_({.endpoint = daemon_.endpoint()}) {
    const std::vector<std::byte> bytes = value_of(21, kOldBytes);
    const Stored stored = client_.put("value", bytes);
    old_version_ = stored.version;
    EXPECT_EQ(stored.in_l1, GetParam().in_l1);
    old_ = std::make_shared<ExpectedValue>(bytes, kChunkBytes);
  }

  // Readers who are in the middle of the old value.
  std::unique_ptr<Crowd> begin_reading() {
    auto crowd = std::make_unique<Crowd>(
        daemon_.endpoint(), "value", old_, GetParam().readers,
        Crowd::Pace{.bytes = static_cast<std::uint32_t>(kChunkBytes), .each = kChunkTime});
    crowd->ask();
    const bool all =
        crowd->wait([](const auto& outcome) { return outcome.received > 0; }, kPatience);
    EXPECT_TRUE(all) << crowd->unless_all(Crowd::State::kReading);
    // Nobody had the time to get further than this, so the value is replaced under all of them.
    EXPECT_EQ(crowd->unless_all(Crowd::State::kReading), "");
    return crowd;
  }

  void expect_old(const Crowd& crowd) const {
    EXPECT_EQ(daemon_.metric("cistern_l1_revoked_total") > 0, GetParam().is_taken);
    EXPECT_TRUE(crowd.wait_ended(kPatience));
    EXPECT_EQ(crowd.unless_all(Crowd::State::kDone), "");
    for (const Crowd::Outcome& outcome : crowd.outcomes()) {
      ASSERT_EQ(outcome.received, kOldBytes);
      ASSERT_EQ(outcome.version, old_version_);
    }
  }

  // In the end Redis has this many chunks, and none of the old version.
  void expect_chunks(std::size_t count) {
    const std::string old = to_hex(old_version_);
    std::vector<std::string> names;
    EXPECT_TRUE(eventually(
        [&] {
          names = redis_.keys("cistern:c:*");
          return names.size() == count && std::ranges::none_of(names, [&](const std::string& name) {
                   return name.find(old) != std::string::npos;
                 });
        },
        Millis(60'000)))
        << names.size() << " chunks, expected " << count << "; the old version is " << old;
  }

  RedisServer redis_;
  Daemon daemon_;
  Client client_;
  std::shared_ptr<const ExpectedValue> old_;
  Version old_version_ = 0;
};

TEST_P(Replaced, BySomethingElseItsReadersGetTheOldValueWhole) {
  const auto crowd = begin_reading();
  const std::vector<std::byte> now = value_of(22, kNewBytes);
  const auto replaced = std::chrono::steady_clock::now();
  const Stored stored = client_.put("value", now);

  // Who asks from here on gets the new one, also while the others still read.
  Client other({.endpoint = daemon_.endpoint()});
  unsigned asked = 0;
  do {
    const std::optional<Value> got = other.get("value");
    ASSERT_TRUE(got);
    ASSERT_EQ(got->version, stored.version);
    ASSERT_EQ(got->bytes, now);
    ++asked;
  } while (!crowd->wait_ended(Millis(200)) && asked < 1000);
  expect_old(*crowd);
  EXPECT_GT(std::chrono::steady_clock::now() - replaced, 3 * kGrace);
  expect_chunks((kNewBytes + kChunkBytes - 1) / kChunkBytes);
  EXPECT_EQ(other.get("value")->bytes, now);
}

TEST_P(Replaced, ByNothingItsReadersGetTheOldValueWhole) {
  const auto crowd = begin_reading();
  ASSERT_TRUE(client_.remove("value"));
  EXPECT_FALSE(client_.get("value"));
  expect_old(*crowd);
  EXPECT_FALSE(client_.get("value"));
  expect_chunks(0);
}

INSTANTIATE_TEST_SUITE_P(OldValue, Replaced, ::testing::ValuesIn(kPlaces),
                         [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace cistern::testing
