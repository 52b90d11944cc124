#include "server/service/get.h"

#include <algorithm>
#include <utility>

#include "server/service/flight.h"
#include "server/service/l1_only.h"
#include "server/service/values.h"

namespace cistern::service {
namespace {

// A GET that L1 could not answer: a passenger of its key's flight.
class Miss : public Flight::Passenger, public std::enable_shared_from_this<Miss> {
 public:
  Miss(std::shared_ptr<Worker> worker, std::shared_ptr<const Key> key,
       const proto::GetRequest& request, GetSink& sink)
      : Passenger(std::move(worker), std::move(key), request.range, request.if_changed),
        sink_(&sink) {}

  // False when L1 is to be asked again.
  bool start(const std::function<bool()>& in_l1);
  bool answered() const { return sink_ == nullptr; }
  void leave() {
    sink_ = nullptr;
    if (const auto flight = std::exchange(flight_, nullptr)) flight->leave(*this);
    source_.reset();
  }
  void land(Flight::Landing landing) override;

 private:
  void on_inline(const l2::Manifest& manifest, const std::optional<proto::Range>& cover);
  void open();
  void answer();
  void fail(const Error& error);

  GetSink* sink_;  // null once it was answered, or has left
  std::shared_ptr<Flight> flight_;
  // Once it has landed.
  std::optional<Reading> reading_;
  std::optional<proto::Range> cover_;
  std::unique_ptr<ChunkSource> source_;
};

bool Miss::start(const std::function<bool()>& in_l1) {
  for (;;) {
    WriteGate::Boarding boarding = worker_->gate.board(
        key_->bytes(), key_->hash, worker_->loop.now(), in_l1, [this](WriteGate::MissToken token) {
          return std::make_shared<Flight>(*worker_, key_, std::move(token));
        });
    using Kind = WriteGate::Boarding::Kind;
    if (boarding.kind == Kind::kInL1) return false;
    if (boarding.kind == Kind::kAbsent) {
      worker_->metrics.absent_answers.add();
      fail({Status::kNotFound, {}});
      return true;
    }
    flight_ = std::move(boarding.flight);
    Flight::Boarding joined = flight_->join(shared_from_this());
    if (joined.kind == Flight::Boarding::Kind::kRefused) {
      worker_->gate.retire(*flight_, key_->bytes(), key_->hash);
      flight_.reset();
      continue;
    }
    if (boarding.kind == Kind::kBegin) {
      flight_->begin();
    } else {
      worker_->metrics.misses_joined.add();
    }
    if (joined.kind == Flight::Boarding::Kind::kLanded) land(std::move(joined.landing));
    return true;
  }
}

void Miss::fail(const Error& error) {
  GetSink* const sink = std::exchange(sink_, nullptr);
  if (sink == nullptr) return;
  if (!worker_->options.miss_on_failure || !is_l2_failure(error.status)) {
    return sink->on_failed(error);
  }
  worker_->metrics.degraded_misses.add();
  sink->on_failed(
      {Status::kNotFound,
       "the second tier could not be asked, and l2.on_failure.get is miss: " + error.message,
       true});
}

void Miss::land(Flight::Landing landing) {
  const auto self = shared_from_this();
  flight_.reset();
  if (sink_ == nullptr) return;
  if (landing.error) return fail(*landing.error);
  const base::ValueMeta& meta =
      landing.manifest != nullptr ? landing.manifest->meta : *landing.meta;
  if (if_changed_ == meta.version) return fail({Status::kNotModified, {}});
  const Result<std::optional<proto::Range>> cover = cover_of(range_, meta);
  if (!cover) return fail(cover.error());
  cover_ = *cover;
  if (landing.manifest != nullptr) return on_inline(*landing.manifest, *cover);
  reading_ = landing.reading ? std::move(landing.reading)
                             : std::optional(make_reading(worker_, key_, meta, *cover));
  source_ = std::move(landing.source);
  if (reading_->first == reading_->end) return answer();  // an empty range
  if (source_ == nullptr) source_ = source_in_l2(*reading_);
  open();
}

// A passing fill is admitted first, so that what is answered moves.
void Miss::open() {
  if (sink_ == nullptr) return;
  if (!source_->opened()) {
    reading_->waker->set([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->open();
    });
    return reading_->waker->wait();
  }
  if (const Error* const error = source_->error()) {
    const Error why = *error;
    source_.reset();
    return fail(why);
  }
  answer();
}

void Miss::answer() {
  const base::ValueMeta meta = *reading_->meta;
  auto reader = std::make_unique<StreamReader>(std::move(*reading_), std::move(source_));
  std::exchange(sink_, nullptr)->on_value(meta, cover_, proto::kInL2, std::move(reader));
}

void Miss::on_inline(const l2::Manifest& manifest, const std::optional<proto::Range>& cover) {
  const base::ValueMeta& meta = manifest.meta;
  if (!fits_one_answer(meta.size, meta.chunk_bytes)) {
    reading_ = make_reading(worker_, key_, meta, cover);
    source_ = source_in_memory(*reading_, value_of(meta, manifest.inline_bytes));
    return answer();
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

// A hit on a value that is not small. False when it was evicted in this moment: then it's a miss.
bool answer_large(const std::shared_ptr<Worker>& worker, const proto::GetRequest& request,
                  std::uint64_t hash, const base::ValuePtr& value, std::uint32_t flags,
                  GetSink& sink) {
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
    sink.on_small(view, flags);
    return true;
  }
  if (value->revoked()) return false;
  base::ValueMeta meta = constant;
  meta.expires_at_ms = value->expires_at_ms();
  Reading reading =
      make_reading(worker, std::make_shared<const Key>(request.key, hash), meta, *cover);
  auto source = source_in_memory(reading, value);
  sink.on_value(meta, *cover, flags,
                std::make_unique<StreamReader>(std::move(reading), std::move(source)));
  return true;
}

// False when L1 doesn't have it.
bool answer_from_l1(const std::shared_ptr<Worker>& worker, const proto::GetRequest& request,
                    std::uint64_t hash, GetSink& sink) {
  const bool alone = worker->shared.l1_only->has(proto::as_text(request.key));
  const std::uint32_t flags = proto::kInL1 | (alone ? proto::kValueDegraded : 0);
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
          sink.on_small(view, flags);
        }
      });
  if (!found.hit) return false;
  if (found.large != nullptr) return answer_large(worker, request, hash, found.large, flags, sink);
  if (not_modified) sink.on_failed({Status::kNotModified, {}});
  if (past_size) {
    base::ValueMeta meta;
    meta.size = *past_size;
    meta.chunk_bytes = 1;
    sink.on_failed(cover_of(request.range, meta).error());
  }
  return true;
}

}  // namespace

OperationPtr get(const std::shared_ptr<Worker>& worker, const proto::GetRequest& request,
                 GetSink& sink) {
  const std::uint64_t hash = base::hash_key(request.key);
  if (answer_from_l1(worker, request, hash, sink)) return nullptr;
  if (worker->store == nullptr) {
    sink.on_failed({Status::kNotFound, {}});
    return nullptr;
  }
  const auto miss =
      std::make_shared<Miss>(worker, std::make_shared<const Key>(request.key, hash), request, sink);
  // A fill that has ended since L1 was asked is found there.
  while (!miss->start(
      [&] { return worker->cache.peek(request.key, hash, worker->loop.now()).has_value(); })) {
    if (answer_from_l1(worker, request, hash, sink)) return nullptr;
  }
  if (miss->answered()) return nullptr;
  return std::make_unique<Handle<Miss>>(miss);
}

}  // namespace cistern::service
