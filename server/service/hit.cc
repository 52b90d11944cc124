#include "server/service/hit.h"

#include <utility>

#include "server/service/l1_only.h"
#include "server/service/proof.h"
#include "server/service/stream_reader.h"
#include "server/service/values.h"

namespace cistern::service {
namespace {

using Kind = Judgement::Kind;

std::uint32_t flags_of(const Judgement& judgement) {
  return proto::kInL1 | (judgement.kind == Kind::kServeDegraded ? proto::kValueDegraded : 0);
}

void announce(const Judgement& judgement, GetSink& sink) {
  if (judgement.kind == Kind::kServeDegraded && !judgement.alone) sink.on_degraded(judgement.age);
}

// A hit on a value that is not small. False when it was evicted in this moment: then it's a miss.
bool answer_large(const std::shared_ptr<Worker>& worker, const proto::GetRequest& request,
                  std::uint64_t hash, const base::ValuePtr& value, const Judgement& judgement,
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
    announce(judgement, sink);
    sink.on_small(view, flags_of(judgement));
    return true;
  }
  if (value->revoked()) return false;
  base::ValueMeta meta = constant;
  meta.expires_at_ms = value->expires_at_ms();
  Reading reading =
      make_reading(worker, std::make_shared<const Key>(request.key, hash), meta, *cover);
  auto source = source_in_memory(reading, value);
  announce(judgement, sink);
  sink.on_value(meta, *cover, flags_of(judgement),
                std::make_unique<StreamReader>(std::move(reading), std::move(source)));
  return true;
}

}  // namespace

Judgement judge(const Worker& worker, Bytes key, std::uint64_t hash, base::TimePoint proven_at,
                Demand demand) {
  if (worker.shared.l1_only->has(proto::as_text(key))) {
    return {.kind = Kind::kServeDegraded, .alone = true};
  }
  const Freshness& freshness = worker.shared.freshness;
  if (!freshness.applies()) return {};
  const Freshness::Verdict verdict = freshness.judge(key, hash, proven_at, worker.loop.now());
  Judgement judgement{.kind = Kind::kServe, .soon = verdict.soon, .age = verdict.age};
  switch (demand) {
    case Demand::kTrusted:
      if (!verdict.trusted()) judgement.kind = Kind::kDoubtful;
      break;
    case Demand::kInBound:
      if (!verdict.in_bound) judgement.kind = Kind::kDoubtful;
      break;
    case Demand::kAny:
      if (verdict.trusted()) break;  // somebody has written it meanwhile
      judgement.kind = verdict.in_bound || freshness.options().on_stale == OnStale::kServe
                           ? Kind::kServeDegraded
                           : Kind::kRefuse;
      break;
  }
  return judgement;
}

void count_stale(Worker& worker, const Judgement& judgement) {
  if (judgement.age <= worker.options.freshness.max_staleness) return;
  if (judgement.kind == Kind::kServeDegraded) worker.metrics.stale_served.add();
  if (judgement.kind == Kind::kRefuse) worker.metrics.stale_refused.add();
}

Hit answer_from_l1(const std::shared_ptr<Worker>& worker, const proto::GetRequest& request,
                   std::uint64_t hash, Demand demand, GetSink& sink, const Error* cause) {
  Judgement judgement;
  base::Version version = 0;
  bool not_modified = false;
  std::optional<std::uint64_t> past_size;  // of a value that ends before the range
  const auto may_serve = [&] {
    return judgement.kind == Kind::kServe || judgement.kind == Kind::kServeDegraded;
  };
  const l1::Cache::Found found = worker->cache.find(
      request.key, hash, worker->loop.now(),
      [&](const l1::SmallView& view) {
        judgement = judge(*worker, request.key, hash, view.proven_at, demand);
        version = view.version;
        if (!may_serve()) return;
        if (request.if_changed == view.version) {
          not_modified = true;
        } else if (request.range && request.range->offset >= view.size &&
                   request.range->offset != 0) {
          past_size = view.size;
        } else {
          announce(judgement, sink);
          sink.on_small(view, flags_of(judgement));
        }
      },
      demand == Demand::kTrusted ? l1::Cache::Look::kFirst : l1::Cache::Look::kAgain);
  if (!found.hit) return {};
  if (found.large != nullptr) {
    judgement = judge(*worker, request.key, hash, found.proven_at, demand);
    version = found.version;
  }
  if (judgement.kind == Kind::kDoubtful) return {Hit::Kind::kDoubtful, version};
  if (demand == Demand::kAny) count_stale(*worker, judgement);
  if (judgement.kind == Kind::kRefuse) {
    sink.on_failed(too_stale(worker->shared.freshness, judgement.age, *cause));
    return {Hit::Kind::kAnswered};
  }
  if (judgement.soon && demand == Demand::kTrusted) {
    worker->shared.proofs->ask_ahead(worker, request.key, hash, version);
  }
  if (found.large != nullptr) {
    const bool answered = answer_large(worker, request, hash, found.large, judgement, sink);
    return {answered ? Hit::Kind::kAnswered : Hit::Kind::kAbsent};
  }
  if (not_modified) sink.on_failed({Status::kNotModified, {}});
  if (past_size) {
    base::ValueMeta meta;
    meta.size = *past_size;
    meta.chunk_bytes = 1;
    sink.on_failed(cover_of(request.range, meta).error());
  }
  return {Hit::Kind::kAnswered};
}

}  // namespace cistern::service
