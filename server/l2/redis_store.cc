#include "server/l2/redis_store.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "server/base/check.h"
#include "server/base/log.h"
#include "server/l2/envelope.h"
#include "server/l2/redis_protocol.h"
#include "server/l2/result_label.h"

namespace cistern::l2 {
namespace {

using base::L2Op;
using base::L2Result;
using base::Status;

base::log::Limit trouble_limit(10);

std::string ms_text(Duration duration) {
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
  return std::to_string(std::max<std::int64_t>(1, ms));
}

}  // namespace

RedisStore::RedisStore(RedisOptions options, asio::io_context& io, base::Loop& loop,
                       base::WorkerMetrics& metrics, std::shared_ptr<Breaker> breaker,
                       Invalidations* invalidations)
    : options_(std::make_shared<const RedisOptions>(std::move(options))),
      loop_(loop),
      metrics_(metrics),
      breaker_(breaker ? std::move(breaker) : Breaker::make(display(options_->url))),
      control_(std::make_shared<RedisControl>(options_, breaker_, std::string(commit_script()), io,
                                              loop, metrics)),
      committer_(std::make_shared<RedisCommitter>(options_, control_, loop)),
      channel_(invalidations == nullptr || options_->heartbeat == Duration{0}
                   ? nullptr
                   : std::make_shared<RedisChannel>(options_, *invalidations, io, loop, metrics)) {
  CHECK(options_->connections_per_worker >= 2);
  for (std::uint32_t i = 1; i < options_->connections_per_worker; ++i) {
    bulks_.push_back(std::make_shared<RedisBulk>(options_, breaker_, io, loop, metrics));
  }
  loop_.post([control = std::weak_ptr(control_)] {
    if (const auto self = control.lock()) self->start();
  });
  for (const auto& bulk : bulks_) {
    loop_.post([weak = std::weak_ptr(bulk)] {
      if (const auto self = weak.lock()) self->start();
    });
  }
  if (channel_ == nullptr) return;
  loop_.post([weak = std::weak_ptr(channel_)] {
    if (const auto self = weak.lock()) self->start();
  });
}

RedisStore::~RedisStore() { DCHECK(reads_.empty()); }

Result<void> RedisStore::available() const {
  if (auto commands = control_->usable(); !commands) return commands;
  Result<void> chunks;
  for (const auto& bulk : bulks_) {
    chunks = bulk->usable();
    if (chunks) break;
  }
  return chunks;
}

void RedisStore::count(L2Op op, L2Result result, base::TimePoint since) {
  metrics_.count_l2(op, result, loop_.now() - since);
}

// -- manifests -----------------------------------------------------------------------------------

struct RedisStore::ManifestRead {
  std::string key;
  std::string name;
  base::TimePoint since;
  Callback<std::optional<Manifest>> done;
  std::string stored;
  std::int64_t left_ms = 0;
  std::optional<base::Error> error;
};

void RedisStore::get_manifest(std::string key, Callback<std::optional<Manifest>> done) {
  auto read = std::make_shared<ManifestRead>();
  read->name = manifest_name(options_->key_prefix, proto::as_bytes(key));
  read->key = std::move(key);
  read->since = loop_.now();
  read->done = std::move(done);
  RedisControl::Exchange exchange;
  exchange.commands = [read](base::TimePoint) {
    // Not GET: whatever lies there, no more than one byte too many comes.
    return std::vector<RedisLink::Args>{
        {"GETRANGE", read->name, "0", std::to_string(kMaxManifestBytes)}, {"PTTL", read->name}};
  };
  exchange.on_reply = [read](std::size_t index, const redisReply& reply) {
    if (auto error = reply_error(reply); error && !read->error) read->error = std::move(error);
    if (index == 0) read->stored = reply_text(reply);
    if (index == 1) read->left_ms = reply.integer;
  };
  exchange.on_end = [this, read](const RedisControl::Outcome& outcome) {
    if (!read->error) read->error = outcome.error;
    manifest_arrived(read);
  };
  control_->submit(std::move(exchange));
}

void RedisStore::manifest_arrived(const std::shared_ptr<ManifestRead>& read) {
  Result<std::optional<Manifest>> result = std::nullopt;
  if (read->error) {
    result = tl::unexpected(*read->error);
  } else if (!read->stored.empty()) {
    auto manifest = decode_manifest(proto::as_bytes(read->key), proto::as_bytes(read->stored));
    if (!manifest) {
      metrics_.l2_corrupt_manifests.add();
      base::log::warn(trouble_limit, "a manifest in Redis is corrupt; it is removed",
                      {{"name", read->name}, {"why", manifest.error().message}});
      remove_corrupt(read->name, read->stored);
      result = tl::unexpected(manifest.error());
    } else if (manifest->meta.expires_at_ms == 0 ||
               manifest->meta.expires_at_ms > loop_.unix_ms()) {
      metrics_.l2_bytes_read.add(manifest->inline_bytes.size());
      if (manifest->meta.expires_at_ms == 0) renew(read->name, read->left_ms);
      result = std::optional<Manifest>(std::move(*manifest));
    }
  }
  L2Result label = result_label(result);
  if (result && !*result) label = L2Result::kAbsent;
  count(L2Op::kGetManifest, label, read->since);
  loop_.post([done = std::move(read->done), result = std::move(result)]() mutable {
    done(std::move(result));
  });
}

void RedisStore::get_stamp(std::string key, Callback<std::optional<Stamp>> done) {
  struct Ask {
    std::optional<base::Error> error;
    std::string begin;
  };
  auto ask = std::make_shared<Ask>();
  const std::string name = manifest_name(options_->key_prefix, proto::as_bytes(key));
  RedisControl::Exchange exchange;
  exchange.commands = [name](base::TimePoint) {
    return std::vector<RedisLink::Args>{
        {"GETRANGE", name, "0", std::to_string(kManifestFixedBytes - 1)}};
  };
  exchange.on_reply = [ask](std::size_t, const redisReply& reply) {
    ask->error = reply_error(reply);
    ask->begin = reply_text(reply);
  };
  exchange.on_end = [this, ask, since = loop_.now(),
                     done = std::move(done)](const RedisControl::Outcome& outcome) mutable {
    Result<std::optional<Stamp>> result = std::nullopt;
    if (!ask->error) ask->error = outcome.error;
    if (ask->error) {
      result = tl::unexpected(*ask->error);
    } else if (!ask->begin.empty()) {
      const auto stamp = decode_stamp(proto::as_bytes(ask->begin));
      if (stamp) {
        result = *stamp;
      } else {
        result = tl::unexpected(stamp.error());
      }
    }
    count(L2Op::kGetStamp, result && !*result ? L2Result::kAbsent : result_label(result), since);
    loop_.post([done = std::move(done), result = std::move(result)]() mutable {
      done(std::move(result));
    });
  };
  control_->submit(std::move(exchange));
}

void RedisStore::renew(const std::string& name, std::int64_t left_ms) {
  const auto max_ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(options_->max_idle).count();
  if (left_ms >= max_ms / 4 * 3) return;
  RedisControl::Exchange exchange;
  exchange.commands = [name, left_ms, ttl = ms_text(options_->max_idle)](base::TimePoint) {
    RedisLink::Args args = {"PEXPIRE", name, ttl};
    // GT leaves a key without any expiry as it is; nothing of ours is ever meant to be one.
    if (left_ms >= 0) args.push_back("GT");
    return std::vector<RedisLink::Args>{std::move(args)};
  };
  exchange.on_reply = [](std::size_t, const redisReply& reply) {
    if (const auto error = reply_error(reply)) {
      base::log::warn(trouble_limit, "cannot renew the expiry of a value in Redis",
                      {{"why", error->message}});
    }
  };
  exchange.on_end = [](const RedisControl::Outcome&) {};  // the next read tries again
  control_->submit(std::move(exchange));
}

void RedisStore::remove_corrupt(const std::string& name, std::string_view stored) {
  RedisCommitter::Request request;
  request.name = name;
  request.only_if_begins = stored.substr(0, kManifestFixedBytes);
  committer_->run(std::move(request), [name](const Result<RedisCommitter::Answer>& answer) {
    if (answer && answer->kind != CommitKind::kUnknown) return;
    base::log::warn(trouble_limit, "a corrupt manifest in Redis could not be removed",
                    {{"name", name}, {"why", answer ? answer->cause : answer.error().message}});
  });
}

// -- commits -------------------------------------------------------------------------------------

void RedisStore::run_commit(L2Op op, std::string key, RedisCommitter::Request request,
                            base::Version own_version, Callback<CommitResult> done) {
  request.name = manifest_name(options_->key_prefix, proto::as_bytes(key));
  const base::TimePoint since = loop_.now();
  auto finish = [this, op, since, own_version, key = std::move(key),
                 done = std::move(done)](Result<RedisCommitter::Answer> answer) mutable {
    Result<CommitResult> result;
    L2Result label = result_label(answer);
    if (!answer) {
      result = tl::unexpected(answer.error());
    } else {
      result->kind = answer->kind;
      result->cause = std::move(answer->cause);
      result->replaced.existed = answer->existed;
      if (answer->chunk_count > 0 && answer->version != own_version) {
        result->replaced.chunks = ChunkSet{std::move(key), answer->version, answer->chunk_count};
      }
      if (answer->kind == CommitKind::kUnknown) label = L2Result::kUnknown;
    }
    count(op, label, since);
    loop_.post([done = std::move(done), result = std::move(result)]() mutable {
      done(std::move(result));
    });
  };
  committer_->run(std::move(request), std::move(finish));
}

void RedisStore::commit(std::string key, const base::Condition& condition, const Manifest& manifest,
                        Callback<CommitResult> done) {
  RedisCommitter::Request request;
  request.condition = condition;
  request.manifest = encode_manifest(proto::as_bytes(key), manifest);
  request.expires_at_ms = manifest.meta.expires_at_ms;
  metrics_.l2_bytes_written.add(manifest.inline_bytes.size());
  run_commit(L2Op::kCommit, std::move(key), std::move(request), manifest.meta.version,
             std::move(done));
}

void RedisStore::remove(std::string key, const base::Condition& condition,
                        Callback<CommitResult> done) {
  RedisCommitter::Request request;
  request.condition = condition;
  // Versions are never 0, so every chunk set that was there is reported.
  run_commit(L2Op::kRemove, std::move(key), std::move(request), 0, std::move(done));
}

void RedisStore::discard(std::string key, base::Version version) {
  const std::string name = manifest_name(options_->key_prefix, proto::as_bytes(key));
  base::log::warn(trouble_limit, "a value in Redis is lost; its manifest is removed",
                  {{"name", name}, {"version", fmt::format("{:016x}", version)}});
  remove(std::move(key), {base::Condition::Kind::kIfVersion, version},
         [name](const Result<CommitResult>& result) {
           if (result && result->kind != CommitKind::kUnknown) return;
           base::log::warn(
               trouble_limit, "the manifest of a lost value could not be removed",
               {{"name", name}, {"why", result ? result->cause : result.error().message}});
         });
}

// -- chunks --------------------------------------------------------------------------------------

Result<RedisBulk*> RedisStore::pick_bulk() const {
  RedisBulk* best = nullptr;
  std::size_t load = 0;
  Result<void> refused;
  for (const auto& bulk : bulks_) {
    load += bulk->load();
    auto usable = bulk->usable();
    if (!usable) {
      refused = std::move(usable);
    } else if (best == nullptr || bulk->load() < best->load()) {
      best = bulk.get();
    }
  }
  if (best == nullptr) return tl::unexpected(refused.error());
  if (load >= options_->max_queued) {
    return tl::unexpected(control_->describe(
        Status::kL2Busy, fmt::format("{} transfers of chunks wait for it already", load)));
  }
  return best;
}

Store::ReadId RedisStore::read_chunk(const std::string& key, const base::ValueMeta& meta,
                                     std::uint64_t index, Form, Callback<StoredChunk> done) {
  CHECK(index < meta.chunk_count());
  const ReadId id = ++last_read_;
  auto op = std::make_shared<RedisBulk::Op>();
  const base::Bytes key_bytes = proto::as_bytes(key);
  const ChunkNames names(options_->key_prefix, key_bytes, meta.version);
  append_command(op->head, {"GET", names.name(index)});
  op->expected.is_chunk = true;
  op->expected.identity = {meta.version, chunk_key_hash(key_bytes),
                           static_cast<std::uint32_t>(index), meta.size_of_chunk(index)};
  op->done = [this, id, since = loop_.now(),
              done = std::move(done)](Result<StoredChunk> chunk) mutable {
    reads_.erase(id);
    count(L2Op::kReadChunk, result_label(chunk), since);
    if (chunk) {
      metrics_.l2_bytes_read.add(chunk->bytes->size());
    } else if (chunk.error().status == Status::kValueLost) {
      metrics_.l2_corrupt_chunks.add();
    }
    done(std::move(chunk));
  };
  const auto bulk = pick_bulk();
  reads_[id] = {bulk ? *bulk : nullptr, op};
  if (bulk) {
    (*bulk)->submit(std::move(op));
  } else {
    loop_.post([op = std::move(op), error = bulk.error()] {
      if (auto refused = std::exchange(op->done, nullptr)) refused(tl::unexpected(error));
    });
  }
  return id;
}

void RedisStore::cancel_read(ReadId id) {
  const auto found = reads_.find(id);
  if (found == reads_.end()) return;
  const Read read = std::move(found->second);
  reads_.erase(found);
  read.op->done = nullptr;
  if (read.bulk != nullptr) read.bulk->cancel(read.op);
}

void RedisStore::write_chunk(const std::string& key, base::Version version, std::uint64_t index,
                             StoredChunk chunk, Callback<void> done) {
  auto op = std::make_shared<RedisBulk::Op>();
  const base::Bytes key_bytes = proto::as_bytes(key);
  const std::string name = ChunkNames(options_->key_prefix, key_bytes, version).name(index);
  const ChunkIdentity identity{version, chunk_key_hash(key_bytes),
                               static_cast<std::uint32_t>(index), chunk.raw_bytes};
  const ChunkHeader header = encode_chunk_header(identity, form_of(chunk));
  op->head = fmt::format("*5\r\n$3\r\nSET\r\n${}\r\n{}\r\n${}\r\n", name.size(), name,
                         header.size() + chunk.bytes->size());
  op->head += proto::as_text(header);
  const std::string ttl = ms_text(options_->provisional_ttl);
  op->tail = fmt::format("\r\n$2\r\nPX\r\n${}\r\n{}\r\n", ttl.size(), ttl);
  op->done = [this, since = loop_.now(), size = chunk.bytes->size(),
              done = std::move(done)](const Result<StoredChunk>& reply) {
    count(L2Op::kWriteChunk, result_label(reply), since);
    if (reply) metrics_.l2_bytes_written.add(size);
    done(reply ? Result<void>() : tl::unexpected(reply.error()));
  };
  op->chunk = std::move(chunk.bytes);
  const auto bulk = pick_bulk();
  if (bulk) return (*bulk)->submit(std::move(op));
  loop_.post([op = std::move(op), error = bulk.error()] { op->done(tl::unexpected(error)); });
}

void RedisStore::close(std::function<void()> closed) {
  for (const auto& bulk : bulks_) bulk->close();
  // Commits that were sent are waited for: their callers must learn what became of them.
  auto close_control = [this, closed = std::move(closed)]() mutable {
    control_->close(
        [this, closed = std::move(closed)]() mutable { committer_->when_idle(std::move(closed)); });
  };
  if (channel_ == nullptr) return close_control();
  channel_->close(std::move(close_control));
}

}  // namespace cistern::l2
