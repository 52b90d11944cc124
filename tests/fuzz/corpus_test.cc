// Runs the corpus, and changed copies of it, through every fuzz target under every compiler and
// sanitizer, so that what a fuzzer once found stays found.
#include <filesystem>
#include <fstream>
#include <iterator>

#include <gtest/gtest.h>

#include "tests/fuzz/targets.h"
#include "tests/support/proto_wire.h"

namespace cistern::fuzz {
namespace {

using testing::Buffer;

std::vector<std::filesystem::path> corpus_of(const Target& target) {
  std::vector<std::filesystem::path> files;
  const std::filesystem::path folder =
      std::filesystem::path(CISTERN_SOURCE_DIR) / "tests/fuzz/corpus" / target.name;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

Buffer bytes_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  return testing::buffer(text);
}

// One to four changes: a bit, a byte, a field of all ones, a part removed, repeated or cut off.
void change(Buffer& bytes, testing::Random& random) {
  for (std::size_t n = 1 + random.below(4); n > 0 && !bytes.empty(); --n) {
    const std::size_t at = random.below(bytes.size());
    const auto from = bytes.begin() + static_cast<std::ptrdiff_t>(at);
    const auto length =
        static_cast<std::ptrdiff_t>(1 + random.below(std::min<std::size_t>(bytes.size() - at, 24)));
    switch (random.below(6)) {
      case 0:
        *from ^= std::byte{1} << random.below(8);
        break;
      case 1:
        *from = static_cast<std::byte>(random.below(256));
        break;
      case 2:
        std::fill_n(from, std::min<std::ptrdiff_t>(length, 4), std::byte{0xFF});
        break;
      case 3:
        bytes.erase(from, from + length);
        break;
      case 4: {
        const Buffer part(from, from + length);
        bytes.insert(from, part.begin(), part.end());
        break;
      }
      default:
        bytes.resize(at);
        break;
    }
  }
}

TEST(Corpus, HoldsForEveryTarget) {
  for (const Target& target : kTargets) {
    const auto files = corpus_of(target);
    EXPECT_GE(files.size(), 3u) << target.name;
    for (const auto& file : files) {
      SCOPED_TRACE(file.string());
      target.run(bytes_of(file));
    }
  }
}

TEST(Corpus, HoldsWhenItIsChanged) {
  testing::Random random;
  // A broken promise ends the process, so the seed is said before.
  std::cout << "CISTERN_SEED=" << random.seed() << "\n";
  for (const Target& target : kTargets) {
    const auto files = corpus_of(target);
    for (int round = 0; round < 400; ++round) {
      Buffer bytes = bytes_of(files[random.below(files.size())]);
      change(bytes, random);
      target.run(bytes);
    }
  }
}

}  // namespace
}  // namespace cistern::fuzz
