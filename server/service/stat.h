// STAT.
#pragma once

#include "server/service/worker.h"

namespace cistern::service {

// As Service::stat.
OperationPtr stat(const std::shared_ptr<Worker>& worker, const proto::KeyRequest& request,
                  Service::Done<proto::Info> done);

}  // namespace cistern::service
