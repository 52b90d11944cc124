#include "tests/bench/load/runner.h"

#include "tests/bench/load/chunk_load.h"
#include "tests/bench/load/library_load.h"
#include "tests/bench/load/load.h"

namespace cistern::bench {

std::unique_ptr<Runner> make_runner(const Config& config) {
  if (!config.chunk_keys_file.empty()) return std::make_unique<ChunkLoad>(config);
  if (config.uses_library) return std::make_unique<LibraryLoad>(config);
  return std::make_unique<Load>(config);
}

}  // namespace cistern::bench
