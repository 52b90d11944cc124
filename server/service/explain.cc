#include "server/service/explain.h"

#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "server/service/reasons.h"

namespace cistern::service {
namespace {

using Json = nlohmann::ordered_json;
// What L2 answered; empty: there is none.
using L2Answer = std::optional<Result<std::optional<l2::Manifest>>>;

// Of the text of an error. Escaped it takes up to six times as much.
constexpr std::size_t kMostTextBytes = 512;
static_assert(6 * kMostTextBytes + 2048 <= proto::kMaxExplanationBytes);

std::int64_t ms(Duration duration) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
}

std::string hex(base::Version version) { return fmt::format("{:016x}", version); }

Json until(std::uint64_t expires_at_ms, std::uint64_t unix_ms) {
  if (expires_at_ms == 0) return nullptr;
  return expires_at_ms > unix_ms ? expires_at_ms - unix_ms : 0;
}

// How current L1's entry is known to be; null without an L2.
Json freshness_of(const Worker& worker, const Key& key, base::TimePoint proven_at) {
  const Freshness& freshness = worker.shared.freshness;
  if (!freshness.applies()) return nullptr;
  const base::TimePoint now = worker.loop.now();
  const Freshness::Verdict verdict = freshness.judge(key.bytes(), key.hash, proven_at, now);
  return {{"current_ms_ago", ms(verdict.age)},
          {"known_by", verdict.age < now - proven_at ? "invalidations" : "proof"},
          {"proven_ms_ago", ms(now - proven_at)},
          {"marked", verdict.marked},
          {"max_staleness_ms", ms(freshness.options().max_staleness)}};
}

Json in_l1(const Worker& worker, const Key& key, const std::optional<l1::Cache::Resident>& resident,
           std::uint64_t unix_ms) {
  if (!resident) return {{"resident", false}};
  Json json{{"resident", true},
            {"size", resident->size},
            {"version", hex(resident->version)},
            {"age_ms", ms(resident->age)}};
  if (resident->age_wraps.count() > 0) json["age_wraps_after_ms"] = ms(resident->age_wraps);
  json["idle_ms"] = ms(resident->idle);
  json["hits"] = resident->hits;
  json["hits_at_least"] = resident->hits_at_least;
  json["expires_in_ms"] = until(resident->expires_at_ms, unix_ms);
  json["leaves_in_ms"] = resident->leaves_in ? Json(ms(*resident->leaves_in)) : Json(nullptr);
  json["freshness"] = freshness_of(worker, key, resident->proven_at);
  return json;
}

Json in_l2(const L2Answer& answer, std::uint64_t unix_ms) {
  if (!answer) return {{"state", "none"}};
  if (!*answer) {
    const Error& error = answer->error();
    return {{"state", error.status == Status::kValueLost ? "corrupt" : "unknown"},
            {"code", proto::name(error.status)},
            {"text", error.message.substr(0, kMostTextBytes)}};
  }
  if (!**answer) return {{"state", "absent"}};
  const base::ValueMeta& meta = (**answer)->meta;
  return {{"state", "present"},
          {"size", meta.size},
          {"version", hex(meta.version)},
          {"chunks", meta.size <= l2::kInlineBytes ? 0 : meta.chunk_count()},
          {"chunk_bytes", meta.chunk_bytes},
          {"expires_in_ms", until(meta.expires_at_ms, unix_ms)}};
}

Json event_json(const std::optional<base::Event>& event, base::TimePoint now) {
  if (!event) return nullptr;
  Json json{{"event", base::name(event->reason)},
            {"ago_ms", ms(now - event->at)},
            {"text", base::text(event->reason)}};
  if (event->size != 0) json["size"] = event->size;
  if (event->version != 0) json["version"] = hex(event->version);
  if (event->limit != 0) json["limit"] = event->limit;
  if (event->status != Status::kOk) json["code"] = proto::name(event->status);
  return json;
}

std::string to_json(const Worker& worker, const Key& key, const L2Answer& l2) {
  const base::TimePoint now = worker.loop.now();
  const std::uint64_t unix_ms = worker.loop.unix_ms();
  const l1::Cache::Standing standing = worker.cache.explain(key.bytes(), key.hash, now);
  const base::ReasonTable::Memory memory =
      join(standing.memory, worker.shared.reasons->recall(key.hash));
  const Json json{{"l1", in_l1(worker, key, standing.resident, unix_ms)},
                  {"last", event_json(memory.last, now)},
                  {"remembers_ms", memory.since ? Json(ms(now - *memory.since)) : Json(nullptr)},
                  {"l2", in_l2(l2, unix_ms)}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// Waits for what L2 says. L1 is looked at after that, so that both tell of the same moment.
class Explain : public std::enable_shared_from_this<Explain> {
 public:
  Explain(std::shared_ptr<Worker> worker, Bytes key, Service::Done<std::string> done)
      : worker_(std::move(worker)), key_(key), done_(std::move(done)) {}

  // Past the store that takes notes: asking why is no event.
  void start() {
    worker_->plain_store->get_manifest(
        key_.text, [self = shared_from_this()](Result<std::optional<l2::Manifest>> manifest) {
          self->answer(std::move(manifest));
        });
  }
  void leave() { done_ = nullptr; }

 private:
  void answer(Result<std::optional<l2::Manifest>> manifest) {
    const Service::Done<std::string> done = std::exchange(done_, nullptr);
    if (done) done(to_json(*worker_, key_, std::move(manifest)));
  }

  const std::shared_ptr<Worker> worker_;
  const Key key_;
  Service::Done<std::string> done_;
};

}  // namespace

OperationPtr explain(const std::shared_ptr<Worker>& worker, const proto::KeyRequest& request,
                     Service::Done<std::string> done) {
  if (worker->plain_store == nullptr) {
    done(to_json(*worker, Key(request.key), std::nullopt));
    return nullptr;
  }
  if (const Result<void> available = worker->plain_store->available(); !available) {
    done(to_json(*worker, Key(request.key),
                 Result<std::optional<l2::Manifest>>(tl::unexpected(available.error()))));
    return nullptr;
  }
  auto operation = std::make_shared<Explain>(worker, request.key, std::move(done));
  operation->start();
  return std::make_unique<Handle<Explain>>(std::move(operation));
}

}  // namespace cistern::service
