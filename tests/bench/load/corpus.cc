#include "tests/bench/load/corpus.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace cistern::bench {
namespace {

constexpr std::uint64_t kSmallBytes = 64 * proto::kKiB;
// Large values have few phases, so that the digests of their chunks are soon all known.
constexpr std::size_t kLargePhases = 16;
constexpr std::size_t kPhaseStepBytes = 4096;

}  // namespace

std::uint64_t mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

Corpus::Corpus(std::string prefix, Sizes sizes)
    : prefix_(std::move(prefix)), sizes_(sizes), file_(memfd_create("corpus", MFD_CLOEXEC)) {
  constexpr std::size_t kBytes = 2 * kPeriodBytes;
  void* const mapped =
      ftruncate(file_.get(), kBytes) == 0
          ? mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0)
          : MAP_FAILED;
  if (mapped == MAP_FAILED) {
    throw std::runtime_error(std::string("no memory for the values' bytes: ") +
                             std::strerror(errno));
  }
  pattern_ = {static_cast<std::byte*>(mapped), kBytes};
  static_assert(kPeriodBytes % sizeof(std::uint64_t) == 0);
  for (std::size_t at = 0; at < kPeriodBytes; at += sizeof(std::uint64_t)) {
    proto::store_le(&pattern_[at], mix(at));
  }
  std::memcpy(&pattern_[kPeriodBytes], pattern_.data(), kPeriodBytes);
}

Corpus::~Corpus() { munmap(pattern_.data(), pattern_.size()); }

std::string Corpus::key(KeyIndex index) const {
  std::string digits = std::to_string(index);
  return prefix_ + std::string(kKeyDigits - std::min<std::size_t>(kKeyDigits, digits.size()), '0') +
         digits;
}

std::uint64_t Corpus::size(KeyIndex index) const {
  if (sizes_.min_bytes == sizes_.max_bytes) return sizes_.min_bytes;
  const double share = static_cast<double>(mix(index ^ 0x51CE'0000'0000) >> 11) * 0x1p-53;
  const double low = std::log(static_cast<double>(sizes_.min_bytes));
  const double high = std::log(static_cast<double>(sizes_.max_bytes));
  const double size = std::exp(low + share * (high - low));
  return std::clamp(static_cast<std::uint64_t>(size), sizes_.min_bytes, sizes_.max_bytes);
}

std::size_t Corpus::phase(KeyIndex index, std::uint64_t position) const {
  const std::uint64_t begin = sizes_.max_bytes <= kSmallBytes
                                  ? mix(index) % kPeriodBytes
                                  : index % kLargePhases * kPhaseStepBytes;
  return static_cast<std::size_t>((begin + position) % kPeriodBytes);
}

proto::Bytes Corpus::piece(KeyIndex index, std::uint64_t position, std::uint64_t at_most) const {
  const std::size_t at = phase(index, position);
  const std::uint64_t contiguous = pattern_.size() - at;
  return {&pattern_[at], static_cast<std::size_t>(std::min(at_most, contiguous))};
}

bool Corpus::matches(KeyIndex index, std::uint64_t position, proto::Bytes bytes) const {
  while (!bytes.empty()) {
    const proto::Bytes expected = piece(index, position, bytes.size());
    if (std::memcmp(expected.data(), bytes.data(), expected.size()) != 0) return false;
    bytes = bytes.subspan(expected.size());
    position += expected.size();
  }
  return true;
}

}  // namespace cistern::bench
