#include <gtest/gtest.h>

#include "proto/digest.h"
#include "tests/support/proto_wire.h"

namespace cistern::proto {
namespace {

using testing::make_value;

TEST(Digest, OfASingleChunkIsTheSameWithAndWithoutAState) {
  for (const std::size_t size : {0u, 1u, 4095u, 4096u}) {
    const auto value = make_value(size);
    EXPECT_EQ(to_hex(ValueHasher::of_single(chunk_digest(value), 4096, size)),
              to_hex(testing::digest_of(value, 4096)))
        << size;
  }
}

TEST(Digest, DependsOnBytesOrderSizeAndChunkSize) {
  auto value = make_value(10'000);
  const auto whole = testing::digest_of(value, 4096);
  EXPECT_NE(whole, testing::digest_of(value, 8192));
  EXPECT_NE(whole, testing::digest_of(Bytes(value).first(9'999), 4096));
  auto swapped = value;
  std::swap_ranges(swapped.begin(), swapped.begin() + 4096, swapped.begin() + 4096);
  EXPECT_NE(whole, testing::digest_of(swapped, 4096));
  value[5000] ^= std::byte{1};
  EXPECT_NE(whole, testing::digest_of(value, 4096));
}

TEST(Digest, OfAChunkInPiecesIsThatOfTheWhole) {
  const auto value = make_value(5'000);
  ChunkHasher hasher;
  for (int round = 0; round < 2; ++round) {
    hasher.add(Bytes(value).first(1));
    hasher.add(Bytes(value).subspan(1, 1'000));
    hasher.add(Bytes(value).subspan(1'001));
    EXPECT_EQ(hasher.finish(), chunk_digest(value)) << "round " << round;
  }
}

}  // namespace
}  // namespace cistern::proto
