// The admin endpoint: HTTP on a thread and a pool of its own, for people and for Prometheus. It
// shares nothing with the workers but counters that it reads.
#pragma once

#include <memory>
#include <string>

#include "proto/endpoint.h"
#include "server/admin/sources.h"

namespace cistern::admin {

class Endpoint {
 public:
  // Binds and answers from now on, with /readyz saying "starting" until the state says otherwise.
  // Throws std::runtime_error that names the endpoint where it can't be bound. `sources` outlives
  // it.
  Endpoint(const proto::Endpoint& listen, const Sources& sources);
  // Waits for the requests that are being answered.
  ~Endpoint();
  Endpoint(const Endpoint&) = delete;
  Endpoint& operator=(const Endpoint&) = delete;

  // With its real port.
  const proto::Endpoint& listening() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// Loops that have not turned for so long make /healthz fail.
inline constexpr std::chrono::seconds kLoopPatience{10};

struct Health {
  int status = 200;  // of HTTP
  std::string body;  // JSON
};
// Whether the process works at all: 503 asks for a restart.
Health health(const Sources& sources);
// Whether it should get traffic: 503 while it starts or drains, or can't reach L2.
Health readiness(const Sources& sources);

}  // namespace cistern::admin
