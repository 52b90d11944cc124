// What the kernel says of a daemon's memory, beside what the daemon accounts for: how dense values
// lie, and that memory which L1 gives up goes back.
//
// The daemon's own process is looked at (RssAnon and RssShmem), so that tests beside it count for
// nothing. A sanitizer's allocator keeps what is freed and marks what is not: in its builds sizes
// are small, what is accounted is judged, and what the kernel says is only printed.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "client/cpp/client.h"
#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/support/raw_client.h"
#include "tests/support/values.h"

namespace cistern::testing {
namespace {

constexpr double kMiB = 1024 * 1024;
const Millis kPatience(30'000);
constexpr unsigned kBatch = 512;

#ifdef CISTERN_SANITIZED
constexpr bool kJudgeKernel = false;
constexpr unsigned kDensityValues = 10'000;
constexpr double kFillBytes = 48 * kMiB;
#else
constexpr bool kJudgeKernel = true;
constexpr unsigned kDensityValues = 200'000;
constexpr double kFillBytes = 1024 * kMiB;
#endif

std::uint64_t seed() {
  const char* const given = std::getenv("CISTERN_TEST_SEED");
  const std::uint64_t value = given != nullptr ? std::stoull(given) : std::random_device()();
  std::printf("CISTERN_TEST_SEED=%llu\n", static_cast<unsigned long long>(value));
  return value;
}

class Memory : public ::testing::Test {
 protected:
  Memory()
      : daemon_({.config = "memory: {limit: 2GiB}\nl1: {max_bytes: 1536MiB}\n",
                 .server = "  workers: 2\n"}),
        raw_(daemon_.unix_endpoint()),
        client_({.endpoint = daemon_.unix_endpoint()}) {
    // What a connection and a first value take isn't theirs who come later.
    client_.put("first", value_of(1, 3 << 20));
    put_all({"first"}, value_of(1, 10));
    remove_all({"first"});
  }

  double used() {
    return static_cast<double>(daemon_.process().status_bytes("RssAnon") +
                               daemon_.process().status_bytes("RssShmem"));
  }
  double in_l1() const { return daemon_.metric("cistern_l1_bytes"); }
  double accounted() const { return daemon_.metric("cistern_ledger_accounted_bytes"); }

  // Many requests at a time; `encode` adds the one of an index to `out` under an id.
  void pipeline(
      std::size_t count, proto::Type answer,
      const std::function<void(proto::Out& out, std::uint32_t id, std::size_t i)>& encode) {
    for (std::size_t begin = 0; begin < count; begin += kBatch) {
      const std::size_t end = std::min<std::size_t>(count, begin + kBatch);
      proto::Out out;
      for (std::size_t i = begin; i < end; ++i)
        encode(out, static_cast<std::uint32_t>(i - begin + 1), i);
      raw_.send(out);
      raw_.receive_each(end - begin, answer);
    }
  }
  // One small value under all keys.
  void put_all(const std::vector<std::string>& keys, const std::vector<std::byte>& value) {
    proto::PutRequest put;
    put.size = value.size();
    put.is_inline = true;
    put.inline_bytes = value;
    put.inline_digest = proto::ValueHasher::of_single(proto::chunk_digest(value),
                                                      raw_.welcome().chunk_bytes, value.size());
    pipeline(keys.size(), proto::Type::kStored,
             [&](proto::Out& out, std::uint32_t id, std::size_t i) {
               put.key = proto::as_bytes(keys[i]);
               proto::encode(out, id, put);
             });
  }
  void remove_all(const std::vector<std::string>& keys) {
    pipeline(keys.size(), proto::Type::kDone,
             [&](proto::Out& out, std::uint32_t id, std::size_t i) {
               proto::encode(out, id, proto::Type::kDelete,
                             proto::KeyRequest{.key = proto::as_bytes(keys[i])});
             });
  }

  void expect_dense(std::size_t value_bytes) {
    std::vector<std::string> keys;
    for (unsigned i = 0; i < kDensityValues; ++i) keys.push_back("density:" + std::to_string(i));
    const double used_before = used();
    const double l1_before = in_l1();
    put_all(keys, value_of(1, value_bytes));
    EXPECT_EQ(daemon_.metric("cistern_l1_items"), kDensityValues);
    const double accounted = in_l1() - l1_before;
    // Until the allocator has returned what the requests took.
    const auto is_close = [&] {
      return std::abs(accounted - (used() - used_before)) <= 0.1 * (used() - used_before);
    };
    const bool close = eventually(is_close, kJudgeKernel ? kPatience : Millis(0));
    std::printf("%u values of %zu bytes: %.1f MiB accounted, memory used grew by %.1f MiB\n",
                kDensityValues, value_bytes, accounted / kMiB, (used() - used_before) / kMiB);
    EXPECT_GE(accounted, kDensityValues * (value_bytes + keys.back().size()));
    if (kJudgeKernel) {
      EXPECT_TRUE(close);
    }
  }

  // Fills L1, deletes half of it at random, then the rest. `fill` puts values until L1 has
  // kFillBytes more, and says under which keys.
  void expect_returned(const std::function<std::vector<std::string>(std::mt19937_64&)>& fill) {
    std::mt19937_64 random(seed());
    const double used_at_start = used();
    const double l1_at_start = in_l1();
    std::vector<std::string> keys = fill(random);
    report("full");
    EXPECT_GE(in_l1() - l1_at_start, kFillBytes * 0.9);
    EXPECT_EQ(daemon_.metric("cistern_l1_evictions_total"), 0);
    std::ranges::shuffle(keys, random);
    const auto half = keys.begin() + static_cast<std::ptrdiff_t>(keys.size() / 2);
    remove_all({keys.begin(), half});
    const auto near_accounts = [&] {
      return std::abs(used() - accounted()) <= 0.15 * accounted() + 64 * kMiB;
    };
    const bool near = eventually(near_accounts, kJudgeKernel ? kPatience : Millis(0));
    report("half deleted");
    if (kJudgeKernel) {
      EXPECT_TRUE(near);
    }
    remove_all({half, keys.end()});
    EXPECT_EQ(daemon_.metric("cistern_l1_items"), 0);
    // Each shard keeps a page or two of each size.
    EXPECT_LE(in_l1() - l1_at_start, 24 * kMiB);
    const bool back = eventually([&] { return used() - used_at_start <= 64 * kMiB; },
                                 kJudgeKernel ? kPatience : Millis(0));
    report("all deleted");
    if (kJudgeKernel) {
      EXPECT_TRUE(back);
    }
    EXPECT_EQ(daemon_.in_transfers(), 0);
  }

  void report(const char* when) {
    std::printf("%s: %.1f MiB used, %.1f MiB accounted\n", when, used() / kMiB, accounted() / kMiB);
  }

  Daemon daemon_;
  RawClient raw_;
  Client client_;
};

TEST_F(Memory, EmptyValuesTakeWhatIsAccounted) { expect_dense(0); }

TEST_F(Memory, SmallValuesTakeWhatIsAccounted) { expect_dense(100); }

TEST_F(Memory, ThatOfSmallValuesGoesBack) {
  expect_returned([&](std::mt19937_64&) {
    const std::vector<std::byte> value = value_of(1, 100);
    std::vector<std::string> keys;
    const double until = in_l1() + kFillBytes;
    while (in_l1() < until) {
      std::vector<std::string> more;
      for (unsigned i = 0; i < 100 * kBatch; ++i) {
        more.push_back("small:" + std::to_string(keys.size() + i));
      }
      put_all(more, value);
      keys.insert(keys.end(), more.begin(), more.end());
    }
    return keys;
  });
}

TEST_F(Memory, ThatOfLargeValuesGoesBack) {
  expect_returned([&](std::mt19937_64&) {
    const std::vector<std::byte> value = value_of(1, 8 << 20);
    std::vector<std::string> keys;
    for (double bytes = 0; bytes < kFillBytes; bytes += static_cast<double>(value.size())) {
      keys.push_back("large:" + std::to_string(keys.size()));
      client_.put(keys.back(), value);
    }
    return keys;
  });
}

TEST_F(Memory, ThatOfMixedValuesGoesBack) {
  expect_returned([&](std::mt19937_64& random) {
    const std::vector<std::byte> bytes = value_of(1, 8 << 20);
    std::uniform_real_distribution<double> exponent(std::log(100.0), std::log(8.0 * kMiB));
    std::vector<std::string> keys;
    for (double sum = 0; sum < kFillBytes;) {
      const auto size = static_cast<std::size_t>(std::exp(exponent(random)));
      keys.push_back("mixed:" + std::to_string(keys.size()));
      client_.put(keys.back(), std::span(bytes).first(size));
      sum += static_cast<double>(size);
    }
    return keys;
  });
}

// Another process of the container that takes memory until it is told to go.
class Hog {
 public:
  Hog(const Cgroup& cgroup, std::size_t bytes) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
    ProcessOptions options;
    options.stdin_fd = ends[0];
    options.cgroup = &cgroup;
    // It keeps what might be the last line, and there is no other.
    process_ = std::make_unique<Process>(std::vector<std::string>{"/usr/bin/tail"}, options);
    close(ends[0]);
    write_end_ = ends[1];
    const std::vector<char> some(1 << 16, 'x');
    for (std::size_t sent = 0; sent < bytes; sent += some.size()) {
      for (std::size_t at = 0; at < some.size();) {
        const ssize_t n = write(write_end_, some.data() + at, some.size() - at);
        if (n <= 0) throw std::runtime_error("the pipe to tail");
        at += static_cast<std::size_t>(n);
      }
    }
  }
  Hog(const Hog&) = delete;
  Hog& operator=(const Hog&) = delete;
  ~Hog() {
    process_.reset();
    close(write_end_);
  }

 private:
  std::unique_ptr<Process> process_;
  int write_end_ = -1;
};

TEST(MemoryOfAContainer, L1GivesWayToWhatOthersTakeAndRegrows) {
  if (!kJudgeKernel) GTEST_SKIP() << "a sanitizer's own memory would fill the container";
  const std::unique_ptr<Cgroup> cgroup = Cgroup::create(128 << 20);
  if (cgroup == nullptr) GTEST_SKIP() << "this machine doesn't let a test make a cgroup";
  Daemon daemon(
      {.config = "log: {level: info}\n", .server = "  workers: 2\n", .cgroup = cgroup.get()});
  const double limit = daemon.metric("cistern_memory_limit_bytes");
  const double budget = daemon.metric("cistern_l1_budget_bytes");
  EXPECT_EQ(limit, 96 * kMiB);
  EXPECT_GT(daemon.metric("cistern_memory_used_bytes", {"source=\"cgroup\""}), kMiB);
  EXPECT_GT(daemon.metric("cistern_ledger_bytes", {"account=\"base\""}), kMiB);
  EXPECT_LE(daemon.metric("cistern_ledger_bytes", {"account=\"base\""}),
            daemon.metric("cistern_ledger_budget_bytes", {"account=\"base\""}));
  Client client({.endpoint = daemon.unix_endpoint()});
  const std::vector<std::byte> value = value_of(1, 1 << 19);
  client.put("last", value);
  for (unsigned i = 0; i < 200; ++i) client.put("k" + std::to_string(i), value);
  client.put("last", value);
  EXPECT_GE(daemon.metric("cistern_l1_bytes"), budget * 0.9);
  EXPECT_EQ(daemon.metric("cistern_memory_shrinks_total"), 0);
  double ceiling = budget;
  {
    const Hog hog(*cgroup, 48 << 20);
    EXPECT_TRUE(eventually(
        [&] {
          return daemon.metric("cistern_memory_shrinks_total") > 0 &&
                 daemon.metric("cistern_memory_used_bytes") < limit;
        },
        kPatience))
        << daemon.admin("/metrics");
    ceiling = daemon.metric("cistern_l1_ceiling_bytes");
    EXPECT_LT(ceiling, budget * 0.9);
    EXPECT_LE(daemon.metric("cistern_l1_bytes"), ceiling);
    EXPECT_EQ(client.get("last")->bytes, value);
    // What is new finds its place below the ceiling.
    client.put("new", value);
    EXPECT_LE(daemon.metric("cistern_l1_bytes"), ceiling);
  }
  EXPECT_TRUE(
      eventually([&] { return daemon.metric("cistern_l1_ceiling_bytes") > ceiling + budget / 50; },
                 kPatience));
  EXPECT_EQ(cgroup->oom_kills(), 0u);
  EXPECT_EQ(daemon.stop(), 0);
}

}  // namespace
}  // namespace cistern::testing
