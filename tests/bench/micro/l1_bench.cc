// L1 without a wire: hits and puts of small values, by one thread. Keys are taken in a scattered
// order, so that most of them are in no near cache, as in service.
#include <chrono>
#include <stdexcept>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include "server/base/ledger.h"
#include "server/l1/cache.h"

namespace cistern::bench {
namespace {

constexpr std::size_t kKeys = 200'000;
constexpr std::size_t kStep = 123'457;  // has no factor in common with the number of keys
constexpr std::uint64_t kRoomyBytes = 512 * proto::kMiB;
constexpr std::uint64_t kTightBytes = 16 * proto::kMiB;  // for less than half of the keys
constexpr std::uint64_t kWallMs = 1'700'000'000'000;

class Store {
 public:
  Store(std::uint64_t budget_bytes, std::size_t value_bytes)
      : ledger_(base::Ledger::Budgets{}),
        cache_(l1::Options{.budget_bytes = budget_bytes}, ledger_),
        value_(value_bytes, 'v'),
        digest_(proto::chunk_digest(proto::as_bytes(value_))) {
    keys_.reserve(kKeys);
    for (std::size_t i = 0; i < kKeys; ++i) keys_.push_back("k" + std::to_string(100'000'000 + i));
    for (std::size_t i = 0; i < kKeys; ++i) put(i);
  }

  void put(std::size_t index) {
    base::ValueMeta meta;
    meta.size = value_.size();
    meta.version = ++version_;
    meta.chunk_bytes = proto::kDefaultChunkBytes;
    l1::NewEntry entry;
    entry.meta = &meta;
    entry.small = proto::as_bytes(value_);
    entry.small_digest = digest_;
    const proto::Bytes key = proto::as_bytes(keys_[index]);
    if (cache_.insert(key, base::hash_key(key), entry, {}, {}, l1::Source::kPut, {}, now_,
                      kWallMs) != l1::Cache::Outcome::kStored) {
      throw std::runtime_error("a value was not stored");
    }
  }

  // Copies the value, as a session does.
  bool get(std::size_t index) {
    const proto::Bytes key = proto::as_bytes(keys_[index]);
    return cache_
        .find(key, base::hash_key(key), now_,
              [&](const l1::SmallView& view) {
                copy_.assign(view.bytes.begin(), view.bytes.end());
                benchmark::DoNotOptimize(copy_.data());
              })
        .hit;
  }

  std::uint64_t items() const { return cache_.stats().items; }

 private:
  base::Ledger ledger_;
  l1::Cache cache_;
  std::string value_;
  proto::ChunkDigest digest_;
  std::vector<std::string> keys_;
  std::vector<std::byte> copy_;
  base::Version version_ = 0;
  base::TimePoint now_ = std::chrono::steady_clock::now();
};

// The argument of all of them is the value's size in bytes.
void l1_hit(benchmark::State& state) {
  Store store(kRoomyBytes, static_cast<std::size_t>(state.range(0)));
  std::size_t at = 0;
  for ([[maybe_unused]] auto _ : state) {
    at = (at + kStep) % kKeys;
    if (!store.get(at)) state.SkipWithError("a miss");
  }
}
BENCHMARK(l1_hit)->Arg(100)->Arg(1024);

void l1_put_over_old(benchmark::State& state) {
  Store store(kRoomyBytes, static_cast<std::size_t>(state.range(0)));
  std::size_t at = 0;
  for ([[maybe_unused]] auto _ : state) {
    at = (at + kStep) % kKeys;
    store.put(at);
  }
}
BENCHMARK(l1_put_over_old)->Arg(100)->Arg(1024);

void l1_put_with_eviction(benchmark::State& state) {
  Store store(kTightBytes, static_cast<std::size_t>(state.range(0)));
  if (store.items() >= kKeys) state.SkipWithError("nothing was evicted");
  std::size_t at = 0;
  for ([[maybe_unused]] auto _ : state) {
    at = (at + kStep) % kKeys;
    store.put(at);
  }
}
BENCHMARK(l1_put_with_eviction)->Arg(100)->Arg(1024);

}  // namespace
}  // namespace cistern::bench
