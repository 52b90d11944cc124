// A configuration while it is being read: the values so far, where each came from, and what is
// wrong.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"
#include "config/settings.h"

namespace cistern::config {

inline constexpr std::string_view kEnvironmentName = "environment";

struct Origin {
  std::string file;      // or kEnvironmentName
  int line = 0;          // 0: of the environment
  std::string variable;  // of the environment: its name
};

struct Draft {
  Config config;
  // Settings that were set, by name. One whose value was refused keeps its default, and is here
  // with `refused` set.
  struct Given {
    Origin origin;
    bool refused = false;
  };
  std::map<std::string_view, Given> given;
  std::vector<Problem> problems;

  void add_problem(const Origin& origin, std::string setting, std::string found,
                   std::string expected);
  // Assigns by the table, or notes the problem.
  void set(const Setting& setting, const std::vector<std::string>& items, const Origin& origin);
};

// Reads the file's text into `draft` (load.cc).
void read_yaml(std::string_view text, const std::string& file, const Environment& environment,
               Draft& draft);
// CISTERN_… variables (overrides.cc).
void read_overrides(const Environment& environment, Draft& draft);
// Settings that contradict each other (relations.cc). Those that were refused are left out.
void check_relations(Draft& draft);

}  // namespace cistern::config
