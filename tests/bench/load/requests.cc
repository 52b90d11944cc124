#include "tests/bench/load/requests.h"

#include <algorithm>

namespace cistern::bench {

void Requests::prepare(KeyIndex first, KeyIndex count) {
  first_ = first;
  text_.clear();
  begins_.clear();
  count = std::min(count, kMaxPrepared);
  begins_.reserve(count + 1);
  for (KeyIndex i = 0; i < count; ++i) {
    begins_.push_back(static_cast<std::uint32_t>(text_.size()));
    format_(text_, first + i);
  }
  begins_.push_back(static_cast<std::uint32_t>(text_.size()));
}

std::string_view Requests::of(KeyIndex key) {
  if (key >= first_ && key - first_ + std::size_t{1} < begins_.size()) {
    const std::uint32_t begin = begins_[key - first_];
    return std::string_view(text_).substr(begin, begins_[key - first_ + 1] - begin);
  }
  written_.clear();
  format_(written_, key);
  return written_;
}

}  // namespace cistern::bench
