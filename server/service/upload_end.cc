// What happens once all bytes of a streamed PUT are here.
#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "server/service/upload.h"

namespace cistern::service {

void UploadCore::end(const proto::End& end) {
  // An empty value may end before its admission.
  if (state_ != State::kReceiving && state_ != State::kAdmission) return;
  if (filled_ != 0)
    return fail({Status::kBadRequest, "the end came before the last chunk's digest"});
  if ((size_known() && meta_.size != declared_) || end.size != meta_.size) {
    return fail(
        {Status::kSizeMismatch, fmt::format("{} bytes were declared and {} arrived",
                                            size_known() ? declared_ : end.size, meta_.size)});
  }
  meta_.digest = value_hasher_.finish(meta_.chunk_bytes, meta_.size);
  if (meta_.digest != end.digest) {
    return fail({Status::kDigestMismatch,
                 fmt::format("the value arrived with the digest {}, not {}",
                             proto::to_hex(meta_.digest), proto::to_hex(end.digest))});
  }
  ticket_.reset();
  state_ = State::kFlushing;
  job_ = worker_->begin_job(shared_from_this());
  if (writes_in_flight_ == 0) commit();
}

void UploadCore::commit() {
  state_ = State::kCommitting;
  if (worker_->store == nullptr) {
    commit_in_l1();
  } else {
    commit_through_l2();
  }
}

void UploadCore::commit_in_l1() {
  l1::NewEntry entry;
  entry.meta = &meta_;
  if (l1::Cache::is_small(key_.text.size(), meta_.metadata.size(), meta_.size)) {
    room_ = {};  // the bytes are copied to where small values live
    if (!kept_.empty()) entry.small = kept_[0]->bytes();
    entry.small_digest = kept_.empty() ? proto::chunk_digest({}) : kept_[0]->digest();
  } else {
    entry.large = take_kept();
    entry.meta = &entry.large->meta();
  }
  auto outcome = l1::Cache::Outcome::kNoRoom;
  worker_->gate.change(key_.bytes(), key_.hash, [&] {
    outcome = worker_->cache.insert(key_.bytes(), key_.hash, entry, std::move(room_), condition_,
                                    l1::Source::kPut, Duration{0}, worker_->loop.now(),
                                    worker_->loop.unix_ms());
  });
  switch (outcome) {
    case l1::Cache::Outcome::kStored:
      return finish(stored(proto::kInL1));
    case l1::Cache::Outcome::kConditionFailed:
      return finish(base::fail(Status::kConditionFailed, {}));
    case l1::Cache::Outcome::kNoRoom:
      return finish(tl::unexpected(no_room_in_l1(meta_.size)));
  }
}

void UploadCore::commit_through_l2() {
  WritePlan plan;
  plan.condition = condition_;
  plan.manifest.meta = meta_;
  plan.l1_only_because = l1_only_because_;
  if (meta_.size <= l2::kInlineBytes) {
    for (const base::ChunkPtr& chunk : l1_only_because_ ? kept_ : held_back_) {
      plan.manifest.inline_bytes.insert(plan.manifest.inline_bytes.end(), chunk->bytes().begin(),
                                        chunk->bytes().end());
    }
    plan.manifest.inline_digest = proto::chunk_digest(plan.manifest.inline_bytes);
    // The write may wait for its turn for long, and with it what was copied.
    auto share = std::make_shared<base::Reservation>();
    for (auto& [index, each] : shares_) share->merge(std::move(each));
    shares_.clear();
    share->shrink_to(std::min<std::uint64_t>(
        share->bytes(), plan.manifest.inline_bytes.size() + meta_.metadata.size()));
    plan.account = std::move(share);
  } else if (keep_) {
    plan.large = take_kept();
    plan.room = std::move(room_);
  }
  kept_.clear();
  held_back_.clear();
  release_memory();
  make_write(
      worker_, key_, std::move(plan),
      [self = shared_from_this()](const Result<proto::Stored>& result) { self->finish(result); })
      ->begin();
}

base::ValuePtr UploadCore::take_kept() {
  return std::make_shared<base::ChunkedValue>(meta_, std::exchange(kept_, {}));
}

proto::Stored UploadCore::stored(std::uint32_t flags) const {
  return {.flags = flags,
          .size = meta_.size,
          .version = meta_.version,
          .expires_at_ms = meta_.expires_at_ms};
}

void UploadCore::finish(const Result<proto::Stored>& result) {
  const auto self = shared_from_this();
  any_written_ = false;  // the chunks are the commit's now
  if (!result) return fail(result.error());
  state_ = State::kOver;
  drop();
  job_.end();
  if (PutSink* const sink = std::exchange(sink_, nullptr)) sink->on_stored(*result);
}

}  // namespace cistern::service
