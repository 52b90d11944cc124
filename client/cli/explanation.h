// What EXPLAIN answers, for people.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace cistern::cli {

// A line for each part: memory, the last event, the second tier. What a daemon of another version
// leaves out, or adds, is left out here.
std::vector<std::string> explanation_lines(const nlohmann::ordered_json& json);

// "850 ms", "1.5 s", "2 min 5 s", "3 h 20 min", "5 d 1 h".
std::string readable_time(std::int64_t ms);

}  // namespace cistern::cli
