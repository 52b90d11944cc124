// Values of any size that follow from a seed, whole in memory or piece by piece.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace cistern::testing {

// The byte at any offset follows from the seed alone, so that any part can be made by itself.
// `offset` is a multiple of 8.
inline void fill(std::span<std::byte> target, std::uint64_t seed, std::uint64_t offset) {
  for (std::size_t at = 0; at < target.size(); at += 8) {
    std::uint64_t word = (offset + at + 1) * 0x9E3779B97F4A7C15u ^ seed * 0xBF58476D1CE4E5B9u;
    word ^= word >> 29;
    word *= 0x94D049BB133111EBu;
    word ^= word >> 32;
    std::memcpy(target.data() + at, &word, std::min<std::size_t>(8, target.size() - at));
  }
}

inline std::vector<std::byte> value_of(std::uint64_t seed, std::size_t size) {
  std::vector<std::byte> bytes(size);
  fill(bytes, seed, 0);
  return bytes;
}

}  // namespace cistern::testing
