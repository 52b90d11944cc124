// The label under which an operation on a second tier is counted.
#pragma once

#include "server/base/metrics.h"

namespace cistern::l2 {

inline base::L2Result result_label(base::Status status) {
  using base::L2Result;
  using base::Status;
  switch (status) {
    case Status::kValueLost:
      return L2Result::kLost;
    case Status::kL2Timeout:
      return L2Result::kTimeout;
    case Status::kL2Unavailable:
    case Status::kL2Busy:
    case Status::kShuttingDown:
      return L2Result::kUnavailable;
    default:
      return L2Result::kError;
  }
}

template <typename T>
base::L2Result result_label(const base::Result<T>& result) {
  return result ? base::L2Result::kOk : result_label(result.error().status);
}

}  // namespace cistern::l2
