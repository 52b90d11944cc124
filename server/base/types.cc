#include "server/base/types.h"

#include <xxhash.h>

#include "server/base/rng.h"

namespace cistern::base {

std::uint64_t hash_key(Bytes key) {
  static const std::uint64_t seed = random_seed();
  return XXH3_64bits_withSeed(key.data(), key.size(), seed);
}

std::uint64_t second_hash(Bytes key) {
  static const std::uint64_t seed = random_seed();
  return XXH3_64bits_withSeed(key.data(), key.size(), seed);
}

}  // namespace cistern::base
