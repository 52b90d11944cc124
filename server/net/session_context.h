// What all sessions of a worker share. The loop's thread only.
#pragma once

#include <functional>
#include <string>

#include "proto/server_conn.h"
#include "server/net/asio_loop.h"
#include "server/net/close_reason.h"
#include "server/net/lingering.h"
#include "server/net/readiness.h"
#include "server/service/service.h"

namespace cistern::net {

struct SessionOptions {
  proto::ServerLimits limits;
  // Until a request's first answer, a PUT's outcome after its END, and a connection's HELLO.
  base::Duration request_timeout = std::chrono::seconds(30);
  // Of a stream on which no byte moves and no credit is granted, and of a socket that takes
  // nothing.
  base::Duration stall_timeout = std::chrono::minutes(5);
  // Of a connection without open requests.
  base::Duration idle_timeout = std::chrono::minutes(5);
  // The answer to STATS: at most kMaxStatsBytes of JSON. Any thread.
  std::function<std::string()> stats_json;
};

struct SessionContext {
  const SessionOptions& options;
  AsioLoop& loop;
  Readiness& readiness;
  service::Service& service;
  base::Ledger& ledger;
  base::WorkerMetrics& metrics;
  CloseCounts& closes;
  Lingering& lingering;
  // proto::kScratchBytes that whoever reads may use for the time of one turn.
  proto::MutableBytes scratch;
};

}  // namespace cistern::net
