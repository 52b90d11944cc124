#include <algorithm>

#include "tests/bench/load/cistern_driver.h"

namespace cistern::bench {
namespace {

void append_to(std::string& out, const std::vector<std::byte>& bytes) {
  out += proto::as_text(bytes);
}

}  // namespace

CisternSystem::CisternSystem(const Corpus& corpus, const SystemOptions& options)
    : corpus_(corpus),
      options_(options),
      gets_([this](std::string& out, KeyIndex key) { format_get(out, key); }),
      puts_([this](std::string& out, KeyIndex key) { format_put(out, key); }) {
  if (options.has_gets) gets_.prepare(options.first_key, options.keys);
}

std::unique_ptr<Driver> CisternSystem::driver() { return std::make_unique<CisternDriver>(*this); }

void CisternSystem::on_welcome(const proto::Welcome& welcome) {
  const bool is_same = is_welcome_ && welcome.chunk_bytes == welcome_.chunk_bytes &&
                       welcome.max_inline_bytes == welcome_.max_inline_bytes;
  welcome_ = welcome;
  welcome_.name = {};
  is_welcome_ = true;
  if (!is_same && options_.has_puts) puts_.prepare(options_.first_key, options_.keys);
}

proto::ChunkDigest CisternSystem::digest(KeyIndex key, std::uint64_t position,
                                         std::uint64_t bytes) {
  const auto [at, is_new] = digests_.try_emplace({corpus_.phase(key, position), bytes});
  if (is_new) {
    proto::ChunkHasher hasher;
    for (std::uint64_t done = 0; done < bytes;) {
      const proto::Bytes piece = corpus_.piece(key, position + done, bytes - done);
      hasher.add(piece);
      done += piece.size();
    }
    at->second = hasher.finish();
  }
  return at->second;
}

void CisternSystem::format_get(std::string& out, KeyIndex key) const {
  const std::string name = corpus_.key(key);
  proto::GetRequest request;
  request.key = proto::as_bytes(name);
  request.credit_bytes = corpus_.size(key) <= kSmallValueBytes
                             ? static_cast<std::uint32_t>(kSmallValueBytes)
                             : options_.window_bytes;
  std::vector<std::byte> frame;
  proto::encode(frame, 1, request);
  append_to(out, frame);
}

void CisternSystem::format_put(std::string& out, KeyIndex key) const {
  const std::string name = corpus_.key(key);
  proto::PutRequest request;
  request.key = proto::as_bytes(name);
  request.size = corpus_.size(key);
  request.ttl_ms = options_.ttl_ms;
  request.is_inline = is_inline(request.size);
  if (request.is_inline) {
    request.inline_bytes = corpus_.piece(key, 0, request.size);
    const proto::ChunkDigest digest = proto::chunk_digest(request.inline_bytes);
    request.inline_digest =
        proto::ValueHasher::of_single(digest, welcome_.chunk_bytes, request.size);
  }
  std::vector<std::byte> frame;
  proto::encode(frame, 1, request);
  // The bytes are the corpus'; only what stands before them is kept.
  frame.resize(frame.size() - request.inline_bytes.size());
  append_to(out, frame);
}

std::unique_ptr<System> make_cistern(const Corpus& corpus, const SystemOptions& options) {
  return std::make_unique<CisternSystem>(corpus, options);
}

}  // namespace cistern::bench
