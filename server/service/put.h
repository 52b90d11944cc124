// PUT.
#pragma once

#include <optional>

#include "server/service/worker.h"

namespace cistern::service {

// What is wrong with a PUT, whatever its bytes are.
std::optional<Error> check_put(const proto::PutRequest& request);

// Why a value of `size` bytes can never be stored; `key_bytes` and `metadata_bytes` count against
// L1 when there is no L2.
std::optional<Error> check_size(const Worker& worker, std::uint64_t size, std::size_t key_bytes,
                                std::size_t metadata_bytes);

// What its entry in L1 takes, when it isn't small.
std::uint64_t cost_in_l1(const Worker& worker, std::uint64_t size, std::size_t key_bytes,
                         std::size_t metadata_bytes);

// Why a value that could be stored can't be now.
Error no_room_in_l1(std::uint64_t size);

// Whether a PUT that L2 fails to take is put into L1 alone, if L1 has room (l2.on_failure.put).
// What depends on what L2 has can't be judged without it.
bool may_stay_in_l1(const Worker& worker, const base::Condition& condition, const Error& failure);

// Counts and passes on the failure of a PUT.
void answer_failed(Worker& worker, PutSink& sink, const Error& error);

// The same for what is refused of a key for its own sake, which is remembered. `size` is of the
// value, as far as it is known.
void answer_rejected(Worker& worker, PutSink& sink, const Key& key, std::uint64_t size,
                     const Error& error);

// As Service::put_inline and Service::open_put.
OperationPtr put_inline(const std::shared_ptr<Worker>& worker, const proto::PutRequest& request,
                        PutSink& sink);
std::unique_ptr<Upload> open_put(const std::shared_ptr<Worker>& worker,
                                 const proto::PutRequest& request, PutSink& sink);

}  // namespace cistern::service
