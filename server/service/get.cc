#include "server/service/get.h"

#include <algorithm>
#include <utility>

#include "server/service/flight.h"
#include "server/service/hit.h"
#include "server/service/l1_only.h"
#include "server/service/proof.h"
#include "server/service/values.h"

namespace cistern::service {
namespace {

// A GET that L1 could not answer: a passenger of its key's flight.
class Miss : public Flight::Passenger, public std::enable_shared_from_this<Miss> {
 public:
  Miss(std::shared_ptr<Worker> worker, std::shared_ptr<const Key> key,
       const proto::GetRequest& request, GetSink& sink)
      : Passenger(std::move(worker), std::move(key), request.range, request.if_changed,
                  request.compressed),
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
  std::uint32_t flags_ = proto::kInL2;
  std::unique_ptr<ChunkSource> source_;
};

bool Miss::start(const std::function<bool()>& in_l1) {
  for (;;) {
    const auto trusts = [this](base::TimePoint asked_at) {
      return worker_->shared.freshness.trusts(key_->bytes(), key_->hash, asked_at,
                                              worker_->loop.now());
    };
    WriteGate::Boarding boarding =
        worker_->gate.board(key_->bytes(), key_->hash, worker_->loop.now(), in_l1, trusts,
                            [this](WriteGate::MissToken token) {
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
    if (joined.kind == Flight::Boarding::Kind::kRefused ||
        joined.kind == Flight::Boarding::Kind::kOutdated) {
      worker_->gate.retire(*flight_, key_->bytes(), key_->hash,
                           joined.kind == Flight::Boarding::Kind::kOutdated);
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
  if (source_ == nullptr && compressed_) {
    flags_ |= proto::kCompressed;
    source_ = compressed_source_in_l2(*reading_);
  }
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
  std::exchange(sink_, nullptr)->on_value(meta, cover_, flags_, std::move(reader));
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

// A GET that was not answered at once: it waits for a proof of what L1 has, for L2, or for the one
// after the other.
class Get : public std::enable_shared_from_this<Get> {
 public:
  Get(std::shared_ptr<Worker> worker, const proto::GetRequest& request, std::uint64_t hash,
      GetSink& sink)
      : worker_(std::move(worker)),
        key_(std::make_shared<const Key>(request.key, hash)),
        request_(request),
        sink_(&sink),
        doubt_(worker_) {
    request_.key = key_->bytes();
  }

  // `hit`: what became of the look into L1.
  void go_on(Hit hit);
  bool answered() const { return sink_ == nullptr || (miss_ != nullptr && miss_->answered()); }
  void leave() {
    sink_ = nullptr;
    doubt_.leave();
    if (const auto miss = std::exchange(miss_, nullptr)) miss->leave();
  }

 private:
  Hit look(Demand demand, const Error* cause = nullptr);
  // Empty when it waits; else L1 is to be looked at again, or was at last.
  std::optional<Hit> doubt(base::Version version);
  // False when L1 is to be asked again.
  bool miss();

  const std::shared_ptr<Worker> worker_;
  const std::shared_ptr<const Key> key_;
  proto::GetRequest request_;
  GetSink* sink_;  // null once it was answered, or has left; but for miss_
  Doubt doubt_;
  std::shared_ptr<Miss> miss_;
};

Hit Get::look(Demand demand, const Error* cause) {
  GetSink& sink = *sink_;
  const Hit hit = answer_from_l1(worker_, request_, key_->hash, demand, sink, cause);
  if (hit.kind == Hit::Kind::kAnswered) sink_ = nullptr;
  return hit;
}

void Get::go_on(Hit hit) {
  const auto self = shared_from_this();
  for (;;) {
    if (hit.kind == Hit::Kind::kAnswered) return;
    if (hit.kind == Hit::Kind::kDoubtful) {
      const std::optional<Hit> next = doubt(hit.version);
      if (!next) return;
      hit = *next;
    } else {
      if (miss()) return;
      hit = look(Demand::kTrusted);
    }
  }
}

std::optional<Hit> Get::doubt(base::Version version) {
  const std::optional<Error> cannot =
      doubt_.ask(*key_, version, [weak = weak_from_this()](const std::optional<Error>& why_not) {
        const auto self = weak.lock();
        if (!self || self->sink_ == nullptr) return;
        self->go_on(why_not ? self->look(Demand::kAny, &*why_not) : self->look(Demand::kInBound));
      });
  if (!cannot) return std::nullopt;
  return look(Demand::kAny, &*cannot);
}

bool Get::miss() {
  miss_ = std::make_shared<Miss>(worker_, key_, request_, *sink_);
  // A fill that has ended since L1 was asked is found there.
  const bool begun = miss_->start([this] {
    return worker_->cache.peek(key_->bytes(), key_->hash, worker_->loop.now()).has_value();
  });
  if (!begun) miss_.reset();
  return begun;
}

}  // namespace

OperationPtr get(const std::shared_ptr<Worker>& worker, const proto::GetRequest& request,
                 GetSink& sink) {
  const std::uint64_t hash = base::hash_key(request.key);
  const Hit hit = answer_from_l1(worker, request, hash, Demand::kTrusted, sink);
  if (hit.kind == Hit::Kind::kAnswered) return nullptr;
  if (worker->store == nullptr) {
    sink.on_failed({Status::kNotFound, {}});
    return nullptr;
  }
  const auto get = std::make_shared<Get>(worker, request, hash, sink);
  get->go_on(hit);
  if (get->answered()) return nullptr;
  return std::make_unique<Handle<Get>>(get);
}

}  // namespace cistern::service
