#include "server/l2/memcached_commit.h"

#include <chrono>
#include <utility>

#include <fmt/format.h>

#include "server/l2/envelope.h"

namespace cistern::l2 {
namespace {

using base::Status;
using std::chrono::steady_clock;

// Another client that writes the key all the time is not raced for longer than this.
constexpr int kMostAttempts = 50;
constexpr std::size_t kVersionOffset = 8;
constexpr std::size_t kChunkCountOffset = 16;
constexpr std::uint64_t kMaxChunkCount = proto::kMaxValueBytes / proto::kMinChunkBytes;

base::Error abandoned() {
  return {Status::kL2Timeout, "memcached did not answer in time; nothing was changed"};
}

}  // namespace

bool is_ghost(const MemcachedLink::Item& item, std::uint64_t server_s) {
  return item.flags != 0 && server_s >= item.flags;
}

ManifestGlance glance(const MemcachedLink::Item& item, std::uint64_t server_s,
                      std::uint64_t unix_ms) {
  ManifestGlance seen;
  const auto stamp = decode_stamp(item.bytes);
  if (!stamp || is_ghost(item, server_s)) return seen;
  if (stamp->expires_at_ms != 0 && stamp->expires_at_ms <= unix_ms) return seen;
  seen.is_there = true;
  seen.version = proto::load_le<std::uint64_t>(item.bytes.data() + kVersionOffset);
  const auto chunks = proto::load_le<std::uint64_t>(item.bytes.data() + kChunkCountOffset);
  seen.chunk_count = chunks <= kMaxChunkCount ? chunks : 0;
  return seen;
}

struct MemcachedCommit::Found {
  bool is_item = false;  // of whatever kind; then:
  std::uint64_t cas = 0;
  std::uint32_t flags = 0;
  bool is_ours = false;  // byte for byte
  ManifestGlance seen;
};

std::optional<base::TimePoint> MemcachedCommit::abandon() {
  const std::lock_guard lock(mutex_);
  is_abandoned_ = true;
  return over_;
}

bool MemcachedCommit::may_send(base::TimePoint over) {
  const std::lock_guard lock(mutex_);
  if (is_abandoned_) return false;
  over_ = over;
  return true;
}

bool MemcachedCommit::may_go_on() {
  const std::lock_guard lock(mutex_);
  return !is_abandoned_;
}

void MemcachedCommit::nothing_sent() {
  const std::lock_guard lock(mutex_);
  over_.reset();
}

base::Result<MemcachedCommit::Found> MemcachedCommit::look(MemcachedLink& link) const {
  Found found;
  const auto read = link.read(
      {&request_.manifest_name, 1}, kMaxManifestBytes, [&](std::size_t, const Item* item) {
        found.is_item = true;
        if (item == nullptr) return;
        found.cas = item->cas;
        found.flags = item->flags;
        found.is_ours = proto::as_text(item->bytes) == request_.manifest;
        found.seen = glance(*item, link.clock().seconds(steady_clock::now()), request_.unix_ms);
      });
  if (!read) return tl::unexpected(read.error());
  if (found.is_item && found.cas == 0) {
    return base::fail(Status::kL2Error,
                      "memcached gives no cas ids, or something that isn't ours is under the "
                      "key: start it without -C, or choose another l2.memcached.key_prefix");
  }
  return found;
}

bool MemcachedCommit::holds(const Found& found) const {
  if (request_.only_if_cas != 0) return found.is_item && found.cas == request_.only_if_cas;
  return request_.condition.holds(found.seen.is_there ? std::optional(found.seen.version)
                                                      : std::nullopt);
}

void MemcachedCommit::run(MemcachedLink& link) {
  base::Result<Answer> answer = first_step(link);
  const bool is_write = !request_.manifest.empty();
  if (answer && answer->kind == CommitKind::kCommitted && is_write) {
    answer = second_step(link, std::move(*answer));
  }
  done_(std::move(answer));
}

base::Result<MemcachedCommit::Answer> MemcachedCommit::first_step(MemcachedLink& link) {
  if (auto clock = link.check_clock(); !clock) return tl::unexpected(clock.error());
  for (int attempt = 0; attempt < kMostAttempts; ++attempt) {
    const auto found = look(link);
    if (!found) return tl::unexpected(found.error());
    Answer answer;
    answer.old = found->seen;
    answer.kind = CommitKind::kConditionFailed;
    if (!holds(*found)) return answer;
    answer.kind = CommitKind::kCommitted;
    const bool is_removal = request_.manifest.empty();
    if (is_removal && !found->is_item) return answer;

    const auto limit = link.clock().limit(steady_clock::now(), window_);
    // A removal can be said to be unknown at once (see the header).
    if (!may_send(is_removal ? steady_clock::now() : limit.over)) {
      return tl::unexpected(abandoned());
    }
    MemcachedLink::Outcome outcome;
    if (is_removal) {
      outcome = link.cas(request_.manifest_name, {}, kLongPastSeconds, 0, found->cas);
    } else {
      const auto flags = static_cast<std::uint32_t>(limit.expiry_s);
      outcome = found->is_item
                    ? link.cas(request_.manifest_name, request_.manifest, limit.expiry_s, flags,
                               found->cas)
                    : link.add(request_.manifest_name, request_.manifest, limit.expiry_s, flags);
    }
    if (outcome.error && !outcome.is_definite) {
      answer.kind = CommitKind::kUnknown;
      answer.cause = outcome.error->message;
      return answer;
    }
    if (outcome.is(MemcachedLink::Reply::kStored)) return answer;
    nothing_sent();
    if (outcome.error) return tl::unexpected(*outcome.error);
    // Somebody else was faster: what is there now is judged anew.
  }
  return base::fail(Status::kL2Busy,
                    fmt::format("somebody else wrote the key each of the {} times that it was "
                                "tried",
                                kMostAttempts));
}

base::Result<MemcachedCommit::Answer> MemcachedCommit::second_step(MemcachedLink& link,
                                                                   Answer answer) {
  const auto unknown = [&](std::string cause) {
    answer.kind = CommitKind::kUnknown;
    answer.cause = std::move(cause);
    return answer;
  };
  for (int attempt = 0; attempt < kMostAttempts; ++attempt) {
    const auto found = look(link);
    if (!found) return unknown(found.error().message);
    if (!found->is_item) {
      // If its time was over too soon, what is known of the clock is wrong.
      link.clock().doubt();
      return unknown("the manifest was gone before its expiry could be set: evicted or removed");
    }
    // Replaced since; or a step 2 of ours, or who has renewed it, has been there.
    if (!found->is_ours || found->flags == 0) return answer;
    if (!may_go_on()) return unknown("memcached did not answer in time");
    const base::TimePoint now = steady_clock::now();
    const std::uint64_t expiry_s = link.clock().expiry_in(now, request_.keep_until - now);
    const auto outcome =
        link.cas(request_.manifest_name, request_.manifest, expiry_s, 0, found->cas);
    if (outcome.error) return unknown(outcome.error->message);
    if (outcome.is(MemcachedLink::Reply::kStored)) return answer;
  }
  return unknown("somebody else wrote the key all the time");
}

}  // namespace cistern::l2
