#include "tests/support/files.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>
#include <stdexcept>
#include <vector>

#include "tests/support/log_text.h"

namespace cistern::testing {
namespace {

constexpr std::size_t kPieceBytes = 1024 * 1024;
constexpr std::uint64_t kLogBlocks = 512;  // 32 MiB

}  // namespace

void make_random_file(const std::string& path, std::uint64_t size, std::uint64_t seed) {
  std::ofstream out(path, std::ios::binary);
  std::mt19937_64 random(seed);
  std::vector<std::uint64_t> piece(kPieceBytes / 8);
  for (std::uint64_t left = size; left > 0;) {
    for (std::uint64_t& word : piece) word = random();
    const std::uint64_t bytes = std::min<std::uint64_t>(left, kPieceBytes);
    out.write(reinterpret_cast<const char*>(piece.data()), static_cast<std::streamsize>(bytes));
    left -= bytes;
  }
  if (!out.flush()) throw std::runtime_error("cannot write " + path);
}

void make_log_file(const std::string& path, std::uint64_t size, std::uint64_t seed) {
  // As many blocks as no compressor of chunks looks back over; then again, in another order.
  std::vector<std::string> blocks;
  for (std::uint64_t index = 0; index < kLogBlocks; ++index) {
    if (index * kLogBlockBytes < size) blocks.push_back(log_block(seed, index));
  }
  std::ofstream out(path, std::ios::binary);
  std::mt19937_64 random(seed);
  for (std::uint64_t left = size; left > 0;) {
    std::shuffle(blocks.begin(), blocks.end(), random);
    for (const std::string& block : blocks) {
      const std::uint64_t bytes = std::min<std::uint64_t>(left, block.size());
      out.write(block.data(), static_cast<std::streamsize>(bytes));
      left -= bytes;
    }
  }
  if (!out.flush()) throw std::runtime_error("cannot write " + path);
}

std::string difference(const std::string& a, const std::string& b) {
  std::ifstream left(a, std::ios::binary);
  std::ifstream right(b, std::ios::binary);
  if (!left) return "cannot read " + a;
  if (!right) return "cannot read " + b;
  std::vector<char> x(kPieceBytes);
  std::vector<char> y(kPieceBytes);
  for (std::uint64_t at = 0;;) {
    left.read(x.data(), kPieceBytes);
    right.read(y.data(), kPieceBytes);
    const auto both = std::min(left.gcount(), right.gcount());
    const auto differ = std::mismatch(x.begin(), x.begin() + both, y.begin()).first - x.begin();
    if (differ != both || left.gcount() != right.gcount()) {
      return a + " and " + b + " differ at byte " +
             std::to_string(at + static_cast<std::uint64_t>(differ));
    }
    if (both == 0) return {};
    at += static_cast<std::uint64_t>(both);
  }
}

std::uint64_t size_of(const std::string& path) { return std::filesystem::file_size(path); }

}  // namespace cistern::testing
