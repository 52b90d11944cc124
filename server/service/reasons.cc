#include "server/service/reasons.h"

#include <algorithm>
#include <utility>

namespace cistern::service {
namespace {

using base::Event;
using base::Reason;
using base::Status;

// Between what the service notes and what it then does to L1, in one turn of a loop.
constexpr base::Duration kSameCause = std::chrono::milliseconds(100);

bool is_consequence(Reason in_l1) {
  return in_l1 == Reason::kInvalidated || in_l1 == Reason::kReplaced;
}

// Whether L1's event says more.
bool prefer_l1(const Event& l1, const Event& service) {
  const base::Duration later = l1.at - service.at;
  if (later > kSameCause) return true;
  if (later < -kSameCause) return false;
  // The same DELETE: L1 knows what it was of.
  if (l1.reason == service.reason) return service.limit == 0;
  return later > base::Duration{0} && !is_consequence(l1.reason);
}

// `event` is what a kValueLost means.
void note_failure(const NotingStore::To& to, std::uint64_t hash, const base::Error& error,
                  Event event) {
  switch (error.status) {
    case Status::kValueLost:
      break;
    case Status::kL2Unavailable:
    case Status::kL2Timeout:
    case Status::kL2Busy:
    case Status::kL2Error:
    case Status::kOutcomeUnknown:
      event = {.reason = Reason::kUnreachable};
      break;
    default:
      return;  // of this daemon's, or of the request
  }
  event.at = to.loop.now();
  event.status = error.status;
  to.reasons.note(hash, event);
}

}  // namespace

Reasons::Reasons(std::uint64_t l1_budget_bytes) {
  for (auto& stripe : stripes_) {
    stripe =
        std::make_unique<Stripe>(base::ReasonTable::slots_for(l1_budget_bytes / stripes_.size()));
  }
}

void Reasons::note(std::uint64_t hash, const Event& event) {
  Stripe& stripe = stripe_of(hash);
  const std::lock_guard lock(stripe.mutex);
  stripe.table.note(static_cast<std::uint32_t>(hash), event);
}

base::ReasonTable::Memory Reasons::recall(std::uint64_t hash) const {
  const Stripe& stripe = stripe_of(hash);
  const std::lock_guard lock(stripe.mutex);
  return stripe.table.recall(static_cast<std::uint32_t>(hash));
}

base::ReasonTable::Memory join(const base::ReasonTable::Memory& l1,
                               const base::ReasonTable::Memory& service) {
  base::ReasonTable::Memory memory;
  memory.last = l1.last;
  if (service.last && (!l1.last || !prefer_l1(*l1.last, *service.last))) memory.last = service.last;
  for (const auto& since : {l1.since, service.since}) {
    if (since && (!memory.since || *since > *memory.since)) memory.since = since;
  }
  if (memory.last && memory.since && *memory.since <= memory.last->at) memory.since.reset();
  return memory;
}

void NotingStore::get_manifest(std::string key, l2::Callback<std::optional<l2::Manifest>> done) {
  const std::uint64_t hash = base::hash_key(proto::as_bytes(key));
  store_.get_manifest(std::move(key), [to = to_, hash, done = std::move(done)](
                                          base::Result<std::optional<l2::Manifest>> manifest) {
    if (!manifest && manifest.error().status == Status::kValueLost) {
      to.metrics.count_lost(base::loss_of(manifest.error()));
    }
    if (!manifest) note_failure(to, hash, manifest.error(), {.reason = Reason::kCorrupt});
    done(std::move(manifest));
  });
}

l2::Store::ReadId NotingStore::read_chunk(const std::string& key, const base::ValueMeta& meta,
                                          std::uint64_t index, l2::Form form,
                                          l2::Callback<l2::StoredChunk> done) {
  const std::uint64_t hash = base::hash_key(proto::as_bytes(key));
  return store_.read_chunk(key, meta, index, form,
                           [to = to_, hash, size = meta.size, version = meta.version,
                            done = std::move(done)](base::Result<l2::StoredChunk> chunk) {
                             if (!chunk) {
                               const bool missing = l2::is_missing(chunk.error());
                               note_failure(to, hash, chunk.error(),
                                            {.reason = missing ? Reason::kLost : Reason::kCorrupt,
                                             .size = size,
                                             .version = version});
                             }
                             done(std::move(chunk));
                           });
}

void NotingStore::remove(std::string key, const base::Condition& condition,
                         l2::Callback<l2::CommitResult> done) {
  const std::uint64_t hash = base::hash_key(proto::as_bytes(key));
  store_.remove(
      std::move(key), condition,
      [to = to_, hash, done = std::move(done)](base::Result<l2::CommitResult> result) {
        if (!result) {
          note_failure(to, hash, result.error(), {.reason = Reason::kUnreachable});
        } else if (result->kind == l2::CommitKind::kUnknown) {
          note_failure(to, hash, {Status::kOutcomeUnknown, {}}, {});
        } else if (result->kind == l2::CommitKind::kCommitted && result->replaced.existed) {
          const auto& chunks = result->replaced.chunks;
          to.reasons.note(hash, {.reason = Reason::kDeleted,
                                 .at = to.loop.now(),
                                 .version = chunks ? chunks->version : 0});
        }
        done(std::move(result));
      });
}

// What was found, if a read did, was noted then, and may be a while ago: readers are told in the
// order of the bytes.
void NotingStore::discard(std::string key, base::Version version) {
  const std::uint64_t hash = base::hash_key(proto::as_bytes(key));
  const auto found = to_.reasons.recall(hash).last;
  Event event{.reason = Reason::kLost, .version = version, .status = Status::kValueLost};
  if (found && found->reason == Reason::kCorrupt && found->version == version) event = *found;
  if (found && found->version == version) event.size = found->size;
  event.at = to_.loop.now();
  to_.reasons.note(hash, event);
  store_.discard(std::move(key), version);
}

}  // namespace cistern::service
