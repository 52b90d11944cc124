// The load through the systems' client libraries: one thread with one connection each, one request
// at a time.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "tests/bench/load/library_client.h"
#include "tests/bench/load/plan.h"
#include "tests/bench/load/runner.h"
#include "tests/bench/load/totals.h"

namespace cistern::bench {

// Values in one piece each, though they repeat: one period of memory, mapped over and over. So a
// client that wants 1 GB in one piece gets it, and reads it from a near cache.
class ValueMemory {
 public:
  // Throws std::runtime_error when there is no address space.
  explicit ValueMemory(const Corpus& corpus);
  ~ValueMemory();
  ValueMemory(const ValueMemory&) = delete;
  ValueMemory& operator=(const ValueMemory&) = delete;

  proto::Bytes value(KeyIndex key) const;

 private:
  const Corpus& corpus_;
  std::byte* begin_ = nullptr;
  std::size_t bytes_ = 0;
};

class LibraryLoad final : public Runner {
 public:
  // Connects all clients. Throws std::runtime_error.
  explicit LibraryLoad(const Config& config);

  nlohmann::json fill(KeyIndex first, KeyIndex last) override;
  nlohmann::json run(double seconds) override;

 private:
  nlohmann::json drive(std::int64_t deadline_ns);
  void work(unsigned index, std::int64_t deadline_ns, Totals& totals);
  void perform(LibraryClient& client, const Operation& operation, std::uint64_t number,
               Totals& totals);
  void get(LibraryClient& client, KeyIndex key, std::uint64_t number, std::int64_t began_ns,
           Totals& totals);
  void put(LibraryClient& client, KeyIndex key, Totals& totals);

  Config config_;
  Corpus corpus_;
  ValueMemory memory_;
  std::mutex mutex_;  // of plan_
  Plan plan_;
  std::vector<std::unique_ptr<LibraryClient>> clients_;
};

}  // namespace cistern::bench
