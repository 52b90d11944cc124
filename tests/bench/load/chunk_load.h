// What a miss costs without Cistern: the chunks that it keeps in Redis, read by a client that knows
// their names, a few GETs ahead. Once through hiredis, once by a loop that only receives.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/bench/load/runner.h"
#include "tests/bench/load/totals.h"

namespace cistern::bench {

// Reads chunks by their names, in order, over a connection of its own.
class ChunkReader {
 public:
  virtual ~ChunkReader() = default;
  struct Received {
    std::uint64_t bytes = 0;         // of all chunks
    std::int64_t first_byte_ns = 0;  // when the first of them was there
  };
  // The chunks from `first` to before `last`. Throws std::runtime_error when one isn't there.
  virtual Received read(std::size_t first, std::size_t last) = 0;
};

class ChunkLoad final : public Runner {
 public:
  // Reads the file of names and connects. Throws std::runtime_error.
  explicit ChunkLoad(const Config& config);

  // Refused: chunks are written by Cistern.
  nlohmann::json fill(KeyIndex first, KeyIndex last) override;
  // One operation after the other: all chunks of a value, or one chunk where the configured size is
  // no more than one.
  nlohmann::json run(double seconds) override;

 private:
  void split();
  ChunkReader::Received read(std::size_t first, std::size_t last);

  Config config_;
  std::vector<std::string> names_;
  std::unique_ptr<ChunkReader> reader_;
  std::vector<std::size_t> ends_;  // of the operations, in names_
  std::size_t next_ = 0;           // operation
  bool is_whole_ = false;
};

}  // namespace cistern::bench
