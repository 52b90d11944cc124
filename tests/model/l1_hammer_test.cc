// Many threads on few keys. Every value says what it must be, so that a mix of two is seen; a
// thread beside them watches the budget all the time.
#include <atomic>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "server/base/rng.h"
#include "tests/support/l1_fixture.h"

namespace cistern::testing {
namespace {

using l1::Cache;
using l1::Removal;

#ifdef CISTERN_SANITIZED
constexpr unsigned kSteps = 4'000;
#else
constexpr unsigned kSteps = 30'000;
#endif
constexpr unsigned kThreads = 4;
constexpr std::uint64_t kBudget = 4 * proto::kMiB;
constexpr std::uint64_t kHeld = proto::kMiB;

// The size follows from the version, the bytes from both.
std::size_t size_of(base::Version version) {
  return version % 4 == 0 ? version / 4 % 200'000 : version / 4 % 2'000;
}
std::string value_of(base::Version version) { return pattern(version, size_of(version)); }

class Hammer {
 public:
  // With `moves_ceiling` somebody also lowers and raises it all the time, and has L1 shrink.
  explicit Hammer(std::uint64_t seed, bool moves_ceiling = false)
      : seed_(seed), moves_ceiling_(moves_ceiling), l1_(kBudget, 4, Duration{0}, kHeld) {}

  void run() {
    std::atomic<bool> stop{false};
    std::thread watcher([&] {
      std::mt19937_64 random(seed_);
      while (!stop) {
        if (moves_ceiling_) move_ceiling(random());
        const l1::Stats stats = l1_.cache.stats();
        if (stats.used_bytes > kBudget) ++faults_;
        if (l1_.ledger.used(base::Account::kHeld) > kHeld) ++faults_;
        std::this_thread::yield();
      }
    });
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < kThreads; ++i) {
      threads.emplace_back([this, i] { work(seed_ + i); });
    }
    for (std::thread& thread : threads) thread.join();
    stop = true;
    watcher.join();
    l1_.cache.set_ceiling(kBudget);
    check_the_end();
  }

 private:
  void move_ceiling(std::uint64_t random) {
    l1_.cache.set_ceiling(kBudget / 8 + random % kBudget);
    const TimePoint now{std::chrono::milliseconds(clock_)};
    for (unsigned i = 0; i < random % 64 && l1_.cache.shrink(64 * proto::kKiB, now); ++i) {
    }
  }

  void work(std::uint64_t seed) {
    std::mt19937_64 random(seed);
    std::vector<base::ValuePtr> reading;
    for (unsigned i = 0; i < kSteps; ++i) {
      const std::string key = "key" + std::to_string(random() % 300);
      const TimePoint now{std::chrono::milliseconds(++clock_)};
      switch (random() % 8) {
        case 0:
        case 1:
          put(key, random(), now);
          break;
        case 2:
          l1_.cache.erase(proto::as_bytes(key), L1::hash(key), {}, Removal::kDeleted, now);
          break;
        case 3:
          l1_.cache.sweep(20, now);
          break;
        case 4:
          touch(key, random() % 2000, now);
          break;
        default:
          read(key, now, reading);
          break;
      }
      if (reading.size() > 4) reading.erase(reading.begin());
    }
  }

  void put(const std::string& key, base::Version version, TimePoint now) {
    const std::string content = value_of(version);
    base::ValueMeta meta;
    meta.version = version;
    meta.size = content.size();
    meta.chunk_bytes = 64 * 1024;
    if (version % 3 == 0) meta.expires_at_ms = 1'000'000 + version % 1000;
    l1::NewEntry entry;
    entry.meta = &meta;
    l1::Room room;
    if (Cache::is_small(key.size(), 0, content.size())) {
      entry.small = proto::as_bytes(content);
      entry.small_digest = proto::chunk_digest(entry.small);
    } else {
      const std::uint64_t cost = base::ChunkedValue::cost_for(content.size(), meta.chunk_bytes, 0);
      room = l1_.cache.reserve(proto::as_bytes(key), L1::hash(key),
                               cost + l1_.cache.entry_overhead(key.size()), now);
      if (!room) {
        ++no_room_;
        return;
      }
      entry.large = chunked(meta, content);
      if (entry.large->cost_bytes() > cost) ++faults_;
    }
    const auto outcome =
        l1_.cache.insert(proto::as_bytes(key), L1::hash(key), entry, std::move(room), {},
                         l1::Source::kFill, Duration{0}, now, 1'000'000);
    ++(outcome == Cache::Outcome::kStored ? stored_ : no_room_);
  }

  void touch(const std::string& key, std::uint64_t ttl_ms, TimePoint now) {
    const auto peek = l1_.cache.peek(proto::as_bytes(key), L1::hash(key), now);
    if (!peek) return;
    l1_.cache.set_expiry(proto::as_bytes(key), L1::hash(key), peek->version, 1'000'000 + ttl_ms,
                         now, 1'000'000);
  }

  void read(const std::string& key, TimePoint now, std::vector<base::ValuePtr>& reading) {
    const auto found =
        l1_.cache.find(proto::as_bytes(key), L1::hash(key), now, [this](const l1::SmallView& view) {
          const bool right = proto::as_text(view.bytes) == value_of(view.version) &&
                             view.digest == proto::chunk_digest(view.bytes);
          if (!right) ++faults_;
        });
    if (found.large == nullptr) return;
    const std::string content = content_of(*found.large);
    if (content != "revoked" && content != value_of(found.large->meta().version)) ++faults_;
    reading.push_back(found.large);
  }

  void check_the_end() {
    EXPECT_EQ(faults_, 0u);
    const l1::Stats stats = l1_.cache.stats();
    EXPECT_EQ(stats.inserted_by_fill, stored_);
    EXPECT_TRUE(L1::reconciles(stats));
    EXPECT_EQ(stats.reserved_bytes, 0u);
    EXPECT_EQ(l1_.ledger.used(base::Account::kHeld), 0u);
    EXPECT_GT(L1::removed(stats, Removal::kEvicted), 0u);
    // All of it can be had again: nothing has leaked from the account.
    const l1::Room all = l1_.cache.reserve(proto::as_bytes("x"), 0, kBudget, l1_.now);
    EXPECT_TRUE(all);
    EXPECT_EQ(l1_.cache.stats().items, 0u);
    EXPECT_EQ(l1_.cache.stats().used_bytes, kBudget);
    EXPECT_TRUE(L1::reconciles(l1_.cache.stats()));
  }

  const std::uint64_t seed_;
  const bool moves_ceiling_;
  L1 l1_;
  std::atomic<std::int64_t> clock_{1'000'000};
  std::atomic<std::uint64_t> faults_{0}, stored_{0}, no_room_{0};
};

TEST(CacheHammer, ThreadsSeeWholeValuesWithinTheBudget) {
  const std::uint64_t seed = base::random_seed();
  SCOPED_TRACE("seed " + std::to_string(seed));
  const std::uint64_t before = base::Chunk::live_bytes();
  Hammer(seed).run();
  EXPECT_EQ(base::Chunk::live_bytes(), before);
}

TEST(CacheHammer, ACeilingThatMovesTakesNothingFromRoomsAndLosesNothing) {
  const std::uint64_t seed = base::random_seed();
  SCOPED_TRACE("seed " + std::to_string(seed));
  Hammer(seed, true).run();
}

}  // namespace
}  // namespace cistern::testing
