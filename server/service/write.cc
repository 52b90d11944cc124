// The commit of a PUT.
#include <utility>

#include <fmt/format.h>

#include "server/base/log.h"
#include "server/service/edit.h"
#include "server/service/l1_only.h"
#include "server/service/put.h"
#include "server/service/reasons.h"
#include "server/service/values.h"

namespace cistern::service {
namespace {

using std::chrono::milliseconds;

class Write : public Edit {
 public:
  Write(std::shared_ptr<Worker> worker, Key key, WritePlan plan, WriteDone done)
      : Edit(std::move(worker), std::move(key)), plan_(std::move(plan)), done_(std::move(done)) {}

 private:
  void run() override;
  bool looks_at_l2() const override { return plan_.condition.kind != base::Condition::Kind::kNone; }
  void unsettled(Error error) override { refused(std::move(error)); }
  void forget() override { done_ = nullptr; }

  void on_commit(const Result<l2::CommitResult>& result);
  void committed(const l2::Replaced& replaced);
  void publish();
  bool insert();
  // Why it isn't in L1. Its limit is L1's whole budget, when that is too small for it; else there
  // was no room at this moment.
  void note_not_kept(bool replaced);
  void raise();
  void on_raised(const Result<std::uint64_t>& there);
  // Nothing was changed in L2, for certain.
  void refused(Error error);
  void keep_in_l1(const Error& error);
  void finish(const Result<proto::Stored>& result);

  const base::ValueMeta& meta() const { return plan_.manifest.meta; }
  bool is_inline() const { return meta().size <= l2::kInlineBytes; }
  l2::ChunkSet chunks() const { return {key_.text, meta().version, meta().chunk_count()}; }

  WritePlan plan_;
  WriteDone done_;
  bool in_l1_ = false;
};

void Write::run() {
  if (plan_.l1_only_because) return keep_in_l1(*plan_.l1_only_because);
  store().commit(key_.text, plan_.condition, plan_.manifest,
                 [self = shared_from_this(), this](const Result<l2::CommitResult>& result) {
                   on_commit(result);
                 });
}

void Write::on_commit(const Result<l2::CommitResult>& result) {
  if (!result) return refused(result.error());
  switch (result->kind) {
    case l2::CommitKind::kCommitted:
      return committed(result->replaced);
    case l2::CommitKind::kConditionFailed:
      drop_outdated(plan_.condition);
      return refused({Status::kConditionFailed, {}});
    case l2::CommitKind::kUnknown:
      // The chunks keep their provisional expiry: if nothing was committed nobody needs them, and
      // if it was the value is lost early, which an unacknowledged one may be.
      worker_->invalidate(key_);
      return finish(tl::unexpected(outcome_unknown(result->cause)));
  }
}

void Write::refused(Error error) {
  if (!is_inline()) worker_->upkeep.expire(chunks(), 0, milliseconds(1), false);
  const bool is_at_hand = is_inline() || plan_.large != nullptr;
  if (is_at_hand && may_stay_in_l1(*worker_, plan_.condition, error)) return keep_in_l1(error);
  finish(tl::unexpected(std::move(error)));
}

// Marked first: from the moment in which it can be read, L2's older value can't.
void Write::keep_in_l1(const Error& error) {
  L1OnlyKeys& marked = *worker_->shared.l1_only;
  const bool was_marked = marked.has(key_.text);
  const Result<L1OnlyKeys::Mark> mark = marked.add(key_.text);
  if (mark) {
    worker_->gate.change(key_.bytes(), key_.hash, [this] { in_l1_ = insert(); });
  }
  if (!in_l1_) {
    if (mark && !was_marked) marked.settle(key_.text, *mark);
    const std::string why = mark ? no_room_in_l1(meta().size).message : mark.error().message;
    return finish(base::fail(error.status, fmt::format("{}; {}", error.message, why)));
  }
  worker_->settle_soon();
  worker_->metrics.degraded_puts.add();
  finish(proto::Stored{.flags = proto::kInL1 | proto::kValueDegraded,
                       .size = meta().size,
                       .version = meta().version,
                       .expires_at_ms = meta().expires_at_ms});
}

void Write::committed(const l2::Replaced& replaced) {
  forget_mark();
  release_replaced(replaced, meta().version);
  publish();
  if (is_inline()) {
    finish(proto::Stored{.flags = proto::kInL2 | (in_l1_ ? proto::kInL1 : 0),
                         .size = meta().size,
                         .version = meta().version,
                         .expires_at_ms = meta().expires_at_ms});
  } else {
    // Still in its turn: the next write replaces this one, and releases its chunks, only once their
    // expiry is what it will be.
    raise();
  }
}

void Write::publish() {
  worker_->gate.change(key_.bytes(), key_.hash, [this] {
    in_l1_ = insert();
    // The older value must not outlive the commit in L1.
    if (!in_l1_) {
      note_not_kept(worker_->cache.erase(key_.bytes(), key_.hash, {}, l1::Removal::kReplaced,
                                         worker_->loop.now()) == l1::Cache::Erased::kErased);
    }
  });
  if (!in_l1_) worker_->metrics.l1_bypassed.add();
  plan_.large.reset();
}

void Write::note_not_kept(bool replaced) {
  const std::uint64_t cost =
      is_inline() ? 0 : cost_in_l1(*worker_, meta().size, key_.text.size(), meta().metadata.size());
  worker_->shared.reasons->note(
      key_.hash, {.reason = replaced ? base::Reason::kReplaced : base::Reason::kNotKept,
                  .at = worker_->loop.now(),
                  .size = meta().size,
                  .version = meta().version,
                  .limit = worker_->cache.could_hold(cost) ? 0 : worker_->ledger.budgets().l1});
}

bool Write::insert() {
  if (is_inline()) {
    return insert_bytes(*worker_, key_.bytes(), key_.hash, meta(), plan_.manifest.inline_bytes,
                        plan_.manifest.inline_digest, {},
                        l1::Source::kPut) == l1::Cache::Outcome::kStored;
  }
  if (plan_.large == nullptr) return false;
  const l1::NewEntry entry{
      .meta = &plan_.large->meta(), .small = {}, .small_digest = 0, .large = plan_.large};
  return worker_->cache.insert(key_.bytes(), key_.hash, entry, std::move(plan_.room), {},
                               l1::Source::kPut, worker_->stay(meta().expires_at_ms),
                               worker_->loop.now(),
                               worker_->loop.unix_ms()) == l1::Cache::Outcome::kStored;
}

void Write::raise() {
  expire_all(
      store(), chunks(), 0, worker_->chunk_ttl(meta().expires_at_ms), false,
      [self = shared_from_this(), this](const Result<std::uint64_t>& there) { on_raised(there); });
}

void Write::on_raised(const Result<std::uint64_t>& there) {
  if (!there) {
    static log::Limit limit(1);
    log::warn(limit, "l2.raise_failed", {{"error", there.error().message}});
    worker_->upkeep.expire(chunks(), 0, worker_->chunk_ttl(meta().expires_at_ms), true);
    return finish(base::fail(
        Status::kOutcomeUnknown,
        fmt::format("the value was stored, but the second tier did not confirm the expiry of its "
                    "chunks, and may lose it after l2.provisional_ttl: {}",
                    there.error().message)));
  }
  if (*there < meta().chunk_count()) {
    worker_->value_lost(key_, meta().version, base::Loss::kMissing);
    return finish(base::lost(
        base::Loss::kMissing,
        fmt::format("the second tier had only {} of the value's {} chunks when it was committed; "
                    "they were evicted there, or the upload outlived l2.provisional_ttl",
                    *there, meta().chunk_count())));
  }
  worker_->note_renewed(meta().version);
  finish(proto::Stored{.flags = proto::kInL2 | (in_l1_ ? proto::kInL1 : 0),
                       .size = meta().size,
                       .version = meta().version,
                       .expires_at_ms = meta().expires_at_ms});
}

void Write::finish(const Result<proto::Stored>& result) {
  end();
  const WriteDone done = std::move(done_);
  done_ = nullptr;
  if (done) done(result);
}

}  // namespace

std::shared_ptr<Edit> make_write(std::shared_ptr<Worker> worker, Key key, WritePlan plan,
                                 WriteDone done) {
  return std::make_shared<Write>(std::move(worker), std::move(key), std::move(plan),
                                 std::move(done));
}

}  // namespace cistern::service
