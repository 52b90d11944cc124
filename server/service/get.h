// GET.
#pragma once

#include <span>

#include "server/service/worker.h"

namespace cistern::service {

// As Service::get.
void expect_gets(const Worker& worker, std::span<const Bytes> keys);
OperationPtr get(const std::shared_ptr<Worker>& worker, const proto::GetRequest& request,
                 GetSink& sink);

}  // namespace cistern::service
