// Random numbers of the process: seeds from the kernel, versions from a fast generator.
#pragma once

#include <cstdint>

#include "server/base/types.h"

namespace cistern::base {

// 64 bits from the kernel (getrandom). Aborts where the kernel has none to give.
std::uint64_t random_seed();

// The version of a new value: never 0. Each thread has a generator of its own (xoshiro256**),
// seeded by the kernel. Not fit for nonces or secrets. Any thread.
Version random_version();

}  // namespace cistern::base
