// libFuzzer's entry; CISTERN_FUZZ_TARGET names the function of targets.h.
#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  cistern::fuzz::CISTERN_FUZZ_TARGET({reinterpret_cast<const std::byte*>(data), size});
  return 0;
}
