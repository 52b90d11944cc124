#include "server/l2/memcached_store.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include <fmt/format.h>

#include "server/base/check.h"
#include "server/base/log.h"
#include "server/l2/envelope.h"
#include "server/l2/memcached_jobs.h"

namespace cistern::l2 {
namespace {

using base::L2Op;
using base::L2Result;
using base::Status;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

base::log::Limit trouble_limit(10);

base::Error closed_error() { return {Status::kShuttingDown, "the second tier is being closed"}; }

}  // namespace

void MemcachedStore::Mailbox::post(base::Task task, const std::shared_ptr<Mailbox>& self) {
  const std::lock_guard lock(mutex);
  if (loop == nullptr) return;
  loop->post([self, task = std::move(task)] {
    // Set on this thread, or where the loop doesn't run.
    if (self->loop != nullptr) task();
  });
}

MemcachedStore::MemcachedStore(std::shared_ptr<MemcachedPool> pool, base::Loop& loop,
                               base::WorkerMetrics& metrics)
    : pool_(std::move(pool)),
      options_(pool_->options()),
      loop_(loop),
      metrics_(metrics),
      mailbox_(std::make_shared<Mailbox>()) {
  mailbox_->loop = &loop;
}

MemcachedStore::~MemcachedStore() {
  DCHECK(pending_.empty() && commits_ == 0);
  const std::lock_guard lock(mailbox_->mutex);
  mailbox_->loop = nullptr;
}

Result<void> MemcachedStore::available() const {
  if (is_closing_) return tl::unexpected(closed_error());
  return pool_->usable();
}

Result<void> MemcachedStore::ready() const { return pool_->fit(); }

std::string MemcachedStore::name_of(const std::string& key) const {
  return manifest_name(options_.key_prefix, proto::as_bytes(key));
}

void MemcachedStore::post(base::Task task) { mailbox_->post(std::move(task), mailbox_); }

base::Error MemcachedStore::too_late(const std::string& what) const {
  return {Status::kL2Timeout,
          fmt::format("{} within l2.memcached.op_timeout ({} ms)", what,
                      std::chrono::duration_cast<milliseconds>(options_.op_timeout).count())};
}

// -- operations ----------------------------------------------------------------------------------

template <typename T>
MemcachedStore::Call<T> MemcachedStore::open(L2Op op, Callback<T> done,
                                             std::function<L2Result(const Result<T>&)> label) {
  Call<T> call;
  call.id = ++last_id_;
  const auto finish = [this, id = call.id, op, since = loop_.now(), done = std::move(done),
                       label = std::move(label)](Result<T> result) {
    const auto found = pending_.find(id);
    if (found == pending_.end()) return;  // it has been answered, or nobody wants it
    loop_.cancel(found->second.timer);
    found->second.job->forget();
    pending_.erase(found);
    metrics_.count_l2(op, label(result), loop_.now() - since);
    done(std::move(result));
    check_closed();
  };
  pending_[call.id].fail = [finish](const base::Error& why) { finish(tl::unexpected(why)); };
  call.answer = [mailbox = mailbox_, finish](Result<T> result) {
    // std::function wants to be able to copy what it holds.
    auto held = std::make_shared<Result<T>>(std::move(result));
    mailbox->post([finish, held] { finish(std::move(*held)); }, mailbox);
  };
  return call;
}

void MemcachedStore::start(Id id, const std::string& key, std::shared_ptr<MemcachedJob> job,
                           Patience patience) {
  Pending& pending = pending_[id];
  pending.job = job;
  const auto submitted = is_closing_ ? base::Result<void>(tl::unexpected(closed_error()))
                                     : pool_->submit(pool_->server_of(key), std::move(job));
  if (submitted) {
    pending.timer =
        loop_.after(options_.op_timeout, [this, id, patience] { out_of_time(id, patience); });
    return;
  }
  post([this, id, error = submitted.error()] {
    const auto found = pending_.find(id);
    if (found == pending_.end()) return;
    const auto fail = found->second.fail;
    fail(error);
  });
}

void MemcachedStore::out_of_time(Id id, Patience patience) {
  const auto found = pending_.find(id);
  if (found == pending_.end()) return;
  const bool was_waiting = found->second.job->give_up();
  if (!was_waiting && patience == Patience::kBegin) return;
  const auto fail = found->second.fail;
  fail(too_late(was_waiting ? "all threads of the pool are busy: its turn did not come"
                            : "memcached did not answer"));
}

void MemcachedStore::get_manifest(std::string key, Callback<std::optional<Manifest>> done) {
  using Found = std::optional<Manifest>;
  auto call = open<Found>(L2Op::kGetManifest, std::move(done), [this](const Result<Found>& result) {
    if (result && *result) metrics_.l2_bytes_read.add((*result)->inline_bytes.size());
    return result && !*result ? L2Result::kAbsent : result_label(result);
  });
  auto job = std::make_shared<ManifestRead>(*pool_, key, loop_.unix_ms(), std::move(call.answer));
  job->name = name_of(key);
  job->most_bytes = kMaxManifestBytes;
  job->on_corrupt = [this, mailbox = mailbox_, key](std::uint64_t cas, const std::string& why) {
    mailbox->post([this, key, cas, why] { remove_corrupt(key, cas, why); }, mailbox);
  };
  start(call.id, key, std::move(job), Patience::kWhole);
}

void MemcachedStore::get_stamp(std::string key, Callback<std::optional<Stamp>> done) {
  using Found = std::optional<Stamp>;
  auto call = open<Found>(L2Op::kGetStamp, std::move(done), [](const Result<Found>& result) {
    return result && !*result ? L2Result::kAbsent : result_label(result);
  });
  auto job =
      std::make_shared<StampRead>(pool_->clock(pool_->server_of(key)), std::move(call.answer));
  job->name = name_of(key);
  job->most_bytes = kMaxManifestBytes;
  start(call.id, key, std::move(job), Patience::kWhole);
}

Store::ReadId MemcachedStore::read_chunk(const std::string& key, const base::ValueMeta& meta,
                                         std::uint64_t index, Form, Callback<StoredChunk> done) {
  CHECK(index < meta.chunk_count());
  auto call = open<StoredChunk>(L2Op::kReadChunk, std::move(done),
                                [this](const Result<StoredChunk>& chunk) {
                                  if (chunk) {
                                    metrics_.l2_bytes_read.add(chunk->bytes->size());
                                  } else if (chunk.error().status == Status::kValueLost) {
                                    metrics_.l2_corrupt_chunks.add();
                                  }
                                  return result_label(chunk);
                                });
  const base::Bytes key_bytes = proto::as_bytes(key);
  const ChunkIdentity identity{meta.version, chunk_key_hash(key_bytes),
                               static_cast<std::uint32_t>(index), meta.size_of_chunk(index)};
  auto job = std::make_shared<ChunkRead>(identity, std::move(call.answer));
  job->name = ChunkNames(options_.key_prefix, key_bytes, meta.version).name(index);
  job->most_bytes = kChunkHeaderBytes + identity.raw_bytes;
  start(call.id, key, std::move(job), Patience::kBegin);
  return call.id;
}

void MemcachedStore::cancel_read(ReadId id) {
  const auto found = pending_.find(id);
  if (found == pending_.end()) return;
  loop_.cancel(found->second.timer);
  found->second.job->give_up();
  found->second.job->forget();
  pending_.erase(found);
  check_closed();
}

void MemcachedStore::write_chunk(const std::string& key, base::Version version, std::uint64_t index,
                                 StoredChunk chunk, Callback<void> done) {
  const std::size_t size = chunk.bytes->size();
  auto call = open<void>(L2Op::kWriteChunk, std::move(done), [this, size](const Result<void>& r) {
    if (r) metrics_.l2_bytes_written.add(size);
    return result_label(r);
  });
  const base::Bytes key_bytes = proto::as_bytes(key);
  const ChunkIdentity identity{version, chunk_key_hash(key_bytes),
                               static_cast<std::uint32_t>(index), chunk.raw_bytes};
  auto job = std::make_shared<ChunkWrite>(
      ChunkNames(options_.key_prefix, key_bytes, version).name(index),
      encode_chunk_header(identity, form_of(chunk)), std::move(chunk.bytes),
      options_.provisional_ttl, std::move(call.answer));
  start(call.id, key, std::move(job), Patience::kBegin);
}

// -- commits -------------------------------------------------------------------------------------

struct MemcachedStore::CommitCall {
  L2Op op = L2Op::kCommit;
  std::string key;
  base::Version own_version = 0;
  base::TimePoint since;
  Callback<CommitResult> done;
  std::shared_ptr<MemcachedCommit> job;
  base::Loop::TimerId timer = base::Loop::TimerId::kNone;
};

void MemcachedStore::run_commit(L2Op op, std::string key, MemcachedCommit::Request request,
                                base::Version own_version, Callback<CommitResult> done) {
  request.manifest_name = name_of(key);
  request.unix_ms = loop_.unix_ms();
  auto call = std::make_shared<CommitCall>();
  call->op = op;
  call->own_version = own_version;
  call->since = loop_.now();
  call->done = std::move(done);
  const std::size_t server = pool_->server_of(key);
  call->key = std::move(key);
  ++commits_;
  using Answer = base::Result<MemcachedCommit::Answer>;
  call->job = std::make_shared<MemcachedCommit>(
      std::move(request), options_.op_timeout,
      [this, mailbox = mailbox_, weak = std::weak_ptr(call)](Answer answer) {
        const auto held = weak.lock();
        if (!held) return;
        mailbox->post(
            [this, held, answer = std::move(answer)] { commit_answered(held, std::move(answer)); },
            mailbox);
      });
  const auto submitted = is_closing_ ? base::Result<void>(tl::unexpected(closed_error()))
                                     : pool_->submit(server, call->job);
  if (submitted) {
    call->timer = loop_.after(options_.op_timeout, [this, call] { commit_out_of_time(call); });
  } else {
    post([this, call, error = submitted.error()] { commit_end(call, tl::unexpected(error)); });
  }
}

void MemcachedStore::commit_out_of_time(const std::shared_ptr<CommitCall>& call) {
  if (!call->done) return;
  if (call->job->give_up()) {
    return commit_end(
        call, tl::unexpected(
                  too_late("all threads of the pool are busy: the write's turn did not come")));
  }
  const auto over = call->job->abandon();
  if (!over) {
    return commit_end(call,
                      tl::unexpected(too_late("memcached did not answer; nothing was changed")));
  }
  CommitResult unknown;
  unknown.cause = too_late("memcached did not answer").message;
  call->timer = loop_.after(std::max(base::Duration::zero(), *over - loop_.now()),
                            [this, call, unknown] { commit_end(call, unknown); });
}

void MemcachedStore::commit_answered(const std::shared_ptr<CommitCall>& call,
                                     base::Result<MemcachedCommit::Answer> answer) {
  if (!call->done) return;
  if (!answer) return commit_end(call, tl::unexpected(answer.error()));
  CommitResult result;
  result.kind = answer->kind;
  result.cause = std::move(answer->cause);
  if (result.kind == CommitKind::kUnknown) {
    const auto over = call->job->abandon();
    loop_.cancel(call->timer);
    const base::Duration left = over ? *over - loop_.now() : base::Duration::zero();
    call->timer = loop_.after(std::max(base::Duration::zero(), left),
                              [this, call, result] { commit_end(call, result); });
    return;
  }
  const ManifestGlance& old = answer->old;
  result.replaced.existed = old.is_there;
  if (old.is_there && old.chunk_count > 0 && old.version != call->own_version) {
    result.replaced.chunks = ChunkSet{call->key, old.version, old.chunk_count};
  }
  commit_end(call, std::move(result));
}

void MemcachedStore::commit_end(const std::shared_ptr<CommitCall>& call,
                                Result<CommitResult> result) {
  const auto done = std::exchange(call->done, nullptr);
  if (!done) return;
  loop_.cancel(call->timer);
  const bool is_unknown = result && result->kind == CommitKind::kUnknown;
  metrics_.count_l2(call->op, is_unknown ? L2Result::kUnknown : result_label(result),
                    loop_.now() - call->since);
  DCHECK(commits_ > 0);
  --commits_;
  done(std::move(result));
  check_closed();
}

void MemcachedStore::commit(std::string key, const base::Condition& condition,
                            const Manifest& manifest, Callback<CommitResult> done) {
  MemcachedCommit::Request request;
  request.condition = condition;
  request.manifest = encode_manifest(proto::as_bytes(key), manifest);
  const std::uint64_t expires_at_ms = manifest.meta.expires_at_ms;
  const std::uint64_t now_ms = loop_.unix_ms();
  base::Duration ttl = options_.max_idle;
  if (expires_at_ms != 0) {
    ttl = milliseconds(
        std::min(expires_at_ms > now_ms ? expires_at_ms - now_ms : 0, proto::kMaxTtlMs));
  } else {
    pool_->take_renewal(manifest.meta.version, steady_clock::now());
  }
  request.keep_until = steady_clock::now() + ttl;
  metrics_.l2_bytes_written.add(manifest.inline_bytes.size());
  run_commit(L2Op::kCommit, std::move(key), std::move(request), manifest.meta.version,
             std::move(done));
}

void MemcachedStore::remove(std::string key, const base::Condition& condition,
                            Callback<CommitResult> done) {
  MemcachedCommit::Request request;
  request.condition = condition;
  // Versions are never 0, so every chunk set that was there is reported.
  run_commit(L2Op::kRemove, std::move(key), std::move(request), 0, std::move(done));
}

void MemcachedStore::discard(std::string key, base::Version version) {
  const std::string name = name_of(key);
  base::log::warn(trouble_limit, "a value in memcached is lost; its manifest is removed",
                  {{"name", name}, {"version", fmt::format("{:016x}", version)}});
  remove(std::move(key), {base::Condition::Kind::kIfVersion, version},
         [name](const Result<CommitResult>& result) {
           if (result && result->kind != CommitKind::kUnknown) return;
           base::log::warn(
               trouble_limit, "the manifest of a lost value could not be removed",
               {{"name", name}, {"why", result ? result->cause : result.error().message}});
         });
}

void MemcachedStore::remove_corrupt(const std::string& key, std::uint64_t cas,
                                    const std::string& why) {
  metrics_.l2_corrupt_manifests.add();
  const std::string name = name_of(key);
  base::log::warn(trouble_limit, "a manifest in memcached is corrupt; it is removed",
                  {{"name", name}, {"why", why}});
  if (is_closing_ || cas == 0) return;
  MemcachedCommit::Request request;
  request.only_if_cas = cas;
  run_commit(L2Op::kRemove, key, std::move(request), 0, [name](const Result<CommitResult>& result) {
    if (result && result->kind != CommitKind::kUnknown) return;
    base::log::warn(trouble_limit, "a corrupt manifest in memcached could not be removed",
                    {{"name", name}, {"why", result ? result->cause : result.error().message}});
  });
}

// -- the end -------------------------------------------------------------------------------------

void MemcachedStore::close(std::function<void()> closed) {
  is_closing_ = true;
  closed_ = std::move(closed);
  std::vector<std::function<void(const base::Error&)>> waiting;
  for (auto& [id, pending] : pending_) {
    if (pending.job && pending.job->give_up()) waiting.push_back(pending.fail);
  }
  for (const auto& fail : waiting) fail(closed_error());
  check_closed();
}

void MemcachedStore::check_closed() {
  if (!is_closing_ || !closed_ || !pending_.empty() || commits_ > 0) return;
  loop_.post(std::exchange(closed_, nullptr));
}

}  // namespace cistern::l2
