#include "server/l2/envelope.h"

#include <xxhash.h>

#include <algorithm>
#include <charconv>
#include <string_view>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "server/base/check.h"

namespace cistern::l2 {
namespace {

using Json = nlohmann::json;
using base::Loss;
using base::lost;
using proto::load_le;
using proto::store_le;

constexpr std::string_view kManifestMagic = "CSTM";
constexpr std::string_view kChunkMagic = "CSCH";
constexpr std::byte kEnvelopeVersion{2};
constexpr std::byte kFlagInline{1};
constexpr std::size_t kDigestOffset = 40;
// Far beyond the longest time to live, and far from overflowing where times are added.
constexpr std::uint64_t kMaxUnixMs = std::uint64_t{1} << 53;

bool is_utf8(std::string_view text) {
  std::size_t i = 0;
  while (i < text.size()) {
    const auto at = [&](std::size_t k) { return static_cast<unsigned char>(text[i + k]); };
    const unsigned char first = at(0);
    const std::size_t length = first < 0x80   ? 1
                               : first < 0xc2 ? 0
                               : first < 0xe0 ? 2
                               : first < 0xf0 ? 3
                               : first < 0xf5 ? 4
                                              : 0;
    if (length == 0 || length > text.size() - i) return false;
    for (std::size_t k = 1; k < length; ++k) {
      if ((at(k) & 0xc0) != 0x80) return false;
    }
    // Overlong forms, surrogates and what lies past U+10FFFF.
    if ((first == 0xe0 && at(1) < 0xa0) || (first == 0xed && at(1) >= 0xa0) ||
        (first == 0xf0 && at(1) < 0x90) || (first == 0xf4 && at(1) >= 0x90)) {
      return false;
    }
    i += length;
  }
  return true;
}

// `name` with text, or `name`_hex with the bytes of what isn't UTF-8.
void put_text(Json& header, const std::string& name, std::string_view text) {
  if (is_utf8(text)) {
    header[name] = text;
  } else {
    header[name + "_hex"] = proto::to_hex(proto::as_bytes(text));
  }
}

bool from_hex(std::string_view hex, std::byte* to, std::size_t bytes) {
  if (hex.size() != 2 * bytes) return false;
  for (std::size_t i = 0; i < bytes; ++i) {
    unsigned value = 0;
    const char* const end = hex.data() + 2 * i + 2;
    const auto parsed = std::from_chars(hex.data() + 2 * i, end, value, 16);
    if (parsed.ec != std::errc() || parsed.ptr != end) return false;
    to[i] = static_cast<std::byte>(value);
  }
  return true;
}

const std::string* find_text(const Json& header, const std::string& name) {
  const auto found = header.find(name);
  return found == header.end() ? nullptr : found->get_ptr<const std::string*>();
}

// False when the field is there and isn't what put_text writes. Absent: empty.
bool get_text(const Json& header, const std::string& name, std::string& text) {
  if (header.contains(name)) {
    const std::string* found = find_text(header, name);
    if (found != nullptr) text = *found;
    return found != nullptr;
  }
  if (!header.contains(name + "_hex")) return true;
  const std::string* hex = find_text(header, name + "_hex");
  if (hex == nullptr || hex->size() % 2 != 0) return false;
  text.resize(hex->size() / 2);
  return from_hex(*hex, reinterpret_cast<std::byte*>(text.data()), text.size());
}

bool get_number(const Json& header, const char* name, std::uint64_t& number) {
  const auto found = header.find(name);
  if (found == header.end() || !found->is_number_unsigned()) return false;
  number = found->get<std::uint64_t>();
  return true;
}

std::string header_json(base::Bytes key, const base::ValueMeta& meta) {
  Json header = {{"version", fmt::format("{:016x}", meta.version)},
                 {"size", meta.size},
                 {"chunk_bytes", meta.chunk_bytes},
                 {"digest", proto::to_hex(meta.digest)}};
  put_text(header, "key", proto::as_text(key));
  if (!meta.metadata.empty()) put_text(header, "meta", meta.metadata);
  return header.dump();
}

std::uint64_t manifest_digest(base::Bytes fixed, base::Bytes json) {
  std::array<std::byte, kManifestFixedBytes> zeroed{};
  std::copy_n(fixed.begin(), kDigestOffset, zeroed.begin());
  proto::ChunkHasher hasher;
  hasher.add(zeroed);
  hasher.add(json);
  return hasher.finish();
}

// The digest of a value that is at hand as a whole. It may have several chunks: the smallest chunk
// is smaller than the largest inline value.
proto::ValueDigest value_digest(base::Bytes value, std::uint32_t chunk_bytes) {
  if (value.size() <= chunk_bytes) {
    return proto::ValueHasher::of_single(proto::chunk_digest(value), chunk_bytes, value.size());
  }
  proto::ValueHasher hasher;
  for (std::size_t at = 0; at < value.size(); at += chunk_bytes) {
    hasher.add(proto::chunk_digest(
        value.subspan(at, std::min<std::size_t>(chunk_bytes, value.size() - at))));
  }
  return hasher.finish(chunk_bytes, value.size());
}

struct FixedPart {
  base::Version version = 0;
  std::uint64_t chunk_count = 0;
  std::uint64_t expires_at_ms = 0;
  std::uint32_t header_bytes = 0;
  std::uint32_t payload_bytes = 0;
  bool is_inline = false;
};

// All of it that can be checked without the rest.
base::Result<FixedPart> decode_fixed(base::Bytes stored) {
  if (stored.size() < kManifestFixedBytes) {
    return lost(Loss::kLength,
                fmt::format("the manifest has {} bytes, fewer than its fixed part of {}",
                            stored.size(), kManifestFixedBytes));
  }
  const std::byte* const at = stored.data();
  if (proto::as_text(stored.first(4)) != kManifestMagic)
    return lost(Loss::kMagic, "this is not a manifest");
  if (at[4] != kEnvelopeVersion) {
    return lost(Loss::kEnvelopeVersion,
                fmt::format("the manifest has envelope version {}; this daemon reads {}",
                            static_cast<unsigned>(at[4]), static_cast<unsigned>(kEnvelopeVersion)));
  }
  if ((at[5] & ~kFlagInline) != std::byte{0} || load_le<std::uint16_t>(at + 6) != 0) {
    return lost(Loss::kFlags, "the manifest has unknown flags");
  }
  const FixedPart fixed{load_le<std::uint64_t>(at + 8),  load_le<std::uint64_t>(at + 16),
                        load_le<std::uint64_t>(at + 24), load_le<std::uint32_t>(at + 32),
                        load_le<std::uint32_t>(at + 36), at[5] == kFlagInline};
  if (fixed.expires_at_ms > kMaxUnixMs)
    return lost(Loss::kField, "the expiry in the manifest is absurd");
  return fixed;
}

base::Result<FixedPart> decode_whole(base::Bytes stored) {
  const auto decoded = decode_fixed(stored);
  if (!decoded) return decoded;
  const FixedPart& fixed = *decoded;
  if (fixed.header_bytes > kMaxManifestHeaderBytes || fixed.payload_bytes > kInlineBytes ||
      kManifestFixedBytes + fixed.header_bytes + fixed.payload_bytes != stored.size()) {
    return lost(Loss::kLength,
                fmt::format("the manifest has {} bytes and claims {} + {} + {}", stored.size(),
                            kManifestFixedBytes, fixed.header_bytes, fixed.payload_bytes));
  }
  const base::Bytes json = stored.subspan(kManifestFixedBytes, fixed.header_bytes);
  if (manifest_digest(stored.first(kManifestFixedBytes), json) !=
      load_le<std::uint64_t>(stored.data() + kDigestOffset)) {
    return lost(Loss::kManifestDigest, "the manifest does not have its digest");
  }
  return fixed;
}

base::Result<base::ValueMeta> decode_header(base::Bytes key, base::Bytes json) {
  const std::string_view text = proto::as_text(json);
  const Json header = Json::parse(text.begin(), text.end(), nullptr, false);
  if (!header.is_object()) return lost(Loss::kJson, "the manifest's header is not a JSON object");
  base::ValueMeta meta;
  std::string stored_key;
  std::uint64_t chunk_bytes = 0;
  if (!get_number(header, "size", meta.size) || !get_number(header, "chunk_bytes", chunk_bytes) ||
      !get_text(header, "key", stored_key) || !get_text(header, "meta", meta.metadata)) {
    return lost(Loss::kField, "a field of the manifest's header is missing or of the wrong type");
  }
  std::array<std::byte, sizeof meta.version> version{};
  const std::string* version_hex = find_text(header, "version");
  const std::string* digest_hex = find_text(header, "digest");
  if (version_hex == nullptr || !from_hex(*version_hex, version.data(), version.size()) ||
      digest_hex == nullptr || !from_hex(*digest_hex, meta.digest.data(), meta.digest.size())) {
    return lost(Loss::kField, "the version or the digest in the manifest's header is malformed");
  }
  std::reverse(version.begin(), version.end());  // hex digits: the high byte first
  meta.version = load_le<std::uint64_t>(version.data());
  if (stored_key != proto::as_text(key))
    return lost(Loss::kOtherKey, "the manifest is that of another key");
  if (meta.metadata.size() > proto::kMaxMetadataBytes)
    return lost(Loss::kField, "the metadata is too long");
  if (chunk_bytes < proto::kMinChunkBytes || chunk_bytes > proto::kMaxChunkBytes ||
      chunk_bytes % proto::kMinChunkBytes != 0) {
    return lost(Loss::kField, fmt::format("the manifest claims chunks of {} bytes", chunk_bytes));
  }
  if (meta.size > proto::kMaxValueBytes) {
    return lost(Loss::kField, fmt::format("the manifest claims a value of {} bytes", meta.size));
  }
  meta.chunk_bytes = static_cast<std::uint32_t>(chunk_bytes);
  return meta;
}

}  // namespace

std::string encode_manifest(base::Bytes key, const Manifest& manifest) {
  const base::ValueMeta& meta = manifest.meta;
  const bool is_inline = meta.size <= kInlineBytes;
  CHECK(manifest.inline_bytes.size() == (is_inline ? meta.size : 0));
  const std::string json = header_json(key, meta);
  std::array<std::byte, kManifestFixedBytes> fixed{};
  std::copy_n(proto::as_bytes(kManifestMagic).begin(), kManifestMagic.size(), fixed.begin());
  fixed[4] = kEnvelopeVersion;
  fixed[5] = is_inline ? kFlagInline : std::byte{0};
  store_le<std::uint64_t>(&fixed[8], meta.version);
  store_le<std::uint64_t>(&fixed[16], is_inline ? 0 : meta.chunk_count());
  store_le<std::uint64_t>(&fixed[24], meta.expires_at_ms);
  store_le(&fixed[32], static_cast<std::uint32_t>(json.size()));
  store_le(&fixed[36], static_cast<std::uint32_t>(manifest.inline_bytes.size()));
  store_le<std::uint64_t>(&fixed[kDigestOffset], manifest_digest(fixed, proto::as_bytes(json)));
  std::string stored;
  stored.reserve(fixed.size() + json.size() + manifest.inline_bytes.size());
  stored += proto::as_text(fixed);
  stored += json;
  stored += proto::as_text(manifest.inline_bytes);
  return stored;
}

base::Result<Manifest> decode_manifest(base::Bytes key, base::Bytes stored) {
  const auto fixed = decode_whole(stored);
  if (!fixed) return tl::unexpected(fixed.error());
  auto meta = decode_header(key, stored.subspan(kManifestFixedBytes, fixed->header_bytes));
  if (!meta) return tl::unexpected(meta.error());
  const base::Bytes payload = stored.subspan(kManifestFixedBytes + fixed->header_bytes);
  const bool is_inline = meta->size <= kInlineBytes;
  if (fixed->is_inline != is_inline || fixed->payload_bytes != (is_inline ? meta->size : 0) ||
      fixed->chunk_count != (is_inline ? 0 : meta->chunk_count()) ||
      fixed->version != meta->version) {
    return lost(Loss::kContradiction,
                fmt::format("the manifest's parts contradict each other: {} bytes in {} chunks, "
                            "{} bytes beside it",
                            meta->size, fixed->chunk_count, fixed->payload_bytes));
  }
  meta->expires_at_ms = fixed->expires_at_ms;
  Manifest manifest;
  if (is_inline) {
    if (value_digest(payload, meta->chunk_bytes) != meta->digest) {
      return lost(Loss::kInlineDigest, "the value in the manifest does not have its digest");
    }
    manifest.inline_bytes.assign(payload.begin(), payload.end());
    manifest.inline_digest = proto::chunk_digest(payload);
  }
  manifest.meta = std::move(*meta);
  return manifest;
}

base::Result<Stamp> decode_stamp(base::Bytes stored) {
  const auto fixed = decode_fixed(stored);
  if (!fixed) return tl::unexpected(fixed.error());
  return Stamp{fixed->version, fixed->expires_at_ms};
}

std::uint64_t chunk_key_hash(base::Bytes key) { return XXH3_64bits(key.data(), key.size()); }

ChunkHeader encode_chunk_header(const ChunkIdentity& identity, const ChunkForm& form) {
  ChunkHeader header{};
  std::copy_n(proto::as_bytes(kChunkMagic).begin(), kChunkMagic.size(), header.begin());
  header[4] = kEnvelopeVersion;
  header[5] = static_cast<std::byte>(form.codec);
  store_le<std::uint64_t>(&header[8], identity.version);
  store_le(&header[16], identity.key_hash);
  store_le(&header[24], identity.index);
  store_le(&header[28], identity.raw_bytes);
  store_le(&header[32], form.stored_bytes);
  store_le<std::uint64_t>(&header[40], form.raw_digest);
  store_le<std::uint64_t>(&header[48], form.stored_digest);
  return header;
}

base::Result<ChunkForm> decode_chunk_header(const ChunkIdentity& identity, base::Bytes header,
                                            std::uint64_t envelope_bytes) {
  CHECK(header.size() == kChunkHeaderBytes);
  const ChunkForm form{static_cast<Codec>(header[5]), load_le<std::uint32_t>(header.data() + 32),
                       load_le<std::uint64_t>(header.data() + 40),
                       load_le<std::uint64_t>(header.data() + 48)};
  // A header is known but for its form, so it is compared as a whole.
  const ChunkHeader expected = encode_chunk_header(identity, form);
  if (!std::equal(expected.begin(), expected.end(), header.begin())) {
    return lost(Loss::kChunkHeader, fmt::format("chunk {} has the header of something else: {}",
                                                identity.index, proto::to_hex(header)));
  }
  const bool is_raw = form.codec == Codec::kRaw && form.stored_bytes == identity.raw_bytes &&
                      form.stored_digest == form.raw_digest;
  const bool is_packed =
      form.codec == Codec::kZstd && form.stored_bytes > 0 && form.stored_bytes < identity.raw_bytes;
  if (!is_raw && !is_packed) {
    return lost(Loss::kChunkForm, fmt::format("chunk {} claims codec {} and {} bytes for {}",
                                              identity.index, static_cast<unsigned>(form.codec),
                                              form.stored_bytes, identity.raw_bytes));
  }
  if (envelope_bytes != kChunkHeaderBytes + form.stored_bytes) {
    return lost(Loss::kChunkLength,
                fmt::format("chunk {} has {} bytes instead of {}", identity.index, envelope_bytes,
                            kChunkHeaderBytes + form.stored_bytes));
  }
  return form;
}

ChunkForm form_of(const StoredChunk& chunk) {
  return {chunk.codec, static_cast<std::uint32_t>(chunk.bytes->size()), chunk.raw_digest,
          chunk.bytes->digest()};
}

}  // namespace cistern::l2
