#include <cstring>
#include <random>
#include <set>
#include <string>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "server/l2/envelope.h"
#include "server/l2/keys.h"
#include "server/l2/redis_url.h"

namespace cistern::l2 {
namespace {

using base::Bytes;
using base::Loss;
using base::Status;
using proto::as_bytes;
using proto::as_text;

constexpr std::uint32_t kChunk = 8192;

proto::ValueDigest digest_of(Bytes value, std::uint32_t chunk_bytes) {
  proto::ValueHasher hasher;
  for (std::size_t at = 0; at < value.size(); at += chunk_bytes) {
    hasher.add(proto::chunk_digest(
        value.subspan(at, std::min<std::size_t>(chunk_bytes, value.size() - at))));
  }
  return hasher.finish(chunk_bytes, value.size());
}

Manifest inline_manifest(std::string_view value, std::string metadata = R"({"a": "ü", "b":[1]})") {
  Manifest manifest;
  manifest.meta.size = value.size();
  manifest.meta.version = 0x0123456789abcdef;
  manifest.meta.expires_at_ms = 1'700'000'000'000;
  manifest.meta.chunk_bytes = kChunk;
  manifest.meta.metadata = std::move(metadata);
  manifest.meta.digest = digest_of(as_bytes(value), kChunk);
  manifest.inline_bytes.assign(as_bytes(value).begin(), as_bytes(value).end());
  return manifest;
}

Manifest chunked_manifest() {
  Manifest manifest = inline_manifest("");
  manifest.meta.size = 10 * kChunk + 1;
  return manifest;
}

void expect_same(const Manifest& a, const Manifest& b) {
  EXPECT_EQ(a.meta.size, b.meta.size);
  EXPECT_EQ(a.meta.version, b.meta.version);
  EXPECT_EQ(a.meta.expires_at_ms, b.meta.expires_at_ms);
  EXPECT_EQ(a.meta.chunk_bytes, b.meta.chunk_bytes);
  EXPECT_EQ(a.meta.digest, b.meta.digest);
  EXPECT_EQ(a.meta.metadata, b.meta.metadata);
  EXPECT_EQ(a.inline_bytes, b.inline_bytes);
}

Status status_of(std::string_view key, std::string_view stored) {
  const auto decoded = decode_manifest(as_bytes(key), as_bytes(stored));
  return decoded ? Status::kOk : decoded.error().status;
}

// Empty when it is accepted.
std::optional<Loss> loss_of(std::string_view key, std::string_view stored) {
  const auto decoded = decode_manifest(as_bytes(key), as_bytes(stored));
  if (decoded) return std::nullopt;
  EXPECT_EQ(decoded.error().status, Status::kValueLost);
  return base::loss_of(decoded.error());
}

// A manifest that carries `json`, with a digest that fits, as only a writer with a defect or an
// attacker makes one.
std::string forged(const std::string& json, std::uint64_t version, std::uint64_t chunk_count,
                   std::string_view payload, bool is_inline) {
  std::string fixed(kManifestFixedBytes, '\0');
  std::memcpy(fixed.data(), "CSTM\2", 5);
  fixed[5] = is_inline ? 1 : 0;
  auto* const at = reinterpret_cast<std::byte*>(fixed.data());
  proto::store_le(at + 8, version);
  proto::store_le(at + 16, chunk_count);
  proto::store_le(at + 32, static_cast<std::uint32_t>(json.size()));
  proto::store_le(at + 36, static_cast<std::uint32_t>(payload.size()));
  proto::store_le(at + 40, proto::chunk_digest(as_bytes(fixed + json)));
  return fixed + json + std::string(payload);
}

TEST(ManifestEnvelope, GivesBackWhatWasPutIn) {
  const std::string values[] = {"", "x", std::string(kChunk, 'y'), std::string(kInlineBytes, 'z')};
  const std::string keys[] = {"plain", "with space", std::string("\0\xff", 2),
                              std::string(4096, 'k'), "snow\xe2\x98\x83"};
  for (const std::string& key : keys) {
    for (const std::string& value : values) {
      const Manifest manifest = inline_manifest(value);
      const std::string stored = encode_manifest(as_bytes(key), manifest);
      const auto decoded = decode_manifest(as_bytes(key), as_bytes(stored));
      ASSERT_TRUE(decoded) << decoded.error().message;
      expect_same(*decoded, manifest);
      EXPECT_EQ(decoded->inline_digest, proto::chunk_digest(as_bytes(value)));
    }
    const Manifest manifest = chunked_manifest();
    const auto decoded =
        decode_manifest(as_bytes(key), as_bytes(encode_manifest(as_bytes(key), manifest)));
    ASSERT_TRUE(decoded) << decoded.error().message;
    expect_same(*decoded, manifest);
  }
}

TEST(ManifestEnvelope, KeepsMetadataByteForByte) {
  std::string every_byte;
  for (int c = 0; c < 256; ++c) every_byte += static_cast<char>(c);
  const std::string most(proto::kMaxMetadataBytes, '\x01');
  for (const std::string& metadata :
       {std::string(), std::string("{}"), std::string("{ \"a\" :\t1.0e0,\n\"a\":2}"), every_byte,
        most}) {
    const Manifest manifest = inline_manifest("v", metadata);
    const std::string stored = encode_manifest(as_bytes("k"), manifest);
    EXPECT_LE(stored.size(), kMaxManifestBytes);
    const auto decoded = decode_manifest(as_bytes("k"), as_bytes(stored));
    ASSERT_TRUE(decoded) << decoded.error().message;
    EXPECT_EQ(decoded->meta.metadata, metadata);
  }
}

TEST(ManifestEnvelope, LargestManifestFitsItsBound) {
  const std::string key(proto::kMaxKeyBytes, '\x01');
  const Manifest manifest = inline_manifest(std::string(kInlineBytes, 'v'),
                                            std::string(proto::kMaxMetadataBytes, '\x01'));
  const std::string stored = encode_manifest(as_bytes(key), manifest);
  EXPECT_LE(stored.size(), kMaxManifestBytes);
  EXPECT_EQ(status_of(key, stored), Status::kOk);
}

TEST(ManifestEnvelope, VersionAndChunkCountStandAtFixedOffsets) {
  const std::string stored = encode_manifest(as_bytes("k"), chunked_manifest());
  EXPECT_EQ(stored.substr(0, 5), "CSTM\2");
  EXPECT_EQ(proto::load_le<std::uint64_t>(as_bytes(stored).data() + 8), 0x0123456789abcdefu);
  EXPECT_EQ(proto::load_le<std::uint64_t>(as_bytes(stored).data() + 16), 11u);
}

TEST(ManifestEnvelope, RefusesEveryTruncationAndAppendix) {
  for (const Manifest& manifest : {inline_manifest("some value"), chunked_manifest()}) {
    const std::string stored = encode_manifest(as_bytes("key"), manifest);
    for (std::size_t length = 0; length < stored.size(); ++length) {
      // A buffer of its own, so that a sanitizer sees a read past its end.
      const std::vector<char> cut(stored.begin(), stored.begin() + static_cast<long>(length));
      EXPECT_EQ(status_of("key", {cut.data(), cut.size()}), Status::kValueLost) << length;
    }
    EXPECT_EQ(status_of("key", stored + "x"), Status::kValueLost);
  }
}

TEST(ManifestEnvelope, RefusesEveryFlippedBit) {
  for (const Manifest& manifest : {inline_manifest("some value"), chunked_manifest()}) {
    const std::string stored = encode_manifest(as_bytes("key"), manifest);
    for (std::size_t bit = 0; bit < 8 * stored.size(); ++bit) {
      std::string flipped = stored;
      flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
      EXPECT_EQ(status_of("key", flipped), Status::kValueLost) << bit;
    }
  }
}

TEST(ManifestEnvelope, RefusesRandomBytes) {
  std::mt19937_64 random(20240607);
  for (int i = 0; i < 2000; ++i) {
    std::string bytes(random() % 200, '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    if (i % 2 == 0 && bytes.size() >= 5) std::memcpy(bytes.data(), "CSTM\2", 5);
    EXPECT_EQ(status_of("key", bytes), Status::kValueLost);
  }
}

TEST(ManifestEnvelope, RefusesTheManifestOfAnotherKey) {
  const std::string stored = encode_manifest(as_bytes("key"), inline_manifest("v"));
  EXPECT_EQ(status_of("key2", stored), Status::kValueLost);
  EXPECT_EQ(status_of("key", stored), Status::kOk);
}

TEST(ManifestEnvelope, RefusesLengthsThatLie) {
  const std::string stored = encode_manifest(as_bytes("key"), inline_manifest("some value"));
  for (const std::size_t field : {std::size_t{32}, std::size_t{36}}) {
    for (const std::uint32_t lie : {0u, 1u, 0x7fffffffu, 0x80000000u, 0xffffffffu, 0xfffffff0u}) {
      std::string bytes = stored;
      proto::store_le(reinterpret_cast<std::byte*>(bytes.data()) + field, lie);
      EXPECT_EQ(status_of("key", bytes), Status::kValueLost);
    }
  }
}

TEST(ManifestEnvelope, RefusesSizesThatContradictEachOther) {
  const Manifest manifest = chunked_manifest();
  const std::string stored = encode_manifest(as_bytes("key"), manifest);
  const auto json = nlohmann::json::parse(stored.substr(kManifestFixedBytes));
  const std::uint64_t version = manifest.meta.version;
  EXPECT_EQ(status_of("key", forged(json.dump(), version, 11, "", false)), Status::kOk);
  EXPECT_EQ(status_of("key", forged(json.dump(), version, 10, "", false)), Status::kValueLost);
  EXPECT_EQ(status_of("key", forged(json.dump(), version + 1, 11, "", false)), Status::kValueLost);
  EXPECT_EQ(status_of("key", forged(json.dump(), version, 11, "x", false)), Status::kValueLost);
  EXPECT_EQ(status_of("key", forged(json.dump(), version, 0, "", true)), Status::kValueLost);
  const auto with = [&](const char* field, const nlohmann::json& value) {
    auto changed = json;
    changed[field] = value;
    return forged(changed.dump(), version, 11, "", false);
  };
  const std::pair<const char*, nlohmann::json> lies[] = {
      {"size", 10 * kChunk},
      {"size", 11 * kChunk + 1},
      {"size", 0},
      {"size", -1},
      {"size", 1.5},
      {"size", "90113"},
      {"size", ~std::uint64_t{0}},
      {"size", proto::kMaxValueBytes + 1},
      {"chunk_bytes", 0},
      {"chunk_bytes", 8191},
      {"chunk_bytes", 4096},
      {"chunk_bytes", 32 * proto::kMiB},
      {"chunk_bytes", 1ull << 32},
      {"version", "123"},
      {"version", "0123456789abcdeg"},
      {"digest", ""},
      {"digest", nullptr},
      {"key", "other"},
      {"key", 7},
      {"meta", 7},
      {"meta", std::string(proto::kMaxMetadataBytes + 1, 'm')}};
  for (const auto& [field, value] : lies) {
    EXPECT_EQ(status_of("key", with(field, value)), Status::kValueLost) << field << value;
  }
  for (const char* text : {"", "{", "[]", "7", "{}", "null", "\xff"}) {
    EXPECT_EQ(status_of("key", forged(text, version, 11, "", false)), Status::kValueLost) << text;
  }
}

TEST(ManifestEnvelope, RefusesAnInlineValueWithoutItsDigest) {
  Manifest manifest = inline_manifest("some value");
  const std::string stored = encode_manifest(as_bytes("key"), manifest);
  const std::string json =
      stored.substr(kManifestFixedBytes, stored.size() - kManifestFixedBytes - 10);
  EXPECT_EQ(status_of("key", forged(json, manifest.meta.version, 0, "some value", true)),
            Status::kOk);
  EXPECT_EQ(status_of("key", forged(json, manifest.meta.version, 0, "some valuf", true)),
            Status::kValueLost);
  EXPECT_EQ(status_of("key", forged(json, manifest.meta.version, 0, "some valu", true)),
            Status::kValueLost);
}

TEST(ChunkEnvelope, AcceptsOnlyItsOwnHeader) {
  const ChunkIdentity identity{0x1122334455667788, chunk_key_hash(as_bytes("key")), 7, 1000};
  const ChunkForm raw{Codec::kRaw, 1000, 0xabcdef, 0xabcdef};
  const ChunkHeader header = encode_chunk_header(identity, raw);
  const auto form = decode_chunk_header(identity, header, kChunkHeaderBytes + 1000);
  ASSERT_TRUE(form);
  EXPECT_EQ(form->codec, Codec::kRaw);
  EXPECT_EQ(form->stored_bytes, 1000u);
  EXPECT_EQ(form->raw_digest, 0xabcdefu);
  EXPECT_EQ(form->stored_digest, 0xabcdefu);
  for (std::size_t bit = 0; bit < 8 * header.size(); ++bit) {
    ChunkHeader flipped = header;
    flipped[bit / 8] ^= std::byte{1} << (bit % 8);
    EXPECT_FALSE(decode_chunk_header(identity, flipped, kChunkHeaderBytes + 1000)) << bit;
  }
  for (const std::uint64_t bytes : {0, 56, 999, 1055, 1057}) {
    EXPECT_FALSE(decode_chunk_header(identity, header, bytes)) << bytes;
  }
  for (const ChunkIdentity& other :
       {ChunkIdentity{1, identity.key_hash, 7, 1000}, ChunkIdentity{identity.version, 1, 7, 1000},
        ChunkIdentity{identity.version, identity.key_hash, 8, 1000},
        ChunkIdentity{identity.version, identity.key_hash, 7, 999}}) {
    const auto refused = decode_chunk_header(other, header, kChunkHeaderBytes + 1000);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().status, Status::kValueLost);
  }
}

TEST(ChunkEnvelope, ACompressedChunkIsSmallerThanItsBytes) {
  const ChunkIdentity identity{0x1122334455667788, chunk_key_hash(as_bytes("key")), 7, 1000};
  const auto decoded = [&](Codec codec, std::uint32_t stored_bytes) {
    const ChunkHeader header = encode_chunk_header(identity, {codec, stored_bytes, 1, 2});
    return decode_chunk_header(identity, header, kChunkHeaderBytes + stored_bytes);
  };
  const auto form = decoded(Codec::kZstd, 999);
  ASSERT_TRUE(form) << form.error().message;
  EXPECT_EQ(form->codec, Codec::kZstd);
  EXPECT_EQ(form->stored_bytes, 999u);
  EXPECT_EQ(form->raw_digest, 1u);
  EXPECT_EQ(form->stored_digest, 2u);
  EXPECT_TRUE(decoded(Codec::kZstd, 1));
  for (const std::uint32_t bytes : {0u, 1000u, 1001u, 0x7fffffffu, 0xffffffffu}) {
    EXPECT_FALSE(decoded(Codec::kZstd, bytes)) << bytes;
  }
  EXPECT_FALSE(decoded(Codec::kRaw, 1000)) << "raw, and the two digests differ";
  EXPECT_FALSE(decoded(Codec::kRaw, 999));
  for (int codec = 2; codec < 256; ++codec) {
    EXPECT_FALSE(decoded(static_cast<Codec>(codec), 999)) << codec;
    EXPECT_FALSE(decoded(static_cast<Codec>(codec), 1000)) << codec;
  }
}

TEST(ManifestEnvelope, SaysWhyItIsRefused) {
  const Manifest manifest = inline_manifest("some value");
  const std::string stored = encode_manifest(as_bytes("key"), manifest);
  const std::uint64_t version = manifest.meta.version;
  const auto with = [&](std::size_t at, char byte) {
    std::string changed = stored;
    changed[at] = byte;
    return changed;
  };
  EXPECT_EQ(loss_of("key", stored), std::nullopt);
  EXPECT_EQ(loss_of("key", with(0, 'X')), Loss::kMagic);
  for (const char envelope : {'\0', '\1', '\3', '\xff'}) {
    EXPECT_EQ(loss_of("key", with(4, envelope)), Loss::kEnvelopeVersion);
  }
  EXPECT_EQ(loss_of("key", with(5, '\3')), Loss::kFlags);
  EXPECT_EQ(loss_of("key", with(6, '\1')), Loss::kFlags);
  EXPECT_EQ(loss_of("key", with(31, '\x7f')), Loss::kField) << "an absurd expiry";
  EXPECT_EQ(loss_of("key", with(35, '\x7f')), Loss::kLength) << "a header that ends elsewhere";
  EXPECT_EQ(loss_of("key", with(39, '\x7f')), Loss::kLength);
  EXPECT_EQ(loss_of("key", stored.substr(0, 20)), Loss::kLength);
  EXPECT_EQ(loss_of("key", stored + "x"), Loss::kLength);
  EXPECT_EQ(loss_of("key", with(9, 'x')), Loss::kManifestDigest);
  EXPECT_EQ(loss_of("key", with(kManifestFixedBytes + 3, 'x')), Loss::kManifestDigest);
  EXPECT_EQ(loss_of("key", with(stored.size() - 1, 'x')), Loss::kInlineDigest);
  EXPECT_EQ(loss_of("other", stored), Loss::kOtherKey);
  EXPECT_EQ(loss_of("key", forged("[]", version, 11, "", false)), Loss::kJson);
  EXPECT_EQ(loss_of("key", forged("{}", version, 11, "", false)), Loss::kField);
  const std::string large = encode_manifest(as_bytes("key"), chunked_manifest());
  const std::string json = large.substr(kManifestFixedBytes);
  EXPECT_EQ(loss_of("key", forged(json, version, 12, "", false)), Loss::kContradiction);
}

TEST(ChunkEnvelope, SaysWhyItIsRefused) {
  const ChunkIdentity identity{0x1122334455667788, chunk_key_hash(as_bytes("key")), 7, 1000};
  const auto why = [&](const ChunkIdentity& claimed, const ChunkForm& form, std::uint64_t bytes) {
    const auto refused = decode_chunk_header(identity, encode_chunk_header(claimed, form), bytes);
    return refused ? std::optional<Loss>() : base::loss_of(refused.error());
  };
  const ChunkForm raw{Codec::kRaw, 1000, 5, 5};
  EXPECT_EQ(why(identity, raw, kChunkHeaderBytes + 1000), std::nullopt);
  EXPECT_EQ(why(identity, raw, kChunkHeaderBytes + 999), Loss::kChunkLength);
  EXPECT_EQ(why(identity, {Codec::kRaw, 999, 5, 5}, kChunkHeaderBytes + 999), Loss::kChunkForm);
  ChunkIdentity other = identity;
  other.index = 8;
  EXPECT_EQ(why(other, raw, kChunkHeaderBytes + 1000), Loss::kChunkHeader);
}

TEST(ManifestEnvelope, ItsStampIsTheVersionAndTheExpiry) {
  const Manifest manifest = chunked_manifest();
  const std::string stored = encode_manifest(as_bytes("key"), manifest);
  const auto stamp = decode_stamp(as_bytes(stored).first(kManifestFixedBytes));
  ASSERT_TRUE(stamp) << stamp.error().message;
  EXPECT_EQ(*stamp, stamp_of(manifest.meta));
  EXPECT_EQ(decode_stamp(as_bytes(stored).first(kManifestFixedBytes - 1)).error().status,
            Status::kValueLost);
  std::string other = stored;
  other[0] = 'X';
  EXPECT_EQ(decode_stamp(as_bytes(other)).error().status, Status::kValueLost);
  std::string absurd = stored;
  proto::store_le(reinterpret_cast<std::byte*>(absurd.data()) + 24, ~std::uint64_t{0});
  EXPECT_EQ(decode_stamp(as_bytes(absurd)).error().status, Status::kValueLost);
}

TEST(Names, AreReadableWhereTheyCanBeAndNeverCollide) {
  EXPECT_EQ(manifest_name("p:", as_bytes("user/42")), "p:m:user/42");
  EXPECT_EQ(manifest_name("p:", as_bytes(std::string(200, 'a'))), "p:m:" + std::string(200, 'a'));
  std::set<std::string> names;
  const std::string keys[] = {
      "", " ", "a b", "#", "#abc", "\x7f", "\n", std::string(201, 'a'), "snow\xe2\x98\x83"};
  for (const std::string& key : keys) {
    const std::string name = manifest_name("p:", as_bytes(key));
    EXPECT_EQ(name.substr(0, 5), "p:m:#") << key;
    EXPECT_EQ(name.size(), 5u + 32u);
    EXPECT_TRUE(names.insert(name).second);
    // A key that looks like a hashed name is hashed itself.
    EXPECT_NE(manifest_name("p:", as_bytes(name.substr(4))), name);
  }
  const ChunkNames chunks("p:", as_bytes("user/42"), 0xabc);
  EXPECT_EQ(chunks.name(0).substr(0, 4), "p:c:");
  EXPECT_TRUE(chunks.name(17).ends_with(":0000000000000abc:17"));
}

TEST(RedisUrl, ReadsEveryForm) {
  const auto plain = parse_redis_url("redis://127.0.0.1:6380/3");
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->host, "127.0.0.1");
  EXPECT_EQ(plain->port, 6380);
  EXPECT_EQ(plain->db, 3u);
  EXPECT_TRUE(plain->password.empty());
  const auto login = parse_redis_url("redis://al%40ice:s%3Ae%2Fc%40r@[::1]/");
  ASSERT_TRUE(login);
  EXPECT_EQ(login->user, "al@ice");
  EXPECT_EQ(login->password, "s:e/c@r");
  EXPECT_EQ(login->host, "::1");
  EXPECT_EQ(login->port, 6379);
  EXPECT_EQ(display(*login), "tcp://[::1]:6379/0");
  const auto local = parse_redis_url("unix://:pw@/run/my%20redis.sock?db=2");
  ASSERT_TRUE(local);
  EXPECT_EQ(local->unix_path, "/run/my redis.sock");
  EXPECT_EQ(local->password, "pw");
  EXPECT_EQ(local->db, 2u);
  EXPECT_EQ(display(*local), "unix:///run/my redis.sock?db=2");
  EXPECT_EQ(parse_redis_url("redis://host")->host, "host");
}

TEST(RedisUrl, RefusesWhatItDoesNotUnderstandWithoutTellingThePassword) {
  for (const char* text : {"",
                           "127.0.0.1",
                           "http://h",
                           "redis://",
                           "redis://:6379",
                           "redis://h:0",
                           "redis://h:65536",
                           "redis://h:x",
                           "redis://h/x",
                           "redis://h/-1",
                           "redis://[::1",
                           "redis://[::1]x",
                           "redis://hunter2@h",
                           "redis://u:@h",
                           "redis://u:hunter2%@h",
                           "redis://u:hunter2%4@h",
                           "redis://u:hunter2%zz@h",
                           "redis://u:hunter2%00@h",
                           "unix://relative",
                           "unix:///p?x=1",
                           "unix:///p?db=x",
                           "redis://h ost",
                           "rediss://u:hunter2@h"}) {
    const auto refused = parse_redis_url(text);
    ASSERT_FALSE(refused) << text;
    EXPECT_EQ(refused.error().status, Status::kBadRequest);
    EXPECT_NE(refused.error().message.find("l2.redis.url"), std::string::npos);
    EXPECT_EQ(refused.error().message.find("hunter2"), std::string::npos) << text;
  }
  EXPECT_NE(parse_redis_url("rediss://h").error().message.find("TLS"), std::string::npos);
}

}  // namespace
}  // namespace cistern::l2
