// Requests written beforehand: one after the other in one area of memory, so that issuing one is
// copying it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "tests/bench/load/corpus.h"

namespace cistern::bench {

// Past so many keys the area would take more memory than it is worth; what isn't in it is written
// when it's asked for.
inline constexpr KeyIndex kMaxPrepared = 1u << 21;

class Requests {
 public:
  // Appends the request for a key.
  using Format = std::function<void(std::string& out, KeyIndex key)>;

  explicit Requests(Format format) : format_(std::move(format)) {}

  // Writes those of the keys from `first` on, at most kMaxPrepared.
  void prepare(KeyIndex first, KeyIndex count);
  // Valid until the next call.
  std::string_view of(KeyIndex key);
  // Has the request brought near: popular or not, most of them are in no near cache.
  void prefetch(KeyIndex key) const {
    if (is_prepared(key) && stride_ != 0) {
      __builtin_prefetch(text_.data() + std::size_t{key - first_} * stride_);
    }
  }

 private:
  bool is_prepared(KeyIndex key) const { return key >= first_ && key - first_ < prepared_; }

  Format format_;
  KeyIndex first_ = 0;
  KeyIndex prepared_ = 0;
  std::size_t stride_ = 0;  // bytes of each, when all are as long; else 0
  std::string text_;
  std::vector<std::uint32_t> begins_;  // one more than there are requests
  std::string written_;
};

}  // namespace cistern::bench
