// What a run has counted, and its report.
#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "tests/bench/load/histogram.h"

namespace cistern::bench {

// Nanoseconds of the monotonic clock.
std::int64_t now_ns();
// CPU time of this process, all threads, user and system.
std::int64_t cpu_ns();

struct Totals {
  std::uint64_t gets = 0;
  std::uint64_t hits = 0;
  std::uint64_t misses = 0;
  std::uint64_t puts = 0;
  std::uint64_t refused = 0;  // the server said no, for lack of room or for the value's size
  std::uint64_t errors = 0;
  std::string first_error;
  std::uint64_t bytes_in = 0;  // of the sockets
  std::uint64_t bytes_out = 0;
  std::uint64_t value_bytes = 0;  // received, or stored
  Histogram latency;              // from the intended sending to the whole reply
  Histogram first_byte;           // to the first byte of a large value

  void fail(const std::string& why) {
    ++errors;
    if (first_error.empty()) first_error = why;
  }
  std::uint64_t operations() const { return gets + puts; }
  void add(const Totals& other);
};

nlohmann::json report(const Totals& totals, double seconds, double cpu_seconds);

}  // namespace cistern::bench
