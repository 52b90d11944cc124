#include "server/l2/keys.h"

#include <xxhash.h>

#include <algorithm>

#include <fmt/format.h>

namespace cistern::l2 {
namespace {

std::string hash_hex(base::Bytes key) {
  const XXH128_hash_t hash = XXH3_128bits(key.data(), key.size());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

bool is_plain(base::Bytes key) {
  if (key.empty() || key.size() > kMaxPlainKeyBytes || key.front() == std::byte{'#'}) return false;
  return std::all_of(key.begin(), key.end(),
                     [](std::byte b) { return b > std::byte{0x20} && b < std::byte{0x7f}; });
}

}  // namespace

std::string manifest_name(std::string_view prefix, base::Bytes key) {
  if (is_plain(key)) return fmt::format("{}m:{}", prefix, proto::as_text(key));
  return fmt::format("{}m:#{}", prefix, hash_hex(key));
}

ChunkNames::ChunkNames(std::string_view prefix, base::Bytes key, base::Version version)
    : stem_(fmt::format("{}c:{}:{:016x}:", prefix, hash_hex(key), version)) {}

std::string ChunkNames::name(std::uint64_t index) const {
  return fmt::format("{}{}", stem_, index);
}

}  // namespace cistern::l2
