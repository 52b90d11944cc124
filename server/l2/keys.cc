#include "server/l2/keys.h"

#include <xxhash.h>

#include <algorithm>
#include <array>

#include <fmt/format.h>

namespace cistern::l2 {
namespace {

std::string hash_hex(base::Bytes key) {
  const XXH128_hash_t hash = XXH3_128bits(key.data(), key.size());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

constexpr std::size_t kWordBytes = sizeof(std::uint64_t);

// Not 0 when one of eight bytes is below '!' or above '~'. (A borrow or carry from one byte to the
// next comes only from a byte that is.)
std::uint64_t odd_bytes(const std::byte* eight) {
  constexpr std::uint64_t kEach = 0x0101010101010101;
  const auto word = proto::load_le<std::uint64_t>(eight);
  const std::uint64_t below = (word - kEach * 0x21) & ~word;
  const std::uint64_t above = (word + kEach) | word;
  return (below | above) & kEach * 0x80;
}

}  // namespace

bool is_plain(base::Bytes key) {
  const std::size_t size = key.size();
  if (size == 0 || size > kMaxPlainKeyBytes || key.front() == std::byte{'#'}) return false;
  // Eight bytes at a time, since every hit in L1 comes by here; the last ones overlap.
  if (size < kWordBytes) {
    std::array<std::byte, kWordBytes> word;
    word.fill(std::byte{'x'});
    std::copy(key.begin(), key.end(), word.begin());
    return odd_bytes(word.data()) == 0;
  }
  std::uint64_t odd = odd_bytes(key.data() + size - kWordBytes);
  for (std::size_t at = 0; at + kWordBytes < size; at += kWordBytes) {
    odd |= odd_bytes(key.data() + at);
  }
  return odd == 0;
}

std::string manifest_stem(base::Bytes key) {
  return is_plain(key) ? std::string(proto::as_text(key)) : "#" + hash_hex(key);
}

std::string manifest_name(std::string_view prefix, base::Bytes key) {
  return fmt::format("{}m:{}", prefix, manifest_stem(key));
}

ChunkNames::ChunkNames(std::string_view prefix, base::Bytes key, base::Version version)
    : stem_(fmt::format("{}c:{}:{:016x}:", prefix, hash_hex(key), version)) {}

std::string ChunkNames::name(std::uint64_t index) const {
  return fmt::format("{}{}", stem_, index);
}

}  // namespace cistern::l2
