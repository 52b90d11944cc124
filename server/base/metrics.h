// What a worker counts while it serves, from the table metrics.def. Plain counters with one writer,
// summed over the workers when somebody asks: a request takes no lock and no atomic addition.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <span>
#include <string_view>

#include "codec/fault.h"
#include "server/base/loss.h"
#include "server/base/types.h"

namespace cistern::base {

enum class Op : std::uint8_t {
#define CISTERN_OP(enumerator, label) enumerator,
#include "server/base/metrics.def"
};
enum class L2Op : std::uint8_t {
#define CISTERN_L2_OP(enumerator, label) enumerator,
#include "server/base/metrics.def"
};
enum class L2Result : std::uint8_t {
#define CISTERN_L2_RESULT(enumerator, label) enumerator,
#include "server/base/metrics.def"
};

inline constexpr std::size_t kOpCount = 0
#define CISTERN_OP(enumerator, label) +1
#include "server/base/metrics.def"
    ;
inline constexpr std::size_t kL2OpCount = 0
#define CISTERN_L2_OP(enumerator, label) +1
#include "server/base/metrics.def"
    ;
inline constexpr std::size_t kL2ResultCount = 0
#define CISTERN_L2_RESULT(enumerator, label) +1
#include "server/base/metrics.def"
    ;
inline constexpr std::size_t kStatusCount = 0
#define CISTERN_STATUS(enumerator, code, name, retryable, text) +1
#include "proto/status.def"
#undef CISTERN_STATUS
    ;

// The labels.
std::string_view name(Op op);
std::string_view name(L2Op op);
std::string_view name(L2Result result);

// Place of `status` in proto::all_statuses().
std::size_t status_index(Status status);

// One writer, any number of readers.
class Counter {
 public:
  void add(std::uint64_t n = 1) { value_.store(get() + n, std::memory_order_relaxed); }
  std::uint64_t get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

class Gauge {
 public:
  void add(std::int64_t n) { value_.store(get() + n, std::memory_order_relaxed); }
  std::int64_t get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::int64_t> value_{0};
};

// Upper bounds of the latency buckets, seconds, inclusive; one bucket more has no bound. 1, 2.5, 5
// in each decade from 10 us, then 10, 30 and 60 s.
inline constexpr std::array<double, 21> kLatencyBounds = {
    10e-6, 25e-6,  50e-6,  100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3,
    50e-3, 100e-3, 250e-3, 500e-3, 1,      2.5,    5,    10,     30,   60};

class Histogram {
 public:
  // `times` events that took so long each. Negative counts as 0.
  void record(Duration latency, std::uint64_t times = 1);
  // The counts of the buckets alone, not cumulative.
  std::uint64_t count(std::size_t bucket) const { return counts_[bucket].get(); }
  double sum_seconds() const;
  static constexpr std::size_t kBuckets = kLatencyBounds.size() + 1;

 private:
  std::array<Counter, kBuckets> counts_;
  Counter sum_ns_;
};

// One for each worker, written on its thread alone; read by any.
struct alignas(64) WorkerMetrics {
  // A request that ended with `status`; `latency` from its first byte to its last answer.
  void count_request(Op op, Status status, Duration latency) {
    count_request(op, status);
    record_latency(op, latency);
  }
  // The same in two steps, the second one for `times` requests at once.
  void count_request(Op op, Status status);
  void record_latency(Op op, Duration latency, std::uint64_t times = 1);
  // A PUT that was refused; beside count_request.
  void count_put_rejected(Status status);
  void count_l2(L2Op op, L2Result result, Duration latency);
  // A value that was found lost.
  void count_lost(Loss why) { lost[static_cast<std::size_t>(why)].add(); }
  // A chunk of the second tier, or of a writer, that could not be decoded.
  void count_decode_fault(codec::Fault fault);

  std::array<std::array<Counter, kStatusCount>, kOpCount> requests;  // by status_index()
  std::array<Histogram, kOpCount> request_latency;
  std::array<Counter, kStatusCount> puts_rejected;
  std::array<std::array<Counter, kL2ResultCount>, kL2OpCount> l2;
  std::array<Histogram, kL2OpCount> l2_latency;
  std::array<Counter, kLossCount> lost;  // by Loss
  std::array<Counter, codec::kFaultCount> decode_faults;
#define CISTERN_COUNTER(member, metric, help) Counter member;
#define CISTERN_GAUGE(member, metric, help) Gauge member;
#include "server/base/metrics.def"
};

// The single counters and gauges, for who publishes them.
struct CounterInfo {
  std::string_view metric;
  std::string_view help;
  Counter WorkerMetrics::*member;
};
struct GaugeInfo {
  std::string_view metric;
  std::string_view help;
  Gauge WorkerMetrics::*member;
};
std::span<const CounterInfo> all_counters();
std::span<const GaugeInfo> all_gauges();

}  // namespace cistern::base
