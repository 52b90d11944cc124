#include "server/l2/memcached_jobs.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include <fmt/format.h>

#include "server/l2/memcached_commit.h"

namespace cistern::l2 {
namespace {

using base::Loss;
using base::Status;
using std::chrono::steady_clock;

// Writes a manifest again as it is, for max_idle more, unless anything has changed meanwhile.
class Renewal final : public CallJob {
 public:
  Renewal(std::string manifest_name, const MemcachedLink::Item& item, base::Duration max_idle)
      : name_(std::move(manifest_name)),
        manifest_(proto::as_text(item.bytes)),
        cas_(item.cas),
        max_idle_(max_idle) {}
  void run(MemcachedLink& link) override {
    if (!link.check_clock()) return;  // the server is down, which others say
    const std::uint64_t expiry_s = link.clock().expiry_in(steady_clock::now(), max_idle_);
    link.cas(name_, manifest_, expiry_s, 0, cas_);
  }
  void refuse(const base::Error&) override {}  // a later read tries again

 private:
  const std::string name_;
  const std::string manifest_;
  const std::uint64_t cas_;
  const base::Duration max_idle_;
};

}  // namespace

void ManifestRead::on_read(const MemcachedLink::Item* item, bool too_large) {
  if (item != nullptr) return answer_(decode(*item));
  if (!too_large) return answer_(std::nullopt);
  const std::string why = fmt::format("what lies under it has more than {} bytes", most_bytes);
  on_corrupt(0, why);
  answer_(base::lost(Loss::kLength, why));
}

Result<std::optional<Manifest>> ManifestRead::decode(const MemcachedLink::Item& item) {
  const std::size_t server = pool_.server_of(key_);
  if (is_ghost(item, pool_.clock(server).seconds(steady_clock::now()))) return std::nullopt;
  auto manifest = decode_manifest(proto::as_bytes(key_), item.bytes);
  if (!manifest) {
    on_corrupt(item.cas, manifest.error().message);
    return tl::unexpected(manifest.error());
  }
  const std::uint64_t expires_at_ms = manifest->meta.expires_at_ms;
  if (expires_at_ms != 0 && expires_at_ms <= unix_ms_) return std::nullopt;
  // One whose commit is still under way has its writer to see to it.
  if (expires_at_ms == 0 && item.flags == 0 &&
      pool_.take_renewal(manifest->meta.version, steady_clock::now())) {
    // Refused at once when the server is down or busy; then a later read tries again.
    static_cast<void>(
        pool_.submit(server, std::make_shared<Renewal>(name, item, pool_.options().max_idle)));
  }
  return std::optional<Manifest>(std::move(*manifest));
}

void StampRead::on_read(const MemcachedLink::Item* item, bool too_large) {
  if (too_large)
    return answer_(base::lost(Loss::kLength, "this is not a manifest: it is too long"));
  if (item == nullptr || is_ghost(*item, clock_.seconds(steady_clock::now()))) {
    return answer_(std::nullopt);
  }
  const auto stamp = decode_stamp(item->bytes);
  if (!stamp) return answer_(tl::unexpected(stamp.error()));
  answer_(std::optional<Stamp>(*stamp));
}

void ChunkRead::on_read(const MemcachedLink::Item* item, bool too_large) {
  if (is_forgotten()) return answer_(base::fail(Status::kCancelled));
  if (item != nullptr) return answer_(decode(item->bytes));
  if (!too_large) {
    return answer_(base::lost(Loss::kMissing, fmt::format("chunk {} is missing", identity_.index)));
  }
  answer_(base::lost(Loss::kChunkLength,
                     fmt::format("chunk {} has more than {} bytes", identity_.index, most_bytes)));
}

Result<StoredChunk> ChunkRead::decode(base::Bytes stored) const {
  if (stored.size() <= kChunkHeaderBytes) {
    return base::lost(Loss::kChunkLength,
                      fmt::format("chunk {} has only {} bytes", identity_.index, stored.size()));
  }
  const auto form = decode_chunk_header(identity_, stored.first(kChunkHeaderBytes), stored.size());
  if (!form) return tl::unexpected(form.error());
  const base::Bytes payload = stored.subspan(kChunkHeaderBytes);
  if (proto::chunk_digest(payload) != form->stored_digest) {
    return base::lost(Loss::kChunkDigest,
                      fmt::format("chunk {} does not have its digest", identity_.index));
  }
  const auto chunk = base::Chunk::allocate(payload.size());
  std::copy(payload.begin(), payload.end(), chunk->space().begin());
  chunk->seal(payload.size(), form->stored_digest);
  return StoredChunk{form->codec, identity_.raw_bytes, form->raw_digest, chunk};
}

void ChunkWrite::run(MemcachedLink& link) {
  auto clock = link.check_clock();
  if (!clock) return refuse(clock.error());
  const std::uint64_t expiry_s = link.clock().expiry_in(steady_clock::now(), ttl_);
  std::string& whole = link.scratch();
  whole.clear();
  whole.append(proto::as_text(header_)).append(proto::as_text(chunk_->bytes()));
  chunk_.reset();
  const auto outcome = link.set(name_, whole, expiry_s);
  if (outcome.error) return refuse(*outcome.error);
  answer_({});
}

void ChunkWrite::refuse(const base::Error& why) {
  chunk_.reset();
  answer_(tl::unexpected(why));
}

void ChunkTouch::run(MemcachedLink& link) {
  if (auto clock = link.check_clock(); !clock) return refuse(clock.error());
  const std::uint64_t expiry_s = link.clock().expiry_in(steady_clock::now(), ttl_);
  std::uint64_t there = 0;
  for (const std::string& chunk : names_) {
    if (is_forgotten()) break;
    const auto outcome = link.touch(chunk, expiry_s);
    if (outcome.error) return refuse(*outcome.error);
    if (outcome.is(MemcachedLink::Reply::kStored)) ++there;
  }
  answer_(there);
}

}  // namespace cistern::l2
