// Why a connection ended; one table (close_reason.def) for the enum, the metric and the log.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "server/base/log.h"
#include "server/base/metrics.h"

namespace cistern::net {

enum class CloseReason : std::uint8_t {
#define CISTERN_CLOSE(enumerator, label, severity, text) enumerator,
#include "server/net/close_reason.def"
#undef CISTERN_CLOSE
};

inline constexpr std::size_t kCloseReasonCount = 0
#define CISTERN_CLOSE(enumerator, label, severity, text) +1
#include "server/net/close_reason.def"
#undef CISTERN_CLOSE
    ;

struct CloseInfo {
  std::string_view label;
  log::Level severity;
  std::string_view text;
};
const CloseInfo& info(CloseReason reason);

// One for each worker.
using CloseCounts = std::array<base::Counter, kCloseReasonCount>;

}  // namespace cistern::net
