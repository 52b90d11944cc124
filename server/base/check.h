// CHECK: always on, for what only a defect of Cistern's own can break. DCHECK: debug and sanitizer
// builds. Never on bytes from the wire, from L2 or from a file: those are errors, not defects.
#pragma once

namespace cistern::base {
[[noreturn]] void check_failed(const char* condition, const char* file, int line);
}

#define CHECK(condition) \
  (static_cast<bool>(condition) \
       ? void(0) \
       : ::cistern::base::check_failed(#condition, __FILE__, __LINE__))

#ifdef CISTERN_DCHECK
#define DCHECK(condition) CHECK(condition)
#else
#define DCHECK(condition) \
  do { \
    if (false) CHECK(condition); \
  } while (false)
#endif
