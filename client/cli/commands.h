// What each command does.
#pragma once

#include "client/cli/arguments.h"

namespace cistern::cli {

// Throws Failure and cistern::Error.
Exit run(const Arguments& arguments);

}  // namespace cistern::cli
