// YAML -> Draft -> Config.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include "config/config.h"
#include "config/draft.h"
#include "config/nearest.h"
#include "config/settings.h"
#include "config/substitute.h"
#include "config/values.h"

namespace cistern::config {
namespace {

// Far more than any real file; keeps a mistaken path from being read into memory as a whole.
constexpr std::size_t kMaxFileBytes = 1 << 20;

// "limits" of "limits.max_key_bytes"; empty for the top.
std::string_view section_of(std::string_view name) {
  const std::size_t dot = name.rfind('.');
  return dot == name.npos ? std::string_view() : name.substr(0, dot);
}

std::string_view last_part(std::string_view name) {
  const std::size_t dot = name.rfind('.');
  return dot == name.npos ? name : name.substr(dot + 1);
}

std::set<std::string_view> all_sections() {
  std::set<std::string_view> sections;
  for (const Setting& setting : settings()) {
    for (auto section = section_of(setting.name); !section.empty(); section = section_of(section)) {
      sections.insert(section);
    }
  }
  return sections;
}

// Sections and settings directly inside of `section`, in the table's order.
std::vector<std::string> keys_of(std::string_view section) {
  std::vector<std::string> keys;
  const std::string prefix = section.empty() ? "" : std::string(section) + ".";
  for (const Setting& setting : settings()) {
    if (!setting.name.starts_with(prefix)) continue;
    const std::string_view rest = setting.name.substr(prefix.size());
    std::string key(rest.substr(0, rest.find('.')));
    if (std::ranges::find(keys, key) == keys.end()) keys.push_back(std::move(key));
  }
  return keys;
}

std::string_view kind_of(const YAML::Node& node) {
  if (node.IsMap()) return "a mapping";
  if (node.IsSequence()) return "a list";
  return "nothing";
}

class Reader {
 public:
  Reader(std::string file, const Environment& environment, Draft& draft)
      : file_(std::move(file)), environment_(environment), draft_(draft) {}

  // `node` is what the file has under `section`; `line` stands for a node that has none.
  void read_section(const YAML::Node& node, const std::string& section, int line) {
    if (node.IsNull()) return;  // all of it commented out
    if (!node.IsMap()) {
      problem(line_of(node, line), section, found(node),
              fmt::format("a mapping with {}", fmt::join(keys_of(section), ", ")));
      return;
    }
    std::map<std::string, int> seen;
    for (const auto& entry : node) {
      const int key_line = line_of(entry.first, line);
      if (!entry.first.IsScalar()) {
        problem(key_line, section, fmt::format("{} as a key", kind_of(entry.first)),
                "the name of a setting");
        continue;
      }
      const std::string key = entry.first.Scalar();
      const std::string name = section.empty() ? key : section + "." + key;
      const auto [first, is_new] = seen.emplace(key, key_line);
      if (!is_new) {
        problem(key_line, name, "it a second time",
                fmt::format("one value; the first stands in line {}", first->second));
        continue;
      }
      read_entry(entry.second, section, key, name, key_line);
    }
  }

 private:
  void read_entry(const YAML::Node& node, const std::string& section, const std::string& key,
                  const std::string& name, int line) {
    const bool is_plain = key.find('.') == key.npos;  // settings are nested, not dotted
    const Setting* const setting = is_plain ? find_setting(name) : nullptr;
    if (setting != nullptr) {
      read_setting(node, *setting, line);
    } else if (is_plain && sections_.contains(name)) {
      read_section(node, name, line);
    } else {
      report_unknown(section, key, name, line);
    }
  }

  void read_setting(const YAML::Node& node, const Setting& setting, int line) {
    const bool is_list = takes_list(setting);
    if (is_list ? !node.IsSequence() : !node.IsScalar()) {
      refuse(setting, line, found(node, &setting), expectation(setting));
      return;
    }
    std::vector<std::string> items;
    if (!is_list) {
      if (!add_item(node, setting, line, items)) return;
    } else {
      for (const auto& item : node) {
        if (!add_item(item, setting, line, items)) return;
      }
    }
    draft_.set(setting, items, {file_, line_of(node, line), ""});
  }

  bool add_item(const YAML::Node& node, const Setting& setting, int line,
                std::vector<std::string>& items) {
    if (!node.IsScalar()) {
      refuse(setting, line_of(node, line), fmt::format("{} inside of the list", kind_of(node)),
             expectation(setting));
      return false;
    }
    auto text = substitute(node.Scalar(), environment_);
    if (!text) {
      refuse(setting, line_of(node, line), found(node, &setting), text.error());
      return false;
    }
    items.push_back(*std::move(text));
    return true;
  }

  void report_unknown(const std::string& section, const std::string& key, const std::string& name,
                      int line) {
    const std::vector<std::string> keys = keys_of(section);
    std::string meant = nearest(key, keys);
    if (!meant.empty() && !section.empty()) meant = section + "." + meant;
    // The right name in the wrong section.
    for (const Setting& setting : settings()) {
      if (meant.empty() && last_part(setting.name) == last_part(key)) meant = setting.name;
    }
    problem(line, name, "an unknown setting",
            meant.empty() ? fmt::format("one of {}", fmt::join(keys, ", "))
                          : fmt::format("a known one; did you mean {}?", meant));
  }

  void refuse(const Setting& setting, int line, std::string found_text, std::string expected) {
    draft_.given[setting.name] = {{file_, line, ""}, true};
    problem(line, std::string(setting.name), std::move(found_text), std::move(expected));
  }

  void problem(int line, std::string setting, std::string found_text, std::string expected) {
    draft_.add_problem({file_, line, ""}, std::move(setting), std::move(found_text),
                       std::move(expected));
  }

  static std::string found(const YAML::Node& node, const Setting* setting = nullptr) {
    if (!node.IsScalar()) return std::string(kind_of(node));
    return setting == nullptr ? in_quotes(node.Scalar()) : shown(*setting, node.Scalar());
  }

  static int line_of(const YAML::Node& node, int otherwise) {
    const YAML::Mark mark = node.Mark();
    return mark.is_null() ? otherwise : mark.line + 1;
  }

  const std::string file_;
  const Environment& environment_;
  Draft& draft_;
  const std::set<std::string_view> sections_ = all_sections();
};

Result finish(Draft draft) {
  check_relations(draft);
  if (draft.problems.empty()) return std::move(draft.config);
  std::ranges::stable_sort(draft.problems, [](const Problem& a, const Problem& b) {
    const bool a_is_of_file = a.file != kEnvironmentName;
    const bool b_is_of_file = b.file != kEnvironmentName;
    if (a_is_of_file != b_is_of_file) return a_is_of_file;
    return a.line < b.line;
  });
  return tl::unexpected(std::move(draft.problems));
}

Result cannot_read(const std::string& path, std::string found) {
  return tl::unexpected(
      std::vector<Problem>{{path, 0, "", std::move(found), "a readable YAML file"}});
}

}  // namespace

void read_yaml(std::string_view text, const std::string& file, const Environment& environment,
               Draft& draft) {
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(std::string(text));
    if (documents.empty()) return;
    Reader(file, environment, draft).read_section(documents.front(), "", 1);
    if (documents.size() > 1) {
      const YAML::Mark mark = documents[1].Mark();
      draft.add_problem({file, mark.is_null() ? 0 : mark.line + 1, ""}, "",
                        fmt::format("{} YAML documents", documents.size()), "one document");
    }
  } catch (const YAML::Exception& error) {
    draft.add_problem(
        {file, error.mark.is_null() ? 0 : error.mark.line + 1, ""}, "",
        fmt::format("text that is not YAML ({}, column {})", error.msg, error.mark.column + 1),
        "YAML, as in config/cistern.example.yaml");
  }
}

Result load_text(std::string_view text, const std::string& file, const Environment& environment) {
  Draft draft;
  if (text.size() > kMaxFileBytes) {
    return cannot_read(file, fmt::format("more than {} bytes", kMaxFileBytes));
  }
  read_yaml(text, file, environment, draft);
  read_overrides(environment, draft);
  return finish(std::move(draft));
}

Result load_file(const std::string& path, const Environment& environment) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::string text(kMaxFileBytes + 1, '\0');
  // Opening a folder succeeds, reading it does not.
  if (!file || !file.read(text.data(), static_cast<std::streamsize>(text.size())).eof()) {
    if (file.good()) return cannot_read(path, fmt::format("more than {} bytes", kMaxFileBytes));
    return cannot_read(path, errno == 0 ? "nothing" : std::strerror(errno));
  }
  text.resize(static_cast<std::size_t>(file.gcount()));
  return load_text(text, path, environment);
}

Result load_defaults(const Environment& environment) {
  return load_text("", "defaults", environment);
}

Environment process_environment() {
  Environment environment;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const std::size_t equals = text.find('=');
    if (equals != text.npos) environment.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return environment;
}

}  // namespace cistern::config
