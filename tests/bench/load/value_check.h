// Whether a value that arrives is the one that belongs to its key.
#pragma once

#include <cstdint>
#include <string>

#include "tests/bench/load/corpus.h"

namespace cistern::bench {

// Lengths are checked always. Content: of one value in 64, or, of values longer than a period, of
// one period in 64, another one for each key: checking 1 GB at once would stop its reader for long.
class ValueCheck {
 public:
  // `number` counts values; `checks_all` has all content checked.
  void begin(const Corpus& corpus, KeyIndex key, std::uint64_t number, bool checks_all) {
    corpus_ = &corpus;
    key_ = key;
    expected_ = corpus.size(key);
    announced_ = received_ = 0;
    is_sampled_ = checks_all || (expected_ <= kPeriodBytes && (number & kSampleMask) == 0);
    is_wrong_ = false;
  }

  // How many bytes its sender says it has; the same as have arrived where it says nothing.
  void announce(std::uint64_t bytes) { announced_ = bytes; }
  // The next bytes, which follow those before.
  void add(proto::Bytes bytes) {
    if (is_sampled_ || expected_ > kPeriodBytes) check(bytes);
    received_ += bytes.size();
  }
  // Whether content is checked there.
  bool wants(std::uint64_t position) const {
    if (is_sampled_ || expected_ <= kPeriodBytes) return is_sampled_;
    return ((position / kPeriodBytes + key_) & kSampleMask) == 0;
  }

  std::uint64_t expected() const { return expected_; }
  std::uint64_t received() const { return received_; }
  // What is wrong with the whole value; empty: nothing.
  std::string error() const;

 private:
  static constexpr std::uint64_t kSampleMask = 63;
  void check(proto::Bytes bytes);

  const Corpus* corpus_ = nullptr;
  KeyIndex key_ = 0;
  bool is_sampled_ = false;
  bool is_wrong_ = false;
  std::uint64_t expected_ = 0;
  std::uint64_t announced_ = 0;
  std::uint64_t received_ = 0;
};

}  // namespace cistern::bench
