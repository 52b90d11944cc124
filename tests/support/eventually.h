// Waiting for a state that announces itself by no event, such as a counter of the daemon.
#pragma once

#include <chrono>
#include <thread>

namespace cistern::testing {

// Whether `holds` within `patience`; it is looked at again and again.
template <typename Condition>
bool eventually(Condition&& holds, std::chrono::milliseconds patience) {
  const auto until = std::chrono::steady_clock::now() + patience;
  while (!holds()) {
    if (std::chrono::steady_clock::now() >= until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

}  // namespace cistern::testing
