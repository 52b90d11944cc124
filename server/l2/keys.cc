#include "server/l2/keys.h"

#include <xxhash.h>

#include <fmt/format.h>

namespace cistern::l2 {
namespace {

std::string hash_hex(base::Bytes key) {
  const XXH128_hash_t hash = XXH3_128bits(key.data(), key.size());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

}  // namespace

bool is_plain(base::Bytes key) {
  if (key.empty() || key.size() > kMaxPlainKeyBytes || key.front() == std::byte{'#'}) return false;
  // All of it, whatever the first ones are: every hit in L1 comes by here.
  unsigned others = 0;
  for (const std::byte b : key)
    others |= static_cast<unsigned>(std::to_integer<unsigned>(b) - 0x21 > 0x5d);
  return others == 0;
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
