// Compressed chunks: whatever bytes claim to be one, decoding stays within the chunk's memory.
#include <cstdlib>
#include <vector>

#include "codec/zstd.h"
#include "tests/fuzz/targets.h"

namespace cistern::fuzz {
namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

void compressed_chunk(Bytes input) {
  if (input.size() < 3) return;
  // What is recorded of the chunk; a sanitizer watches over the memory of just that size.
  const std::size_t raw_bytes = proto::load_le<std::uint16_t>(input.data()) + std::size_t{1};
  const Bytes frame = input.subspan(2);
  static codec::Decoder decoder;
  const std::size_t before = decoder.memory_bytes();
  std::vector<std::byte> raw(raw_bytes);
  const auto seen = codec::check_frame(frame, raw_bytes);
  const auto fault = decoder.decode(frame, raw, 0);
  require(decoder.memory_bytes() == before);
  if (seen) return require(fault == seen);
  if (fault && *fault != codec::Fault::kWrongDigest) {
    return require(*fault == codec::Fault::kDamaged);
  }
  // What was decoded has some digest; with that it's right, and decodes to the same again.
  std::vector<std::byte> again(raw_bytes);
  require(!decoder.decode(frame, again, proto::chunk_digest(raw)));
  require(again == raw);
}

}  // namespace cistern::fuzz
