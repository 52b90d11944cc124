#include "tests/bench/load/requests.h"

#include <algorithm>

namespace cistern::bench {

void Requests::prepare(KeyIndex first, KeyIndex count) {
  first_ = first;
  text_.clear();
  begins_.clear();
  prepared_ = std::min(count, kMaxPrepared);
  begins_.reserve(prepared_ + std::size_t{1});
  for (KeyIndex i = 0; i < prepared_; ++i) {
    begins_.push_back(static_cast<std::uint32_t>(text_.size()));
    format_(text_, first + i);
  }
  begins_.push_back(static_cast<std::uint32_t>(text_.size()));
  stride_ = prepared_ == 0 ? 0 : begins_[1];
  for (KeyIndex i = 0; i < prepared_; ++i) {
    if (begins_[i + 1] - begins_[i] != stride_) stride_ = 0;
  }
}

std::string_view Requests::of(KeyIndex key) {
  if (is_prepared(key)) {
    const std::size_t index = key - first_;
    if (stride_ != 0) return {text_.data() + index * stride_, stride_};
    return {text_.data() + begins_[index], begins_[index + 1] - begins_[index]};
  }
  written_.clear();
  format_(written_, key);
  return written_;
}

}  // namespace cistern::bench
