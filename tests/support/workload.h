// Random operations of several clients on shared keys, recorded for the checker of histories.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/support/history.h"

namespace cistern::testing {

struct WorkloadOptions {
  std::vector<std::string> endpoints;  // clients take them in turn; each is a History's place
  unsigned clients = 8;
  unsigned keys = 8;
  std::uint64_t max_value_bytes = 4 * 1024 * 1024;
  std::chrono::seconds duration{10};
  std::uint64_t seed = 1;
  bool absent_is_allowed = false;         // see History; then values may also be lost
  std::chrono::nanoseconds staleness{0};  // see History; nanoseconds are its clock's unit
};

struct WorkloadResult {
  std::map<unsigned, History> by_key;
  std::vector<std::string> wrong;               // bytes or metadata that don't fit together
  std::map<std::string, std::uint64_t> done;    // operations that succeeded, by name
  std::map<std::string, std::uint64_t> failed;  // errors, by "operation STATUS"

  // All of `wrong` and of the histories' violations.
  std::vector<std::string> violations() const;
  std::string summary() const;
};

WorkloadResult run_workload(const WorkloadOptions& options);

}  // namespace cistern::testing
