#include "tests/bench/load/totals.h"

#include <time.h>

#include <nlohmann/json.hpp>

namespace cistern::bench {
namespace {

constexpr std::int64_t kNsPerSecond = 1'000'000'000;

std::int64_t read_clock(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return time.tv_sec * kNsPerSecond + time.tv_nsec;
}

double microseconds(std::uint64_t nanoseconds) { return static_cast<double>(nanoseconds) / 1000; }

nlohmann::json summary(const Histogram& histogram) {
  return {{"count", histogram.count()},
          {"mean", histogram.mean() / 1000},
          {"p50", microseconds(histogram.percentile(0.5))},
          {"p90", microseconds(histogram.percentile(0.9))},
          {"p99", microseconds(histogram.percentile(0.99))},
          {"p999", microseconds(histogram.percentile(0.999))},
          {"max", microseconds(histogram.max())}};
}

}  // namespace

std::int64_t now_ns() { return read_clock(CLOCK_MONOTONIC); }
std::int64_t cpu_ns() { return read_clock(CLOCK_PROCESS_CPUTIME_ID); }

void Totals::add(const Totals& other) {
  gets += other.gets;
  hits += other.hits;
  misses += other.misses;
  puts += other.puts;
  refused += other.refused;
  errors += other.errors;
  if (first_error.empty()) first_error = other.first_error;
  bytes_in += other.bytes_in;
  bytes_out += other.bytes_out;
  value_bytes += other.value_bytes;
  latency.add(other.latency);
  first_byte.add(other.first_byte);
}

nlohmann::json report(const Totals& totals, double seconds, double cpu_seconds) {
  nlohmann::json buckets = nlohmann::json::array();
  for (const auto& [upper_end, count] : totals.latency.buckets()) {
    buckets.push_back({microseconds(upper_end), count});
  }
  return {{"seconds", seconds},
          {"operations", totals.operations()},
          {"gets", totals.gets},
          {"hits", totals.hits},
          {"misses", totals.misses},
          {"puts", totals.puts},
          {"refused", totals.refused},
          {"errors", totals.errors},
          {"first_error", totals.first_error},
          {"bytes_in", totals.bytes_in},
          {"bytes_out", totals.bytes_out},
          {"value_bytes", totals.value_bytes},
          {"busy", seconds > 0 ? cpu_seconds / seconds : 0},
          {"cpu_seconds", cpu_seconds},
          {"latency_us", summary(totals.latency)},
          {"first_byte_us", summary(totals.first_byte)},
          {"histogram", std::move(buckets)}};
}

}  // namespace cistern::bench
