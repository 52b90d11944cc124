#include "tests/bench/load/value_check.h"

#include <algorithm>

namespace cistern::bench {

// Period by period, those that are wanted. What is past the expected end is counted, no more.
void ValueCheck::check(proto::Bytes bytes) {
  std::uint64_t position = received_;
  while (!bytes.empty() && position < expected_) {
    const std::uint64_t left =
        std::min(kPeriodBytes - position % kPeriodBytes, expected_ - position);
    const auto step = static_cast<std::size_t>(std::min<std::uint64_t>(left, bytes.size()));
    if (wants(position) && !corpus_->matches(key_, position, bytes.first(step))) is_wrong_ = true;
    position += step;
    bytes = bytes.subspan(step);
  }
}

std::string ValueCheck::error() const {
  if (received_ != expected_ || announced_ != expected_) {
    return std::to_string(received_) + " bytes arrived, " + std::to_string(announced_) +
           " were announced, and it has " + std::to_string(expected_);
  }
  return is_wrong_ ? "the bytes are not those that belong to it" : "";
}

}  // namespace cistern::bench
