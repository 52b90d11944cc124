// What lies in a second tier: manifests, chunks, and the replies in which Redis brings them.
#include <cstdlib>
#include <cstring>
#include <string>

#include "server/l2/envelope.h"
#include "server/l2/redis_receiver.h"
#include "tests/fuzz/targets.h"

namespace cistern::fuzz {
namespace {

using namespace l2;

constexpr std::size_t kDigestAt = kManifestFixedBytes - sizeof(std::uint64_t);

void require(bool holds) {
  if (!holds) std::abort();
}

// Takes a number of bytes from the front of what is left; fewer where there are fewer.
Bytes take(Bytes& input, std::size_t bytes) {
  const Bytes taken = input.first(std::min(bytes, input.size()));
  input = input.subspan(taken.size());
  return taken;
}

std::uint64_t number(Bytes bytes) {
  std::uint64_t value = 0;
  for (const std::byte byte : bytes) value = value << 8 | std::to_integer<std::uint64_t>(byte);
  return value;
}

void require_loss(const base::Error& error) {
  require(error.status == base::Status::kValueLost);
  require(base::loss_of(error) != base::Loss::kOther && !error.message.empty());
}

// A digest that fits, so that what is behind it is reached.
std::string with_digest(Bytes stored) {
  std::string sound(proto::as_text(stored));
  if (sound.size() < kManifestFixedBytes) return sound;
  auto* const at = reinterpret_cast<std::byte*>(sound.data());
  const std::size_t header = proto::load_le<std::uint32_t>(at + 32);
  if (header > sound.size() - kManifestFixedBytes) return sound;
  proto::store_le<std::uint64_t>(at + kDigestAt, 0);
  const auto digest =
      proto::chunk_digest(proto::as_bytes(sound).first(kManifestFixedBytes + header));
  proto::store_le<std::uint64_t>(at + kDigestAt, digest);
  return sound;
}

void check_manifest(Bytes key, Bytes stored) {
  const auto decoded = decode_manifest(key, stored);
  const auto stamp = decode_stamp(stored.first(std::min(stored.size(), kManifestFixedBytes)));
  if (!stamp) require_loss(stamp.error());
  if (!decoded) return require_loss(decoded.error());
  const base::ValueMeta& meta = decoded->meta;
  require(stamp && *stamp == stamp_of(meta));
  require(meta.size <= proto::kMaxValueBytes && meta.metadata.size() <= proto::kMaxMetadataBytes);
  require(meta.chunk_bytes >= proto::kMinChunkBytes && meta.chunk_bytes <= proto::kMaxChunkBytes);
  require(decoded->inline_bytes.size() == (meta.size <= kInlineBytes ? meta.size : 0));
  // What was accepted says the same when it is written again.
  const std::string again = encode_manifest(key, *decoded);
  const auto second = decode_manifest(key, proto::as_bytes(again));
  require(second && encode_manifest(key, *second) == again);
  require(second->meta.digest == meta.digest && second->meta.metadata == meta.metadata);
}

ChunkIdentity identity_of(Bytes& input) {
  ChunkIdentity identity;
  identity.version = number(take(input, 8));
  identity.key_hash = number(take(input, 8));
  identity.index = static_cast<std::uint32_t>(number(take(input, 2)));
  identity.raw_bytes = 1 + static_cast<std::uint32_t>(number(take(input, 2)));
  return identity;
}

// A header of its own making where `is_made`: few inputs have everything in it right but its form.
void check_chunk(Bytes input, bool is_made) {
  const ChunkIdentity identity = identity_of(input);
  std::uint64_t envelope_bytes = number(take(input, 4));
  ChunkHeader header{};
  if (is_made) {
    ChunkForm claim;
    claim.codec = static_cast<Codec>(number(take(input, 1)));
    const auto beside = static_cast<std::int8_t>(number(take(input, 1)));
    claim.stored_bytes = identity.raw_bytes + static_cast<std::uint32_t>(beside);
    claim.raw_digest = number(take(input, 1));
    claim.stored_digest = number(take(input, 1));
    header = encode_chunk_header(identity, claim);
    envelope_bytes = kChunkHeaderBytes + claim.stored_bytes;
  } else {
    const Bytes given = take(input, header.size());
    std::copy(given.begin(), given.end(), header.begin());
  }
  const auto form = decode_chunk_header(identity, header, envelope_bytes);
  if (!form) return require_loss(form.error());
  require(encode_chunk_header(identity, *form) == header);
  require(form->stored_bytes > 0 && form->stored_bytes <= identity.raw_bytes);
  require((form->codec == Codec::kRaw) == (form->stored_bytes == identity.raw_bytes));
  require(form->codec != Codec::kRaw || form->raw_digest == form->stored_digest);
  require(envelope_bytes == kChunkHeaderBytes + form->stored_bytes);
}

}  // namespace

void envelope(Bytes input) {
  if (input.empty()) return;
  const unsigned kind = std::to_integer<unsigned>(take(input, 1)[0]) % 4;
  if (kind == 0) return check_chunk(input, false);
  if (kind == 3) return check_chunk(input, true);
  const Bytes key = take(input, number(take(input, 1)));
  if (kind == 1) return check_manifest(key, input);
  const std::string sound = with_digest(input);
  check_manifest(key, proto::as_bytes(sound));
}

void redis_replies(Bytes input) {
  ReplyReceiver receiver;
  ReplyReceiver::Expected expected;
  const auto next_expected = [&] {
    const std::uint64_t choice = number(take(input, 1));
    expected.is_chunk = choice % 4 != 0;
    expected.wanted = choice % 8 != 1;
    expected.identity = {0x77, chunk_key_hash({}), static_cast<std::uint32_t>(choice >> 4),
                         static_cast<std::uint32_t>(100 + choice % 3 * 5000)};
  };
  next_expected();
  const std::size_t step = 1 + number(take(input, 1));
  while (!input.empty()) {
    const auto space = receiver.space();
    require(!space[0].empty());
    Bytes piece = take(input, std::min(step, space[0].size() + space[1].size()));
    const std::size_t bytes = piece.size();
    for (const base::MutableBytes& to : space) {
      const Bytes part = take(piece, to.size());
      std::copy(part.begin(), part.end(), to.begin());
    }
    receiver.received(bytes);
    for (;;) {
      auto event = receiver.next(&expected);
      if (event.kind == ReplyReceiver::Event::Kind::kNone) break;
      if (event.kind == ReplyReceiver::Event::Kind::kBroken) return;
      if (event.reply && event.reply->bytes != nullptr) {
        const StoredChunk& chunk = *event.reply;
        require(expected.is_chunk && expected.wanted);
        require(chunk.raw_bytes == expected.identity.raw_bytes);
        require(chunk.bytes->size() <= chunk.raw_bytes);
        require(chunk.bytes->digest() == proto::chunk_digest(chunk.bytes->bytes()));
        require(chunk.codec != Codec::kRaw || chunk.raw_digest == chunk.bytes->digest());
      }
      next_expected();
    }
  }
}

}  // namespace cistern::fuzz
