// User metadata is a JSON object that others parse later: the second tier, the command line, a
// browser. So what isn't one is refused where it comes in.
#pragma once

#include "proto/bytes.h"

namespace cistern::proto {

// How deep objects and arrays may stand within each other.
inline constexpr unsigned kMaxJsonDepth = 32;

// Whether `text` is one JSON object (RFC 8259) in valid UTF-8, with blanks around it or not, nested
// at most kMaxJsonDepth deep. Keys may repeat.
bool is_json_object(Bytes text);

}  // namespace cistern::proto
