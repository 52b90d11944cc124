#include "server/service/service.h"

#include <array>
#include <utility>

#include "server/service/edit.h"
#include "server/service/explain.h"
#include "server/service/fill.h"
#include "server/service/get.h"
#include "server/service/l1_only.h"
#include "server/service/put.h"
#include "server/service/reasons.h"
#include "server/service/stat.h"
#include "server/service/worker.h"

namespace cistern::service {
namespace {

// DELETE without L2.
Result<proto::Done> remove_from_l1(Worker& worker, Bytes key, const base::Condition& condition) {
  const std::uint64_t hash = base::hash_key(key);
  auto erased = l1::Cache::Erased::kAbsent;
  worker.gate.change(key, hash, [&] {
    erased = worker.cache.erase(key, hash, condition, l1::Removal::kDeleted, worker.loop.now());
  });
  if (erased == l1::Cache::Erased::kErased) return proto::Done{};
  if (!condition.holds(std::nullopt) || erased == l1::Cache::Erased::kConditionFailed) {
    return base::fail(Status::kConditionFailed, {});
  }
  return base::fail(Status::kNotFound, {});
}

// TOUCH without L2.
Result<proto::Done> touch_in_l1(Worker& worker, Bytes key, const base::Condition& condition,
                                std::uint64_t expires_at_ms) {
  const std::uint64_t hash = base::hash_key(key);
  const base::TimePoint now = worker.loop.now();
  Result<proto::Done> result = base::fail(Status::kNotFound, {});
  worker.gate.change(key, hash, [&] {
    const auto found = worker.cache.peek(key, hash, now);
    const auto current = found ? std::optional(found->version) : std::nullopt;
    if (!condition.holds(current)) {
      result = base::fail(Status::kConditionFailed, {});
    } else if (found && worker.cache.set_expiry(key, hash, found->version, expires_at_ms, now,
                                                worker.loop.unix_ms())) {
      result = proto::Done{
          .flags = proto::kInL1, .version = found->version, .expires_at_ms = expires_at_ms};
    }
  });
  return result;
}

// Calls `done` with `result` when there is nothing to wait for.
template <typename T>
OperationPtr at_once(const Service::Done<T>& done, const Result<T>& result) {
  done(result);
  return nullptr;
}

OperationPtr run(const std::shared_ptr<Edit>& edit) {
  edit->begin();
  return std::make_unique<Handle<Edit>>(edit);
}

}  // namespace

Shared::Shared(const Options& the_options, l1::Cache& the_cache, base::Ledger& the_ledger)
    : options(the_options),
      cache(the_cache),
      ledger(the_ledger),
      gate(std::make_unique<WriteGate>(the_options.negative_ttl)),
      passing(std::make_unique<Passing>()),
      reasons(std::make_unique<Reasons>(the_ledger.budgets().l1)),
      l1_only(std::make_unique<L1OnlyKeys>(the_ledger)) {}

Shared::~Shared() = default;

Service::Service(Shared& shared, base::Loop& loop, l2::Store* store, base::WorkerMetrics& metrics)
    : worker_(std::make_shared<Worker>(shared, loop, store, metrics)) {}

Service::~Service() { worker_->stop(); }

void Service::expect(std::span<const Bytes> keys) {
  std::array<std::uint64_t, 32> hashes;
  while (!keys.empty()) {
    const std::size_t count = std::min(keys.size(), hashes.size());
    for (std::size_t i = 0; i < count; ++i) hashes[i] = base::hash_key(keys[i]);
    worker_->cache.prefetch({hashes.data(), count});
    keys = keys.subspan(count);
  }
}

OperationPtr Service::get(const proto::GetRequest& request, GetSink& sink) {
  if (worker_->draining()) {
    sink.on_failed(worker_->shutting_down());
    return nullptr;
  }
  return service::get(worker_, request, sink);
}

std::unique_ptr<Upload> Service::open_put(const proto::PutRequest& request, PutSink& sink) {
  if (worker_->draining()) {
    answer_failed(*worker_, sink, worker_->shutting_down());
    return nullptr;
  }
  return service::open_put(worker_, request, sink);
}

OperationPtr Service::put_inline(const proto::PutRequest& request, PutSink& sink) {
  if (worker_->draining()) {
    answer_failed(*worker_, sink, worker_->shutting_down());
    return nullptr;
  }
  return service::put_inline(worker_, request, sink);
}

OperationPtr Service::remove(const proto::KeyRequest& request, Done<proto::Done> done) {
  if (worker_->draining()) {
    return at_once<proto::Done>(done, tl::unexpected(worker_->shutting_down()));
  }
  const base::Condition condition = condition_of(request);
  if (worker_->store == nullptr) {
    return at_once<proto::Done>(done, remove_from_l1(*worker_, request.key, condition));
  }
  return run(make_remove(worker_, Key(request.key), condition, std::move(done)));
}

OperationPtr Service::touch(const proto::TouchRequest& request, Done<proto::Done> done) {
  if (worker_->draining()) {
    return at_once<proto::Done>(done, tl::unexpected(worker_->shutting_down()));
  }
  if (request.ttl_ms != proto::kDefaultTtl && request.ttl_ms > proto::kMaxTtlMs) {
    return at_once<proto::Done>(
        done, base::fail(Status::kBadRequest, "the time to live is longer than 100 years"));
  }
  const base::Condition condition = condition_of(request);
  const std::uint64_t expires_at_ms = worker_->expires_at(request.ttl_ms);
  if (worker_->store == nullptr) {
    return at_once<proto::Done>(done, touch_in_l1(*worker_, request.key, condition, expires_at_ms));
  }
  return run(make_touch(worker_, Key(request.key), condition, expires_at_ms, std::move(done)));
}

OperationPtr Service::stat(const proto::KeyRequest& request, Done<proto::Info> done) {
  if (worker_->draining()) {
    return at_once<proto::Info>(done, tl::unexpected(worker_->shutting_down()));
  }
  return service::stat(worker_, request, std::move(done));
}

OperationPtr Service::explain(const proto::KeyRequest& request, Done<std::string> done) {
  if (worker_->draining()) {
    return at_once<std::string>(done, tl::unexpected(worker_->shutting_down()));
  }
  return service::explain(worker_, request, std::move(done));
}

Result<void> Service::ready() const {
  return worker_->store == nullptr ? Result<void>{} : worker_->store->ready();
}

void Service::drain(std::function<void()> idle) { worker_->drain(std::move(idle)); }

}  // namespace cistern::service
