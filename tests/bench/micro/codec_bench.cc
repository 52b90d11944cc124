// What the wire costs on each side of a small GET: the request and its answer, written and read.
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include "proto/digest.h"
#include "proto/messages.h"

namespace cistern::bench {
namespace {

constexpr std::string_view kKey = "k000000042";
constexpr std::uint32_t kChunkBytes = proto::kDefaultChunkBytes;

proto::GetRequest request() {
  return {.key = proto::as_bytes(kKey), .credit_bytes = proto::kMaxInlineBytes};
}

proto::ValueHead answer(const std::string& value) {
  proto::ValueHead head;
  head.flags = proto::kValueInline | proto::kInL1;
  head.size = value.size();
  head.version = 42;
  head.chunk_bytes = kChunkBytes;
  head.inline_bytes = proto::as_bytes(value);
  head.inline_digest = proto::ValueHasher::of_single(proto::chunk_digest(head.inline_bytes),
                                                     kChunkBytes, value.size());
  return head;
}

// A frame without its header, as a decoder gets it.
template <typename Message>
std::vector<std::byte> payload_of(const Message& message) {
  std::vector<std::byte> frame;
  proto::encode(frame, 1, message);
  frame.erase(frame.begin(), frame.begin() + proto::kHeaderBytes);
  return frame;
}

void encode_get(benchmark::State& state) {
  std::vector<std::byte> out;
  std::uint32_t id = 0;
  for ([[maybe_unused]] auto _ : state) {
    out.clear();
    proto::encode(out, ++id, request());
    benchmark::DoNotOptimize(out.data());
  }
}
BENCHMARK(encode_get);

void decode_get(benchmark::State& state) {
  const std::vector<std::byte> payload = payload_of(request());
  for ([[maybe_unused]] auto _ : state) {
    benchmark::DoNotOptimize(proto::decode_get(payload));
  }
}
BENCHMARK(decode_get);

// The argument is the value's size in bytes.
void encode_inline_value(benchmark::State& state) {
  const std::string value(static_cast<std::size_t>(state.range(0)), 'v');
  const proto::ValueHead head = answer(value);
  std::vector<std::byte> out;
  std::uint32_t id = 0;
  for ([[maybe_unused]] auto _ : state) {
    out.clear();
    proto::encode(out, ++id, head);
    benchmark::DoNotOptimize(out.data());
  }
}
BENCHMARK(encode_inline_value)->Arg(100)->Arg(1024);

void decode_inline_value(benchmark::State& state) {
  const std::string value(static_cast<std::size_t>(state.range(0)), 'v');
  const std::vector<std::byte> payload = payload_of(answer(value));
  for ([[maybe_unused]] auto _ : state) {
    benchmark::DoNotOptimize(proto::decode_value(payload));
  }
}
BENCHMARK(decode_inline_value)->Arg(100)->Arg(1024);

}  // namespace
}  // namespace cistern::bench
