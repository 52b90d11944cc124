// The one table of settings. Parsing, overriding by environment, printing, the example file and
// what errors say of expected values all come from it.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "config/config.h"

namespace cistern::config {

// Where a setting lives in a Config. Its type says how the setting is written:
template <typename T>
using Member = T& (*)(Config&);
using Field = std::variant<Member<std::uint64_t>,                 // a size
                           Member<std::optional<std::uint64_t>>,  // a size or auto
                           Member<unsigned>,                      // a number
                           Member<Share>,                         // a share
                           Member<std::optional<unsigned>>,       // a number or auto
                           Member<milliseconds>,                  // a duration
                           Member<std::vector<Endpoint>>,         // a list of endpoints
                           Member<std::vector<HostPort>>,         // a list of HOST:PORT
                           Member<std::vector<unsigned>>,         // a list of numbers
                           Member<std::optional<Endpoint>>,       // HOST:PORT or none
                           Member<L2Kind>, Member<Compression>, Member<OnGetFailure>,
                           Member<OnPutFailure>, Member<LogLevel>, Member<LogFormat>,
                           Member<std::string>,  // text
                           Member<RedisUrl>>;

// Of sizes in bytes, of durations in milliseconds, of text in bytes, of shares in thousandths, of
// numbers as they are.
struct Bounds {
  std::uint64_t min = 0;
  std::uint64_t max = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t multiple = 1;
};

struct Setting {
  std::string_view name;  // "l2.redis.url": sections, then the key
  Field field;
  Bounds bounds;
  std::string_view meaning;  // sentences for the example file, without the bounds
  bool secret = false;       // what was found is masked in problems, and the value when printed
};

// In the order of the example file: settings of a section stand together, subsections last.
std::span<const Setting> settings();
// Null when there is none of that name.
const Setting* find_setting(std::string_view name);
// "limits.max_key_bytes" -> "CISTERN_LIMITS_MAX_KEY_BYTES"
std::string variable_name(const Setting& setting);

}  // namespace cistern::config
