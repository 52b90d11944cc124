// "Did you mean": the known name that is closest to one that is not known.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace cistern::config {

// Empty when nothing is close: more than a third of the characters, or more than three, differ.
// The first of equally close ones.
std::string nearest(std::string_view name, std::span<const std::string> known);

}  // namespace cistern::config
