// Durations in log-linear buckets, as HdrHistogram has them: 64 of equal width in each power of
// two, so that a percentile is off by 1.6 % at most, whatever its size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace cistern::bench {

class Histogram {
 public:
  Histogram();

  // Durations past the last bucket (18 minutes) are counted in it.
  void add(std::int64_t nanoseconds) {
    const std::uint64_t value = nanoseconds < 0 ? 0 : static_cast<std::uint64_t>(nanoseconds);
    ++counts_[bucket(value)];
    ++count_;
    sum_ += value;
    if (value > max_) max_ = value;
  }
  void add(const Histogram& other);
  void clear();

  std::uint64_t count() const { return count_; }
  double mean() const;  // 0 when there is nothing
  std::uint64_t max() const { return max_; }
  // The upper end of the bucket in which the given share of all durations is reached, but no more
  // than the largest one; 0 when there is nothing.
  std::uint64_t percentile(double share) const;
  // The upper ends, inclusive, of all buckets that hold something, and how much.
  std::vector<std::pair<std::uint64_t, std::uint64_t>> buckets() const;

 private:
  static std::size_t bucket(std::uint64_t value);
  static std::uint64_t upper_end(std::size_t bucket);

  std::vector<std::uint64_t> counts_;
  std::uint64_t count_ = 0;
  std::uint64_t sum_ = 0;
  std::uint64_t max_ = 0;
};

}  // namespace cistern::bench
