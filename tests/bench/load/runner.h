// A kind of load, ready to run.
#pragma once

#include <memory>

#include <nlohmann/json_fwd.hpp>

#include "tests/bench/load/config.h"

namespace cistern::bench {

class Runner {
 public:
  virtual ~Runner() = default;
  // Stores the keys from `first` to before `last`, once; a report (totals.h).
  virtual nlohmann::json fill(KeyIndex first, KeyIndex last) = 0;
  // The configured load for so long, or its number of operations; a report.
  virtual nlohmann::json run(double seconds) = 0;
};

// What `config` asks for. Throws std::runtime_error when the server can't be reached.
std::unique_ptr<Runner> make_runner(const Config& config);

}  // namespace cistern::bench
