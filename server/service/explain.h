// Where a key stands, and why.
#pragma once

#include <string>

#include "server/service/worker.h"

namespace cistern::service {

// As Service::explain.
OperationPtr explain(const std::shared_ptr<Worker>& worker, const proto::KeyRequest& request,
                     Service::Done<std::string> done);

}  // namespace cistern::service
