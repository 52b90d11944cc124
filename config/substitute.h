// ${NAME} in values.
#pragma once

#include <string>
#include <string_view>

#include <tl/expected.hpp>

#include "config/config.h"

namespace cistern::config {

// `text` with ${NAME} replaced by the variable, and ${NAME:-OTHER} by OTHER where the variable is
// unset or empty. `$${` stands for `${` itself. What was put in is not looked at again. The error
// says what was expected.
tl::expected<std::string, std::string> substitute(std::string_view text,
                                                  const Environment& environment);

}  // namespace cistern::config
