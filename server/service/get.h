// GET.
#pragma once

#include "server/service/worker.h"

namespace cistern::service {

// As Service::get.
OperationPtr get(const std::shared_ptr<Worker>& worker, const proto::GetRequest& request,
                 GetSink& sink);

}  // namespace cistern::service
