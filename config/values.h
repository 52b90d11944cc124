// One setting's value as text and back, by the table.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config/settings.h"

namespace cistern::config {

// Whether the setting takes a list; all others take one text.
bool takes_list(const Setting& setting);

// "a size from 1B to 4KiB", "one of none, redis": what stands after "expected" in a problem.
std::string expectation(const Setting& setting);

// Sets the value, or leaves `config` as it is and says what was expected. `items` has one element
// for a setting that takes no list.
std::optional<std::string> assign(const Setting& setting, const std::vector<std::string>& items,
                                  Config& config);

// As it is written in a file, one element for a setting that takes no list, secrets masked.
std::vector<std::string> written(const Setting& setting, const Config& config);

// What was found, as problems show it: in quotes, cut if long, masked if the setting is secret.
std::string shown(const Setting& setting, std::string_view found);
std::string in_quotes(std::string_view text);

}  // namespace cistern::config
