// Hashing: of chunks, hot in a near cache and cold from memory, whole and piece by piece; of the
// digests to a value's; of keys.
#include <algorithm>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include "proto/digest.h"
#include "proto/limits.h"
#include "server/base/types.h"

namespace cistern::bench {
namespace {

// Far more than any cache of the machine holds.
constexpr std::size_t kColdBytes = 256 * proto::kMiB;
constexpr std::size_t kPieceBytes = 64 * proto::kKiB;

std::vector<std::byte> content(std::size_t bytes) {
  std::vector<std::byte> all(bytes);
  for (std::size_t i = 0; i < bytes; ++i) all[i] = static_cast<std::byte>(i % 251);
  return all;
}

void set_bytes(benchmark::State& state, std::size_t each) {
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(each));
}

void chunk_digest_hot(benchmark::State& state) {
  const std::vector<std::byte> chunk = content(static_cast<std::size_t>(state.range(0)));
  for ([[maybe_unused]] auto _ : state) benchmark::DoNotOptimize(proto::chunk_digest(chunk));
  set_bytes(state, chunk.size());
}
BENCHMARK(chunk_digest_hot)->Arg(100)->Arg(1024)->Arg(16 * 1024)->Arg(proto::kDefaultChunkBytes);

void chunk_digest_cold(benchmark::State& state) {
  const std::vector<std::byte> all = content(kColdBytes);
  std::size_t at = 0;
  for ([[maybe_unused]] auto _ : state) {
    if (at + proto::kDefaultChunkBytes > all.size()) at = 0;
    benchmark::DoNotOptimize(
        proto::chunk_digest(proto::Bytes(all).subspan(at, proto::kDefaultChunkBytes)));
    at += proto::kDefaultChunkBytes;
  }
  set_bytes(state, proto::kDefaultChunkBytes);
}
BENCHMARK(chunk_digest_cold);

void chunk_hasher_by_pieces(benchmark::State& state) {
  const std::vector<std::byte> chunk = content(proto::kDefaultChunkBytes);
  proto::ChunkHasher hasher;
  for ([[maybe_unused]] auto _ : state) {
    for (std::size_t at = 0; at < chunk.size(); at += kPieceBytes) {
      hasher.add(proto::Bytes(chunk).subspan(at, std::min(kPieceBytes, chunk.size() - at)));
    }
    benchmark::DoNotOptimize(hasher.finish());
  }
  set_bytes(state, chunk.size());
}
BENCHMARK(chunk_hasher_by_pieces);

void value_digest_of_single(benchmark::State& state) {
  proto::ChunkDigest digest = 42;
  for ([[maybe_unused]] auto _ : state) {
    benchmark::DoNotOptimize(
        proto::ValueHasher::of_single(++digest, proto::kDefaultChunkBytes, 100));
  }
}
BENCHMARK(value_digest_of_single);

// The argument is the number of chunks.
void value_digest(benchmark::State& state) {
  for ([[maybe_unused]] auto _ : state) {
    proto::ValueHasher hasher;
    for (std::int64_t i = 0; i < state.range(0); ++i) {
      hasher.add(static_cast<proto::ChunkDigest>(i));
    }
    benchmark::DoNotOptimize(hasher.finish(proto::kDefaultChunkBytes, proto::kGiB));
  }
}
BENCHMARK(value_digest)->Arg(1)->Arg(64)->Arg(1024);

void hash_key(benchmark::State& state) {
  const std::string key(static_cast<std::size_t>(state.range(0)), 'k');
  for ([[maybe_unused]] auto _ : state) {
    benchmark::DoNotOptimize(base::hash_key(proto::as_bytes(key)));
  }
}
BENCHMARK(hash_key)->Arg(10)->Arg(100);

}  // namespace
}  // namespace cistern::bench
