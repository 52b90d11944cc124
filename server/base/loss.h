// Why a value in the second tier is lost, from the table loss.def: goes with every kValueLost, to
// be counted.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "server/base/types.h"

namespace cistern::base {

enum class Loss : std::uint8_t {
#define CISTERN_LOSS(enumerator, label, help) enumerator,
#include "server/base/loss.def"
#undef CISTERN_LOSS
};
inline constexpr std::size_t kLossCount = 0
#define CISTERN_LOSS(enumerator, label, help) +1
#include "server/base/loss.def"
#undef CISTERN_LOSS
    ;

inline constexpr std::string_view kLossNames[] = {
#define CISTERN_LOSS(enumerator, label, help) label,
#include "server/base/loss.def"
#undef CISTERN_LOSS
};
inline std::string_view name(Loss loss) { return kLossNames[static_cast<std::size_t>(loss)]; }

inline tl::unexpected<Error> lost(Loss why, std::string message) {
  Error error{Status::kValueLost, std::move(message)};
  error.detail = static_cast<std::uint8_t>(why);
  return tl::unexpected<Error>(std::move(error));
}
// Of a kValueLost.
inline Loss loss_of(const Error& error) {
  return error.detail < kLossCount ? static_cast<Loss>(error.detail) : Loss::kOther;
}

}  // namespace cistern::base
