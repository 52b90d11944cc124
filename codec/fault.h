// What may be wrong with a compressed chunk, from the table fault.def.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace cistern::codec {

enum class Fault : std::uint8_t {
#define CISTERN_CODEC_FAULT(enumerator, label, text) enumerator,
#include "codec/fault.def"
#undef CISTERN_CODEC_FAULT
};
inline constexpr std::size_t kFaultCount = 0
#define CISTERN_CODEC_FAULT(enumerator, label, text) +1
#include "codec/fault.def"
#undef CISTERN_CODEC_FAULT
    ;

inline constexpr std::string_view kFaultLabels[] = {
#define CISTERN_CODEC_FAULT(enumerator, label, text) label,
#include "codec/fault.def"
#undef CISTERN_CODEC_FAULT
};
inline constexpr std::string_view kFaultTexts[] = {
#define CISTERN_CODEC_FAULT(enumerator, label, text) text,
#include "codec/fault.def"
#undef CISTERN_CODEC_FAULT
};

// For metrics, and for messages: what stands after "chunk 3 ".
constexpr std::string_view label(Fault fault) {
  return kFaultLabels[static_cast<std::size_t>(fault)];
}
constexpr std::string_view text(Fault fault) {
  return kFaultTexts[static_cast<std::size_t>(fault)];
}

}  // namespace cistern::codec
