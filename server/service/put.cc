#include "server/service/put.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "proto/json.h"
#include "server/base/rng.h"
#include "server/service/edit.h"
#include "server/service/reasons.h"
#include "server/service/values.h"

namespace cistern::service {
namespace {

// Of a small value on its way to L2 there are the bytes that L1 will get, the manifest, and the
// command as the client library holds it until Redis takes it.
constexpr std::uint64_t kInlineCopies = 3;
// The write and what else waits with a value, its key and its metadata. Without it a crowd of empty
// values would count for nothing.
constexpr std::uint64_t kInlineWriteBytes = proto::kKiB;

// The client of an inline PUT while it waits for L2.
struct Client {
  std::shared_ptr<Worker> worker;
  Key key;
  std::uint64_t size;
  PutSink* sink;
  std::shared_ptr<Edit> edit{};
  bool answered = false;  // possibly before the handle is made

  void leave() {
    sink = nullptr;
    if (edit) edit->leave();
  }
  void answer(const Result<proto::Stored>& result) {
    PutSink* const to = std::exchange(sink, nullptr);
    answered = true;
    edit.reset();
    if (to == nullptr) return;
    if (result) {
      to->on_stored(*result);
    } else {
      answer_rejected(*worker, *to, key, size, result.error());
    }
  }
};

base::ValueMeta meta_of(const Worker& worker, const proto::PutRequest& request) {
  base::ValueMeta meta;
  meta.size = request.inline_bytes.size();
  meta.version = base::random_version();
  meta.expires_at_ms = worker.expires_at(request.ttl_ms);
  meta.chunk_bytes = worker.options.chunk_bytes;
  meta.digest = request.inline_digest;
  meta.metadata = proto::as_text(request.metadata);
  return meta;
}

// Without L2: one change of L1, and no memory taken beside it.
void put_in_l1(Worker& worker, const proto::PutRequest& request, proto::ChunkDigest digest,
               PutSink& sink) {
  const std::uint64_t hash = base::hash_key(request.key);
  const base::ValueMeta meta = meta_of(worker, request);
  auto outcome = l1::Cache::Outcome::kNoRoom;
  worker.gate.change(request.key, hash, [&] {
    outcome = insert_bytes(worker, request.key, hash, meta, request.inline_bytes, digest,
                           condition_of(request), l1::Source::kPut);
  });
  switch (outcome) {
    case l1::Cache::Outcome::kStored:
      return sink.on_stored({.flags = proto::kInL1,
                             .size = meta.size,
                             .version = meta.version,
                             .expires_at_ms = meta.expires_at_ms});
    case l1::Cache::Outcome::kConditionFailed:
      return answer_failed(worker, sink, {Status::kConditionFailed, {}});
    case l1::Cache::Outcome::kNoRoom:
      return answer_rejected(worker, sink, Key(request.key, hash), meta.size,
                             no_room_in_l1(meta.size));
  }
}

OperationPtr put_through_l2(const std::shared_ptr<Worker>& worker, const proto::PutRequest& request,
                            proto::ChunkDigest digest, PutSink& sink) {
  const std::uint64_t bytes =
      kInlineCopies * (request.inline_bytes.size() + request.metadata.size() + request.key.size()) +
      kInlineWriteBytes;
  // In an account of their own, so that small values don't queue behind large transfers.
  base::Reservation share = worker->ledger.try_reserve(base::Account::kL2Buffers, bytes);
  if (!share) {
    answer_rejected(
        *worker, sink, Key(request.key), request.inline_bytes.size(),
        {Status::kNoRoom,
         fmt::format("the write takes {} bytes of memory while small values wait for the second "
                     "tier, which hold {} already; of memory.limit at most {} are for them: try "
                     "again later",
                     bytes, worker->ledger.used(base::Account::kL2Buffers),
                     worker->ledger.budgets().l2_buffers)});
    return nullptr;
  }
  WritePlan plan;
  plan.account = std::make_shared<base::Reservation>(std::move(share));
  plan.condition = condition_of(request);
  plan.manifest.meta = meta_of(*worker, request);
  plan.manifest.inline_bytes.assign(request.inline_bytes.begin(), request.inline_bytes.end());
  plan.manifest.inline_digest = digest;
  auto client = std::make_shared<Client>(
      Client{worker, Key(request.key), request.inline_bytes.size(), &sink});
  client->edit =
      make_write(worker, Key(request.key), std::move(plan),
                 [client](const Result<proto::Stored>& result) { client->answer(result); });
  const std::shared_ptr<Edit> edit = client->edit;
  edit->begin();
  return std::make_unique<Handle<Client>>(std::move(client));
}

}  // namespace

Error no_room_in_l1(std::uint64_t size) {
  return {
      Status::kNoRoom,
      fmt::format("there is no room for the value's {} bytes in l1.max_bytes now, because other "
                  "transfers have reserved it, or because the process is near memory.limit",
                  size)};
}

bool may_stay_in_l1(const Worker& worker, const base::Condition& condition, const Error& failure) {
  return worker.options.l1_only_on_failure && condition.kind == base::Condition::Kind::kNone &&
         is_l2_failure(failure.status);
}

std::optional<Error> check_put(const proto::PutRequest& request) {
  if (request.key.empty()) return Error{Status::kBadRequest, "the key is empty"};
  if (request.if_absent && request.if_version) {
    return Error{Status::kBadRequest, "a PUT names both if-absent and if-version"};
  }
  if (request.ttl_ms != proto::kDefaultTtl && request.ttl_ms > proto::kMaxTtlMs) {
    return Error{Status::kBadRequest, fmt::format("a time to live of {} ms; the longest is {} ms",
                                                  request.ttl_ms, proto::kMaxTtlMs)};
  }
  if (!request.metadata.empty() && !proto::is_json_object(request.metadata)) {
    return Error{Status::kBadRequest, "the metadata is not a JSON object"};
  }
  return std::nullopt;
}

std::uint64_t cost_in_l1(const Worker& worker, std::uint64_t size, std::size_t key_bytes,
                         std::size_t metadata_bytes) {
  return base::ChunkedValue::cost_for(size, worker.options.chunk_bytes, metadata_bytes) +
         worker.cache.entry_overhead(key_bytes);
}

std::optional<Error> check_size(const Worker& worker, std::uint64_t size, std::size_t key_bytes,
                                std::size_t metadata_bytes) {
  if (size > worker.options.max_value_bytes) {
    return Error{Status::kValueTooLarge,
                 fmt::format("a value of {} bytes; limits.max_value_bytes is {}", size,
                             worker.options.max_value_bytes)};
  }
  if (worker.store != nullptr || l1::Cache::is_small(key_bytes, metadata_bytes, size)) {
    return std::nullopt;
  }
  const std::uint64_t cost = cost_in_l1(worker, size, key_bytes, metadata_bytes);
  if (worker.cache.could_hold(cost)) return std::nullopt;
  return Error{Status::kValueTooLarge,
               fmt::format("a value of {} bytes takes {} bytes of memory; l1.max_bytes is {}, "
                           "and there is no second tier (l2.kind: none)",
                           size, cost, worker.ledger.budgets().l1)};
}

void answer_failed(Worker& worker, PutSink& sink, const Error& error) {
  if (error.status != Status::kConditionFailed) worker.metrics.count_put_rejected(error.status);
  sink.on_failed(error);
}

void answer_rejected(Worker& worker, PutSink& sink, const Key& key, std::uint64_t size,
                     const Error& error) {
  if (error.status != Status::kConditionFailed) {
    std::uint64_t limit = 0;
    if (error.status == Status::kValueTooLarge) {
      const std::uint64_t most = worker.options.max_value_bytes;
      limit = size > most ? most : worker.ledger.budgets().l1;
    } else if (error.status == Status::kTransferTooLarge) {
      limit = worker.ledger.budgets().transfers;
    } else if (error.status == Status::kNoRoom) {
      const base::Ledger::Budgets& budgets = worker.ledger.budgets();
      limit = worker.store == nullptr ? budgets.l1 : budgets.transfers;
    }
    worker.shared.reasons->note(key.hash, {.reason = base::Reason::kRejected,
                                           .at = worker.loop.now(),
                                           .size = size,
                                           .limit = limit,
                                           .status = error.status});
  }
  answer_failed(worker, sink, error);
}

OperationPtr put_inline(const std::shared_ptr<Worker>& worker, const proto::PutRequest& request,
                        PutSink& sink) {
  if (const std::optional<Error> error = check_put(request)) {
    answer_failed(*worker, sink, *error);
    return nullptr;
  }
  const std::uint64_t size = request.inline_bytes.size();
  if (std::optional<Error> error =
          check_size(*worker, size, request.key.size(), request.metadata.size())) {
    auto client = std::make_shared<Client>(
        Client{worker, Key(request.key), request.inline_bytes.size(), &sink});
    refuse_for_size(worker, Key(request.key), condition_of(request), std::move(*error),
                    [client](const Error& why) { client->answer(tl::unexpected(why)); });
    if (client->answered) return nullptr;
    return std::make_unique<Handle<Client>>(std::move(client));
  }
  const Digests digests = digests_of(request.inline_bytes, worker->options.chunk_bytes);
  if (digests.value != request.inline_digest) {
    answer_rejected(
        *worker, sink, Key(request.key), size,
        {Status::kDigestMismatch,
         fmt::format("the {} bytes that arrived have the digest {}, not {}", size,
                     proto::to_hex(digests.value), proto::to_hex(request.inline_digest))});
    return nullptr;
  }
  if (worker->store == nullptr) {
    put_in_l1(*worker, request, digests.bytes, sink);
    return nullptr;
  }
  const Result<void> available = worker->store->available();
  if (!available && !may_stay_in_l1(*worker, condition_of(request), available.error())) {
    answer_rejected(*worker, sink, Key(request.key), size, available.error());
    return nullptr;
  }
  return put_through_l2(worker, request, digests.bytes, sink);
}

}  // namespace cistern::service
