#include "server/base/metrics.h"

#include <algorithm>

#include "server/base/check.h"

namespace cistern::base {
namespace {

constexpr std::array<std::string_view, kOpCount> kOpNames = {
#define CISTERN_OP(enumerator, label) label,
#include "server/base/metrics.def"
};
constexpr std::array<std::string_view, kL2OpCount> kL2OpNames = {
#define CISTERN_L2_OP(enumerator, label) label,
#include "server/base/metrics.def"
};
constexpr std::array<std::string_view, kL2ResultCount> kL2ResultNames = {
#define CISTERN_L2_RESULT(enumerator, label) label,
#include "server/base/metrics.def"
};

constexpr std::array<std::uint16_t, kStatusCount> kStatusCodes = {
#define CISTERN_STATUS(enumerator, code, name, retryable, text) code,
#include "proto/status.def"
#undef CISTERN_STATUS
};
constexpr std::uint8_t kNoStatus = 255;
static_assert(kStatusCount < kNoStatus);
constexpr std::size_t kCodeCount = std::ranges::max(kStatusCodes) + std::size_t{1};

constexpr std::array<std::uint8_t, kCodeCount> kIndexOfCode = [] {
  std::array<std::uint8_t, kCodeCount> index{};
  index.fill(kNoStatus);
  for (std::size_t i = 0; i < kStatusCount; ++i) {
    index[kStatusCodes[i]] = static_cast<std::uint8_t>(i);
  }
  return index;
}();

constexpr CounterInfo kCounters[] = {
#define CISTERN_COUNTER(member, metric, help) {metric, help, &WorkerMetrics::member},
#include "server/base/metrics.def"
};
constexpr GaugeInfo kGauges[] = {
#define CISTERN_GAUGE(member, metric, help) {metric, help, &WorkerMetrics::member},
#include "server/base/metrics.def"
};

template <typename Enum>
std::size_t at(Enum value) {
  return static_cast<std::size_t>(value);
}

}  // namespace

std::string_view name(Op op) { return kOpNames[at(op)]; }
std::string_view name(L2Op op) { return kL2OpNames[at(op)]; }
std::string_view name(L2Result result) { return kL2ResultNames[at(result)]; }

std::size_t status_index(Status status) {
  const std::size_t code = at(status);
  CHECK(code < kCodeCount && kIndexOfCode[code] != kNoStatus);
  return kIndexOfCode[code];
}

void Histogram::record(Duration latency, std::uint64_t times) {
  const auto ns = std::max<Duration::rep>(latency.count(), 0);
  const double seconds = static_cast<double>(ns) * 1e-9;
  const auto bucket = std::ranges::lower_bound(kLatencyBounds, seconds) - kLatencyBounds.begin();
  counts_[static_cast<std::size_t>(bucket)].add(times);
  sum_ns_.add(times * static_cast<std::uint64_t>(ns));
}

double Histogram::sum_seconds() const { return static_cast<double>(sum_ns_.get()) * 1e-9; }

void WorkerMetrics::count_request(Op op, Status status) {
  requests[at(op)][status_index(status)].add();
}

void WorkerMetrics::record_latency(Op op, Duration latency, std::uint64_t times) {
  request_latency[at(op)].record(latency, times);
}

void WorkerMetrics::count_put_rejected(Status status) { puts_rejected[status_index(status)].add(); }

void WorkerMetrics::count_l2(L2Op op, L2Result result, Duration latency) {
  l2[at(op)][at(result)].add();
  l2_latency[at(op)].record(latency);
}

void WorkerMetrics::count_decode_fault(codec::Fault fault) { decode_faults[at(fault)].add(); }

std::span<const CounterInfo> all_counters() { return kCounters; }
std::span<const GaugeInfo> all_gauges() { return kGauges; }

}  // namespace cistern::base
