// The outcome of a request, one list for server, client and wire (status.def).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <tl/expected.hpp>

namespace cistern::proto {

enum class Status : std::uint16_t {
#define CISTERN_STATUS(enumerator, code, name, retryable, text) enumerator = code,
#include "proto/status.def"
#undef CISTERN_STATUS
};

// Codes from here on are a client's own and never on the wire.
inline constexpr std::uint16_t kFirstLocalCode = 256;

struct StatusInfo {
  Status status;
  std::string_view name;  // as on the protocol page, in metrics and in logs
  bool retryable;         // the same request may succeed later without being changed
  std::string_view text;  // one sentence, without a final stop
};

// All statuses in the order of their codes.
std::span<const StatusInfo> all_statuses();
// `status` must be one of the enumerators.
const StatusInfo& info(Status status);
// Empty when the list has no such code: a newer peer may send one.
std::optional<Status> status_from_code(std::uint16_t code);

inline std::string_view name(Status status) { return info(status).name; }
inline bool is_retryable(Status status) { return info(status).retryable; }

// A failed operation: what happened and, for the one who has to act on it, where, the limit and
// what to do. `message` holds no payload and no secret.
struct Error {
  Status status = Status::kInternal;
  std::string message;
  // Of kNotFound: the second tier could not be asked (l2.on_failure.get: miss).
  bool degraded = false;
  // More about the status, for the program's own parts; never sent. 0: nothing.
  std::uint8_t detail = 0;
};

template <typename T>
using Result = tl::expected<T, Error>;

inline tl::unexpected<Error> fail(Status status, std::string message) {
  return tl::unexpected<Error>(Error{status, std::move(message)});
}
// With the status' own text as the message.
tl::unexpected<Error> fail(Status status);

}  // namespace cistern::proto
