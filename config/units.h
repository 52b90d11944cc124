// Sizes, durations and shares as people write them: `16GiB`, `500MB`, `30s`, `7d`, `0.1`, `10%`.
// Sizes and durations are whole numbers with a unit; a bare 0 needs none.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace cistern::config {

inline constexpr std::string_view kSizeUnits = "B, KiB, MiB, GiB, TiB, KB, MB, GB, TB";
inline constexpr std::string_view kDurationUnits = "ms, s, m, h, d";

// Empty when the text is none, or when the number of bytes does not fit.
std::optional<std::uint64_t> parse_size(std::string_view text);
std::optional<std::chrono::milliseconds> parse_duration(std::string_view text);
// Decimal digits only.
std::optional<std::uint64_t> parse_count(std::string_view text);
// "0.125" or "12.5%", in thousandths; empty when the text is neither, or finer than that.
std::optional<std::uint64_t> parse_share(std::string_view text);

// In the largest binary unit, or unit of time, that divides it. The parsers read it back exactly.
std::string format_size(std::uint64_t bytes);
std::string format_duration(std::chrono::milliseconds duration);
// As "0.125".
std::string format_share(std::uint64_t per_mille);

}  // namespace cistern::config
