// What is stored: keys, and values whose size and bytes are functions of the key, so that a process
// can verify what another one has written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "proto/bytes.h"
#include "proto/limits.h"
#include "tests/bench/load/socket.h"

namespace cistern::bench {

using KeyIndex = std::uint32_t;

// Keys are a prefix and this many decimal digits.
inline constexpr unsigned kKeyDigits = 9;
inline constexpr KeyIndex kMaxKeys = 500'000'000;
// Keys from here on are those that a scan runs through.
inline constexpr KeyIndex kFirstScanKey = kMaxKeys;

// Values repeat with this period. It's Cistern's default chunk, whose digests are then few.
inline constexpr std::size_t kPeriodBytes = proto::kDefaultChunkBytes;

// A well mixed function of `x` (SplitMix64's finisher).
std::uint64_t mix(std::uint64_t x);

// Equal: every value is of this size. Else the logarithm of the size is uniform between the two.
struct Sizes {
  std::uint64_t min_bytes = 100;
  std::uint64_t max_bytes = 100;
};

class Corpus {
 public:
  // Throws std::runtime_error when there is no memory.
  Corpus(std::string prefix, Sizes sizes);
  ~Corpus();
  Corpus(const Corpus&) = delete;
  Corpus& operator=(const Corpus&) = delete;

  std::string key(KeyIndex index) const;
  std::uint64_t size(KeyIndex index) const;
  std::uint64_t max_bytes() const { return sizes_.max_bytes; }

  // The bytes of the value from `position` on: at least one, at most `at_most`. They stay where
  // they are as long as the corpus lives.
  proto::Bytes piece(KeyIndex index, std::uint64_t position, std::uint64_t at_most) const;
  // Where in its period a position of a value lies. Pieces of one length at one phase are the same.
  std::size_t phase(KeyIndex index, std::uint64_t position) const;
  proto::Bytes period() const { return proto::Bytes(pattern_).first(kPeriodBytes); }
  // The file that pieces lie in, for sendfile, and where in it one begins.
  int file() const { return file_.get(); }
  std::int64_t offset_of(const std::byte* piece) const { return piece - pattern_.data(); }
  bool matches(KeyIndex index, std::uint64_t position, proto::Bytes bytes) const;

 private:
  std::string prefix_;
  Sizes sizes_;
  Fd file_;
  // Two periods, so that one that begins anywhere is contiguous; the file's pages, mapped.
  std::span<std::byte> pattern_;
};

}  // namespace cistern::bench
