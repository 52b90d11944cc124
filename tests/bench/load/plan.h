// Which request comes next: drawn beforehand, so that a run only looks it up.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "tests/bench/load/config.h"

namespace cistern::bench {

struct Operation {
  KeyIndex key = 0;
  bool is_put = false;
};

// Ranks 0 to n-1, rank r with a probability proportional to 1/(r+1)^exponent, by rejection from an
// integral of that (W. Hörmann, G. Derflinger: Rejection-Inversion to Generate Variates from
// Monotone Discrete Distributions, 1996): exact, and without a table of n sums.
class ZipfRanks {
 public:
  // `n` is 1 or more, `exponent` above 0.
  ZipfRanks(std::uint64_t n, double exponent);
  // `random` gives evenly distributed numbers from 0 to 1.
  template <typename Random>
  std::uint64_t draw(Random&& random) const {
    for (;;) {
      const double u = last_area_ + random() * (first_area_ - last_area_);
      if (const std::optional<std::uint64_t> rank = accept(u)) return *rank;
    }
  }

 private:
  double area(double x) const;          // the integral of x^-exponent
  double inverse_area(double y) const;  // area(inverse_area(y)) = y
  std::optional<std::uint64_t> accept(double u) const;

  double n_;
  double exponent_;
  double first_area_;
  double last_area_;
  double shortcut_;
};

class Plan {
 public:
  explicit Plan(const Config& config);

  // PUTs of the keys from `first` to before `last`, once each, in order.
  void begin_fill(KeyIndex first, KeyIndex last);
  // The configured mix, without an end or with `operations` of them.
  void begin_run();
  // Nothing comes any more.
  void stop() { mode_ = Mode::kStopped; }
  bool is_stopped() const { return mode_ == Mode::kStopped; }

  // Empty: there is nothing more.
  std::optional<Operation> next(unsigned connection);

 private:
  enum class Mode : std::uint8_t { kStopped, kFill, kRun };
  void draw(std::uint64_t count);
  KeyIndex scatter(std::uint64_t rank) const;

  const Config& config_;
  Mode mode_ = Mode::kStopped;
  std::vector<std::uint32_t> drawn_;    // keys, with kPut and kScan
  std::vector<std::uint32_t> cursors_;  // in drawn_, of each connection
  std::uint64_t step_;                  // between the keys of neighbouring ranks
  std::uint64_t runs_ = 0;
  std::uint64_t left_ = 0;  // of a fill or of `operations`
  std::uint64_t in_order_ = 0;
  KeyIndex next_fill_ = 0;
  KeyIndex next_scan_;
};

}  // namespace cistern::bench
