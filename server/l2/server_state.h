// One server of a second tier that has several, as the operator is shown it.
#pragma once

#include <cstdint>
#include <string>

namespace cistern::l2 {

struct ServerState {
  std::string name;  // host:port
  bool is_up = false;
  std::string why;  // it isn't; empty while the first attempt is under way
  std::uint64_t waiting = 0;
  std::uint64_t failures = 0;  // how often it was found out of reach
  std::uint64_t refused = 0;   // operations that failed at once because of that
};

}  // namespace cistern::l2
