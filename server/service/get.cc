#include "server/service/get.h"

#include <algorithm>
#include <utility>

#include "server/service/room.h"
#include "server/service/values.h"
#include "server/service/window.h"

namespace cistern::service {
namespace {

// A GET that L1 could not answer, and L2 is asked.
class Miss : public std::enable_shared_from_this<Miss> {
 public:
  Miss(std::shared_ptr<Worker> worker, Key key, const proto::GetRequest& request, GetSink& sink)
      : worker_(std::move(worker)),
        key_(std::make_shared<const Key>(std::move(key))),
        range_(request.range),
        if_changed_(request.if_changed),
        sink_(&sink),
        token_(worker_->gate.begin_miss(key_->bytes(), key_->hash)) {}

  void start() {
    worker_->store->get_manifest(
        key_->text, [self = shared_from_this()](Result<std::optional<l2::Manifest>> manifest) {
          self->on_manifest(std::move(manifest));
        });
  }

  void leave() {
    sink_ = nullptr;
    ticket_.reset();
    token_.release();
  }

 private:
  void on_manifest(Result<std::optional<l2::Manifest>> manifest);
  void on_inline(const l2::Manifest& manifest, const std::optional<proto::Range>& cover);
  void on_chunked(const base::ValueMeta& meta, const std::optional<proto::Range>& cover);
  void pass_by_l1(const base::ValueMeta& meta, const std::optional<proto::Range>& cover,
                  const Reading& reading);
  void answer(const base::ValueMeta& meta, const std::optional<proto::Range>& cover,
              Reading reading, std::unique_ptr<ChunkSource> source);
  void fail(const Error& error) {
    if (GetSink* const sink = std::exchange(sink_, nullptr)) sink->on_failed(error);
  }

  const std::shared_ptr<Worker> worker_;
  const std::shared_ptr<const Key> key_;
  const std::optional<proto::Range> range_;
  const std::optional<std::uint64_t> if_changed_;
  GetSink* sink_;  // null once it was answered, or has left
  WriteGate::MissToken token_;
  std::shared_ptr<base::Ledger::Ticket> ticket_;
};

void Miss::on_manifest(Result<std::optional<l2::Manifest>> manifest) {
  if (sink_ == nullptr) return;
  if (!manifest) return fail(manifest.error());
  if (!manifest->has_value()) return fail({Status::kNotFound, {}});
  const base::ValueMeta& meta = (*manifest)->meta;
  const Result<std::optional<proto::Range>> cover = cover_of(range_, meta);
  const bool is_inline = meta.size <= l2::kInlineBytes;
  if (if_changed_ == meta.version) {
    fail({Status::kNotModified, {}});
  } else if (!cover) {
    fail(cover.error());
  } else if (is_inline) {
    on_inline(**manifest, *cover);
  } else {
    on_chunked(meta, *cover);
  }
}

void Miss::on_inline(const l2::Manifest& manifest, const std::optional<proto::Range>& cover) {
  const base::ValueMeta& meta = manifest.meta;
  worker_->gate.publish_if_allowed(token_, [&] {
    insert_bytes(*worker_, key_->bytes(), key_->hash, meta, manifest.inline_bytes,
                 manifest.inline_digest, {}, l1::Source::kFill);
  });
  token_.release();
  if (!fits_one_answer(meta.size, meta.chunk_bytes)) {
    Reading reading = make_reading(worker_, key_, meta, cover);
    auto source = source_in_memory(reading, value_of(meta, manifest.inline_bytes));
    return answer(meta, cover, std::move(reading), std::move(source));
  }
  const l1::SmallView view{.size = meta.size,
                           .version = meta.version,
                           .expires_at_ms = meta.expires_at_ms,
                           .chunk_bytes = meta.chunk_bytes,
                           .digest = manifest.inline_digest,
                           .metadata = proto::as_bytes(meta.metadata),
                           .bytes = manifest.inline_bytes};
  std::exchange(sink_, nullptr)->on_small(view, proto::kInL2);
}

void Miss::on_chunked(const base::ValueMeta& meta, const std::optional<proto::Range>& cover) {
  Reading reading = make_reading(worker_, key_, meta, cover);
  if (reading.first == reading.end) {  // an empty range
    return answer(meta, cover, reading, nullptr);
  }
  if (!reading.whole()) return pass_by_l1(meta, cover, reading);
  const std::uint64_t cost =
      base::ChunkedValue::cost_for(meta.size, meta.chunk_bytes, meta.metadata.size()) +
      worker_->cache.entry_overhead(key_->text.size());
  make_room(worker_, *key_, cost, weak_from_this(), [this, meta, cover, reading](l1::Room room) {
    if (sink_ == nullptr) return;
    if (!room) return pass_by_l1(meta, cover, reading);
    auto source = source_for_l1(reading, std::move(room), std::move(token_));
    answer(meta, cover, reading, std::move(source));
  });
}

void Miss::pass_by_l1(const base::ValueMeta& meta, const std::optional<proto::Range>& cover,
                      const Reading& reading) {
  token_.release();  // nothing of it will be kept
  Error why;
  const std::uint64_t bytes = window_bytes(meta, reading.first, reading.end);
  ticket_ = admit(
      *worker_, bytes,
      [weak = weak_from_this(), meta, cover, reading](base::Reservation window) {
        const auto self = weak.lock();
        if (!self || self->sink_ == nullptr) return;
        auto source = source_in_l2(reading, std::move(window));
        self->answer(meta, cover, reading, std::move(source));
      },
      why);
  if (ticket_ == nullptr) fail(why);
}

void Miss::answer(const base::ValueMeta& meta, const std::optional<proto::Range>& cover,
                  Reading reading, std::unique_ptr<ChunkSource> source) {
  auto reader = std::make_unique<StreamReader>(std::move(reading), std::move(source));
  std::exchange(sink_, nullptr)->on_value(meta, cover, proto::kInL2, std::move(reader));
}

// A hit on a value that is not small. False when it was evicted in this moment: then it's a miss.
bool answer_large(const std::shared_ptr<Worker>& worker, const proto::GetRequest& request,
                  std::uint64_t hash, const base::ValuePtr& value, GetSink& sink) {
  const base::ValueMeta& constant = value->meta();
  if (request.if_changed == constant.version) {
    sink.on_failed({Status::kNotModified, {}});
    return true;
  }
  const Result<std::optional<proto::Range>> cover = cover_of(request.range, constant);
  if (!cover) {
    sink.on_failed(cover.error());
    return true;
  }
  if (fits_one_answer(constant.size, constant.chunk_bytes)) {
    const base::ChunkPtr chunk = constant.size == 0 ? nullptr : value->chunk(0);
    if (chunk == nullptr && constant.size != 0) return false;
    const l1::SmallView view{.size = constant.size,
                             .version = constant.version,
                             .expires_at_ms = value->expires_at_ms(),
                             .chunk_bytes = constant.chunk_bytes,
                             .digest = chunk == nullptr ? proto::chunk_digest({}) : chunk->digest(),
                             .metadata = proto::as_bytes(constant.metadata),
                             .bytes = chunk == nullptr ? Bytes() : chunk->bytes()};
    sink.on_small(view, proto::kInL1);
    return true;
  }
  if (value->revoked()) return false;
  base::ValueMeta meta = constant;
  meta.expires_at_ms = value->expires_at_ms();
  Reading reading =
      make_reading(worker, std::make_shared<const Key>(request.key, hash), meta, *cover);
  auto source = source_in_memory(reading, value);
  sink.on_value(meta, *cover, proto::kInL1,
                std::make_unique<StreamReader>(std::move(reading), std::move(source)));
  return true;
}

}  // namespace

OperationPtr get(const std::shared_ptr<Worker>& worker, const proto::GetRequest& request,
                 GetSink& sink) {
  const std::uint64_t hash = base::hash_key(request.key);
  bool not_modified = false;
  std::optional<std::uint64_t> past_size;  // of a value that ends before the range
  const l1::Cache::Found found =
      worker->cache.find(request.key, hash, worker->loop.now(), [&](const l1::SmallView& view) {
        if (request.if_changed == view.version) {
          not_modified = true;
        } else if (request.range && request.range->offset >= view.size &&
                   request.range->offset != 0) {
          past_size = view.size;
        } else {
          sink.on_small(view, proto::kInL1);
        }
      });
  if (found.hit && found.large == nullptr) {
    if (not_modified) sink.on_failed({Status::kNotModified, {}});
    if (past_size) {
      base::ValueMeta meta;
      meta.size = *past_size;
      meta.chunk_bytes = 1;
      sink.on_failed(cover_of(request.range, meta).error());
    }
    return nullptr;
  }
  if (found.hit && answer_large(worker, request, hash, found.large, sink)) return nullptr;
  if (worker->store == nullptr) {
    sink.on_failed({Status::kNotFound, {}});
    return nullptr;
  }
  auto miss = std::make_shared<Miss>(worker, Key(request.key, hash), request, sink);
  miss->start();
  return std::make_unique<Handle<Miss>>(std::move(miss));
}

}  // namespace cistern::service
