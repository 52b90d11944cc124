// Keys of which L2 has said that it doesn't have them, for a while. A fixed number of places: a key
// may take another's, which is then asked for again. Not synchronised.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "server/base/types.h"

namespace cistern::service {

// All gates' places together: 1.5 MiB of the fixed base, where it is switched on.
inline constexpr std::size_t kAbsentKeys = std::size_t{1} << 16;

class AbsentKeys {
 public:
  // With 0, as at first, nothing is remembered.
  void resize(std::size_t places) { places_.assign(places, Place{}); }

  // `hash` is base::hash_key(key).
  void remember(base::Bytes key, std::uint64_t hash, base::TimePoint until) {
    if (!places_.empty()) place_of(hash) = {hash, base::second_hash(key), until};
  }
  void forget(base::Bytes key, std::uint64_t hash) {
    if (!places_.empty() && is_of(place_of(hash), key, hash)) place_of(hash) = {};
  }
  // Empty when it isn't remembered.
  std::optional<base::TimePoint> until(base::Bytes key, std::uint64_t hash) {
    if (places_.empty() || !is_of(place_of(hash), key, hash)) return std::nullopt;
    return place_of(hash).until;
  }

 private:
  // 128 bits stand for the key, which may have a KiB.
  struct Place {
    std::uint64_t hash = 0;
    std::uint64_t second_hash = 0;
    base::TimePoint until{};
  };
  static bool is_of(const Place& place, base::Bytes key, std::uint64_t hash) {
    return place.hash == hash && place.second_hash == base::second_hash(key);
  }
  // The gate's shards take other bits.
  Place& place_of(std::uint64_t hash) { return places_[hash % places_.size()]; }

  std::vector<Place> places_;
};

}  // namespace cistern::service
