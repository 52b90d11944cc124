// The names under which a value lies in a store.
//
//   manifest  <prefix>m:<key>            a key of printable ASCII without spaces, not beginning
//                                        with '#', of at most 200 bytes
//             <prefix>m:#<32 hex>        every other key: XXH3-128 of the key
//   chunk     <prefix>c:<32 hex>:<16 hex>:<decimal>
//                                        XXH3-128 of the key, version, index
//
// The first family never begins with '#', so the two can't collide. Invalidation can follow the
// manifests alone.
#pragma once

#include <string>
#include <string_view>

#include "server/base/types.h"

namespace cistern::l2 {

inline constexpr std::size_t kMaxPlainKeyBytes = 200;

// Whether the first kind is its name.
bool is_plain(base::Bytes key);
// What follows "<prefix>m:" in it.
std::string manifest_stem(base::Bytes key);
std::string manifest_name(std::string_view prefix, base::Bytes key);

// Makes the names of one chunk set: the key is hashed once.
class ChunkNames {
 public:
  ChunkNames(std::string_view prefix, base::Bytes key, base::Version version);
  std::string name(std::uint64_t index) const;

 private:
  std::string stem_;
};

}  // namespace cistern::l2
