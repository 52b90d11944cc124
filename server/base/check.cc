#include "server/base/check.h"

#include <cstdio>
#include <cstdlib>

namespace cistern::base {

void check_failed(const char* condition, const char* file, int line) {
  // Not through the log: it may be what is broken, and its queue would not be written before abort.
  std::fprintf(stderr, "cistern: defect at %s:%d: CHECK(%s) failed; aborting\n", file, line,
               condition);
  std::fflush(stderr);
  std::abort();
}

}  // namespace cistern::base
