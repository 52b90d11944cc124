// The text of a log file, of any size: what compresses as users' text does. It follows from a seed,
// and every block of 64 KiB by itself, so that parts can be made alone.
#pragma once

#include <array>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace cistern::testing {

inline constexpr std::size_t kLogBlockBytes = 64 * 1024;

// Block `index` of the log.
inline std::string log_block(std::uint64_t seed, std::uint64_t index) {
  static constexpr std::array<std::string_view, 12> kWords = {
      "GET",  "PUT",  "/index.html", "/api/v1/items", "200",  "404",
      "user", "took", "connection",  "timeout",       "WARN", "retry"};
  std::mt19937_64 random(seed * 0x9E3779B97F4A7C15u + index);
  std::string text;
  while (text.size() < kLogBlockBytes) {
    text += "2026-11-21T20:" + std::to_string(10 + random() % 50) + ":" +
            std::to_string(10 + random() % 50) + " host-" + std::to_string(random() % 100);
    for (int word = 0; word < 6; ++word) {
      text += ' ';
      text += kWords[random() % kWords.size()];
    }
    text += " id=" + std::to_string(random() % 100'000'000) + "\n";
  }
  text.resize(kLogBlockBytes);
  return text;
}

inline std::vector<std::byte> log_text(std::uint64_t seed, std::size_t size) {
  std::vector<std::byte> bytes;
  for (std::uint64_t index = 0; bytes.size() < size; ++index) {
    const std::string block = log_block(seed, index);
    const auto part = std::as_bytes(std::span(block));
    bytes.insert(bytes.end(), part.begin(), part.end());
  }
  bytes.resize(size);
  return bytes;
}

}  // namespace cistern::testing
