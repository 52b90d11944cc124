#include <string>

#include <gtest/gtest.h>

#include "server/l2/keys.h"

namespace cistern::l2 {
namespace {

bool plain(const std::string& key) { return is_plain(proto::as_bytes(key)); }

TEST(Keys, EveryByteAtEveryPlaceDecidesWhetherAKeyIsPlain) {
  for (const std::size_t size : {1u, 2u, 7u, 8u, 9u, 15u, 16u, 17u, 100u, 200u}) {
    for (std::size_t at = 0; at < size; ++at) {
      for (unsigned byte = 0; byte < 256; ++byte) {
        for (const char filler : {'!', 'k', '~'}) {
          std::string key(size, filler);
          key[at] = static_cast<char>(byte);
          const bool expected = byte > 0x20 && byte < 0x7f && (at > 0 || byte != '#');
          ASSERT_EQ(plain(key), expected) << size << " bytes, " << byte << " at " << at;
        }
      }
    }
  }
  EXPECT_FALSE(plain(""));
  EXPECT_FALSE(plain(std::string(201, 'k')));
}

TEST(Keys, NamesOfTheTwoKindsNeverCollide) {
  EXPECT_EQ(manifest_name("p:", proto::as_bytes("key")), "p:m:key");
  const std::string odd = manifest_name("p:", proto::as_bytes("a key"));
  EXPECT_EQ(odd.size(), 4u + 1 + 32);
  EXPECT_EQ(odd[4], '#');
  EXPECT_NE(manifest_name("p:", proto::as_bytes(odd.substr(4))), odd);
}

}  // namespace
}  // namespace cistern::l2
