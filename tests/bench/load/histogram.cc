#include "tests/bench/load/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace cistern::bench {
namespace {

constexpr unsigned kSubBits = 6;
constexpr std::uint64_t kSub = 1u << kSubBits;
constexpr unsigned kMaxBits = 40;  // of nanoseconds
constexpr std::size_t kBuckets = (kMaxBits - kSubBits + 1) * kSub;

}  // namespace

Histogram::Histogram() : counts_(kBuckets) {}

// Values below 64 have a bucket each. Above, the six bits behind the highest one choose among the
// buckets of that power of two.
std::size_t Histogram::bucket(std::uint64_t value) {
  if (value < kSub) return static_cast<std::size_t>(value);
  const unsigned shift = static_cast<unsigned>(std::bit_width(value)) - kSubBits - 1;
  const std::uint64_t index = (shift + 1) * kSub + ((value >> shift) - kSub);
  return static_cast<std::size_t>(std::min<std::uint64_t>(index, kBuckets - 1));
}

std::uint64_t Histogram::upper_end(std::size_t bucket) {
  if (bucket < kSub) return bucket;
  const std::uint64_t shift = bucket / kSub - 1;
  return ((bucket % kSub + kSub + 1) << shift) - 1;
}

void Histogram::add(const Histogram& other) {
  for (std::size_t i = 0; i < kBuckets; ++i) counts_[i] += other.counts_[i];
  count_ += other.count_;
  sum_ += other.sum_;
  max_ = std::max(max_, other.max_);
}

void Histogram::clear() { *this = Histogram(); }

double Histogram::mean() const {
  return count_ == 0 ? 0 : static_cast<double>(sum_) / static_cast<double>(count_);
}

std::uint64_t Histogram::percentile(double share) const {
  const double wanted = std::ceil(share * static_cast<double>(count_));
  std::uint64_t seen = 0;
  for (std::size_t i = 0; i < kBuckets; ++i) {
    seen += counts_[i];
    if (seen > 0 && static_cast<double>(seen) >= wanted) return std::min(upper_end(i), max_);
  }
  return max_;
}

std::vector<std::pair<std::uint64_t, std::uint64_t>> Histogram::buckets() const {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> all;
  for (std::size_t i = 0; i < kBuckets; ++i) {
    if (counts_[i] != 0) all.emplace_back(upper_end(i), counts_[i]);
  }
  return all;
}

}  // namespace cistern::bench
