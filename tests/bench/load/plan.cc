#include "tests/bench/load/plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

namespace cistern::bench {
namespace {

constexpr std::uint64_t kDrawn = 1u << 20;
// With a number of operations each is drawn for itself, up to this many (256 MiB).
constexpr std::uint64_t kMaxDrawn = 1u << 26;

constexpr std::uint32_t kPut = 1u << 31;
constexpr std::uint32_t kScan = 1u << 30;
static_assert(kMaxKeys < kScan);

// Every process that scans has keys of its own, if its seed is.
constexpr std::uint64_t kScanRanges = 100;
constexpr KeyIndex kScanRangeKeys = 4'000'000;

}  // namespace

ZipfRanks::ZipfRanks(std::uint64_t n, double exponent)
    : n_(static_cast<double>(n)), exponent_(exponent) {
  first_area_ = area(1.5) - 1;
  last_area_ = area(n_ + 0.5);
  shortcut_ = 2 - inverse_area(area(2.5) - std::pow(2.0, -exponent_));
}

double ZipfRanks::area(double x) const {
  const double log_x = std::log(x);
  const double power = (1 - exponent_) * log_x;
  return std::abs(power) < 1e-8 ? log_x : std::expm1(power) / (1 - exponent_);
}

double ZipfRanks::inverse_area(double y) const {
  const double scaled = std::max(-1.0, (1 - exponent_) * y);
  return std::exp(std::abs(scaled) < 1e-8 ? y : std::log1p(scaled) / (1 - exponent_));
}

std::optional<std::uint64_t> ZipfRanks::accept(double u) const {
  const double x = inverse_area(u);
  const double k = std::clamp(std::floor(x + 0.5), 1.0, n_);
  if (k - x > shortcut_ && u < area(k + 0.5) - std::pow(k, -exponent_)) return std::nullopt;
  return static_cast<std::uint64_t>(k) - 1;
}

Plan::Plan(const Config& config)
    : config_(config),
      cursors_(config.connections),
      next_scan_(kFirstScanKey +
                 static_cast<KeyIndex>(config.seed % kScanRanges) * kScanRangeKeys) {
  // Neighbours in popularity are no neighbours in the order of the fill.
  step_ = std::max<std::uint64_t>(1, static_cast<std::uint64_t>(config.keys * 0.618));
  while (std::gcd(step_, std::uint64_t{config.keys}) != 1) ++step_;
  if (config.operations == 0) draw(kDrawn);
}

KeyIndex Plan::scatter(std::uint64_t rank) const {
  return config_.first_key + static_cast<KeyIndex>(rank * step_ % config_.keys);
}

void Plan::draw(std::uint64_t count) {
  std::mt19937_64 engine(mix(config_.seed + runs_ * 1'000'003));
  const auto random = [&] { return static_cast<double>(engine() >> 11) * 0x1p-53; };
  std::optional<ZipfRanks> zipf;
  if (config_.zipf > 0) zipf.emplace(config_.keys, config_.zipf);
  drawn_.resize(count);
  for (std::uint32_t& entry : drawn_) {
    entry = zipf ? scatter(zipf->draw(random))
                 : config_.first_key + static_cast<KeyIndex>(engine() % config_.keys);
    if (config_.scan_share > 0 && random() < config_.scan_share) entry |= kScan;
    if (config_.put_share > 0 && random() < config_.put_share) entry |= kPut;
  }
  for (std::size_t i = 0; i < cursors_.size(); ++i) {
    cursors_[i] = static_cast<std::uint32_t>(i * count / cursors_.size());
  }
}

void Plan::begin_fill(KeyIndex first, KeyIndex last) {
  mode_ = Mode::kFill;
  next_fill_ = first;
  left_ = last - first;
}

void Plan::begin_run() {
  mode_ = Mode::kRun;
  ++runs_;
  left_ = config_.operations == 0 ? std::numeric_limits<std::uint64_t>::max() : config_.operations;
  if (config_.operations != 0) draw(std::min(config_.operations, kMaxDrawn));
}

std::optional<Operation> Plan::next(unsigned connection) {
  if (mode_ == Mode::kStopped || left_ == 0) return std::nullopt;
  --left_;
  if (mode_ == Mode::kFill) return Operation{next_fill_++, true};
  // With a number of operations all connections share one cursor, so that each is used once.
  std::uint32_t& cursor = cursors_[config_.operations == 0 ? connection : 0];
  const std::uint32_t entry = drawn_[cursor];
  if (++cursor == drawn_.size()) cursor = 0;
  Operation operation{entry & ~(kPut | kScan), (entry & kPut) != 0};
  if ((entry & kScan) != 0) {
    operation.key = next_scan_++;
  } else if (config_.is_sequential) {
    operation.key = config_.first_key + static_cast<KeyIndex>(in_order_++ % config_.keys);
  }
  return operation;
}

}  // namespace cistern::bench
