#include "codec/zstd.h"

#include <zstd.h>

#include <algorithm>
#include <array>
#include <new>
#include <vector>

namespace cistern::codec {
namespace {

constexpr std::size_t kSampleBytes = 8 * 1024;
constexpr std::size_t kSamples = 3;
static_assert(kSamples * kSampleBytes < kSampleFromBytes);
constexpr std::size_t kMagicBytes = 4;

}  // namespace

Encoder::Encoder(int level) : level_(level), context_(ZSTD_createCCtx()) {
  if (context_ == nullptr) throw std::bad_alloc();
}
Encoder::~Encoder() = default;
Encoder::Encoder(Encoder&&) noexcept = default;
void Encoder::Free::operator()(ZSTD_CCtx_s* context) const { ZSTD_freeCCtx(context); }

std::size_t Encoder::encode_at(int level, Bytes raw, MutableBytes to) {
  ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_compressionLevel, level);
  const std::size_t size =
      ZSTD_compress2(context_.get(), to.data(), to.size(), raw.data(), raw.size());
  return ZSTD_isError(size) != 0 ? 0 : size;
}

std::size_t Encoder::encode(Bytes raw, MutableBytes to) { return encode_at(level_, raw, to); }

bool Encoder::promises(Bytes raw) {
  std::array<std::byte, kSampleBytes> packed;
  std::size_t total = 0;
  for (std::size_t i = 0; i < kSamples; ++i) {
    // The middles of three equal parts.
    const std::size_t at = (raw.size() - kSampleBytes) * (2 * i + 1) / (2 * kSamples);
    const std::size_t size = encode_at(kMinLevel, raw.subspan(at, kSampleBytes), packed);
    total += size == 0 ? kSampleBytes : size;
  }
  return total * 10 <= kSamples * kSampleBytes * 9;
}

std::size_t Encoder::memory_bytes() const { return ZSTD_sizeof_CCtx(context_.get()); }

std::size_t Encoder::memory_for(int level, std::size_t chunk_bytes) {
  // libzstd chooses its tables by the size of what it compresses, and not always larger ones for
  // more.
  Encoder encoder(level);
  const std::vector<std::byte> raw(chunk_bytes);
  std::vector<std::byte> packed(chunk_bytes);
  for (const std::size_t size : {16ul, 32ul, 128ul, 256ul}) {
    if (const std::size_t bytes = size * 1024; bytes < chunk_bytes) {
      encoder.encode(Bytes(raw).first(bytes), packed);
    }
  }
  encoder.encode(raw, packed);
  return encoder.memory_bytes();
}

std::optional<Fault> check_frame(Bytes frame, std::size_t raw_bytes) {
  // Asked here, since libzstd may also know the frames of its releases before 1.0, and frames that
  // are to be skipped.
  if (frame.size() < kMagicBytes ||
      proto::load_le<std::uint32_t>(frame.data()) != ZSTD_MAGICNUMBER) {
    return Fault::kNoFrame;
  }
  const unsigned long long claimed = ZSTD_getFrameContentSize(frame.data(), frame.size());
  if (claimed == ZSTD_CONTENTSIZE_ERROR) return Fault::kNoFrame;
  if (claimed != raw_bytes) return Fault::kWrongSize;  // ZSTD_CONTENTSIZE_UNKNOWN, too
  if (ZSTD_getDictID_fromFrame(frame.data(), frame.size()) != 0) return Fault::kDictionary;
  const std::size_t size = ZSTD_findFrameCompressedSize(frame.data(), frame.size());
  if (ZSTD_isError(size) != 0) return Fault::kDamaged;
  if (size != frame.size()) return Fault::kMore;
  return std::nullopt;
}

Decoder::Decoder() : context_(ZSTD_createDCtx()) {
  if (context_ == nullptr) throw std::bad_alloc();
}
Decoder::~Decoder() = default;
Decoder::Decoder(Decoder&&) noexcept = default;
Decoder& Decoder::operator=(Decoder&&) noexcept = default;
void Decoder::Free::operator()(ZSTD_DCtx_s* context) const { ZSTD_freeDCtx(context); }

std::optional<Fault> Decoder::decode(Bytes frame, MutableBytes raw, proto::ChunkDigest digest) {
  if (const auto fault = check_frame(frame, raw.size())) return fault;
  const std::size_t size =
      ZSTD_decompressDCtx(context_.get(), raw.data(), raw.size(), frame.data(), frame.size());
  if (ZSTD_isError(size) != 0 || size != raw.size()) return Fault::kDamaged;
  if (proto::chunk_digest(raw) != digest) return Fault::kWrongDigest;
  return std::nullopt;
}

std::size_t Decoder::memory_bytes() const { return ZSTD_sizeof_DCtx(context_.get()); }

}  // namespace cistern::codec
