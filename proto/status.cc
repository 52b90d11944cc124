#include "proto/status.h"

#include <algorithm>
#include <array>
#include <cstdlib>

namespace cistern::proto {
namespace {

constexpr auto kStatuses = std::to_array<StatusInfo>({
#define CISTERN_STATUS(enumerator, code, name, retryable, text) \
  {Status::enumerator, name, retryable, text},
#include "proto/status.def"
#undef CISTERN_STATUS
});

}  // namespace

std::span<const StatusInfo> all_statuses() { return kStatuses; }

const StatusInfo& info(Status status) {
  const auto found = std::ranges::find(kStatuses, status, &StatusInfo::status);
  if (found == kStatuses.end()) std::abort();  // an enumerator that the list lacks cannot be
  return *found;
}

std::optional<Status> status_from_code(std::uint16_t code) {
  const auto found = std::ranges::find(kStatuses, static_cast<Status>(code), &StatusInfo::status);
  if (found == kStatuses.end()) return std::nullopt;
  return found->status;
}

tl::unexpected<Error> fail(Status status) { return fail(status, std::string(info(status).text)); }

}  // namespace cistern::proto
