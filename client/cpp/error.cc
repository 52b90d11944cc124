#include <string>

#include <cistern/error.h>

#include "proto/status.h"

namespace cistern {

// The public list is written out, so that it can be installed and read; the wire's is the master.
#define CISTERN_STATUS(enumerator, code, name, retryable, text) \
  static_assert(static_cast<std::uint16_t>(Status::enumerator) == (code));
#include "proto/status.def"
#undef CISTERN_STATUS

namespace {

const proto::StatusInfo& info_of(Status status) {
  return proto::info(static_cast<proto::Status>(status));
}

}  // namespace

std::string_view name(Status status) { return info_of(status).name; }
bool is_retryable(Status status) { return info_of(status).retryable; }

Error::Error(Status status, std::string_view message)
    : std::runtime_error(std::string(name(status)) + ": " + std::string(message)),
      status_(status),
      retryable_(is_retryable(status)),
      skip_(name(status).size() + 2) {}

}  // namespace cistern
