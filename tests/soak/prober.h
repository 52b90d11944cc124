// Reads small values that stay in L1, all the time, and measures how long each answer takes.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <string>

#include "tests/soak/run.h"
#include "tests/soak/wire.h"

namespace cistern::soak {

struct ProbeFigures {
  std::uint64_t hits = 0;        // answered from L1; only these are judged
  std::uint64_t others = 0;      // evicted meanwhile, so the second tier was asked, or put anew
  std::uint64_t unanswered = 0;  // within 30 s, or the connection was lost
  std::uint64_t worst_us = 0;    // of the hits
  double worst_at_s = 0;         // since the run began
  std::uint64_t p99_us = 0;
  std::uint64_t worst_us_since_last = 0;
};

class Prober : public Actor {
 public:
  Prober(Run& run, unsigned number, std::string endpoint);

  // Any thread. What is "since last" begins anew.
  ProbeFigures figures();

 private:
  static constexpr unsigned kKeys = 16;
  // Buckets of the answers' times: 16 for each doubling from 1 us on.
  static constexpr std::size_t kBuckets = 16 * 32;

  void step() override;
  void probe(std::uint32_t id, const std::string& key);
  void record(bool is_hit, std::chrono::nanoseconds took);

  const std::string endpoint_;
  const Clock::time_point began_ = Clock::now();
  std::mutex mutex_;
  ProbeFigures figures_;
  std::array<std::uint64_t, kBuckets> histogram_{};
  std::unique_ptr<Wire> wire_;
  std::uint32_t next_id_ = 0;
};

}  // namespace cistern::soak
