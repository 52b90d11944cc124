#include "tests/bench/load/config.h"

#include <limits>
#include <set>
#include <stdexcept>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tests/bench/load/driver.h"

namespace cistern::bench {
namespace {

using nlohmann::json;

constexpr unsigned kMaxConnections = 16'384;
constexpr double kMaxRate = 1e8;

[[noreturn]] void refuse(const std::string& what) {
  throw std::invalid_argument("configuration: " + what);
}

// One object's members: each is asked for by name, with its bounds; those that nobody asked for are
// refused, so that a misspelt one isn't passed over.
class Members {
 public:
  explicit Members(const json& object, std::string where)
      : object_(object), where_(std::move(where)) {
    if (!object.is_object()) refuse(where_ + " is no JSON object");
  }

  const json* find(const std::string& name) {
    known_.insert(name);
    const auto at = object_.find(name);
    return at == object_.end() ? nullptr : &*at;
  }

  std::string text(const std::string& name, const std::string& otherwise) {
    const json* const member = find(name);
    if (member == nullptr) return otherwise;
    if (!member->is_string()) refuse(where_ + "." + name + " is no text");
    return member->get<std::string>();
  }

  bool flag(const std::string& name) {
    const json* const member = find(name);
    if (member == nullptr) return false;
    if (!member->is_boolean()) refuse(where_ + "." + name + " is neither true nor false");
    return member->get<bool>();
  }

  double number(const std::string& name, double otherwise, double least, double most) {
    const json* const member = find(name);
    if (member == nullptr) return otherwise;
    if (!member->is_number() || member->get<double>() < least || member->get<double>() > most) {
      refuse(fmt::format("{}.{} is {}, and must be a number from {} to {}", where_, name,
                         member->dump(), least, most));
    }
    return member->get<double>();
  }

  std::uint64_t whole(const std::string& name, std::uint64_t otherwise, std::uint64_t least,
                      std::uint64_t most) {
    const json* const member = find(name);
    return member == nullptr ? otherwise : whole(*member, where_ + "." + name, least, most);
  }

  static std::uint64_t whole(const json& member, const std::string& name, std::uint64_t least,
                             std::uint64_t most) {
    if (!member.is_number_unsigned() || member.get<std::uint64_t>() < least ||
        member.get<std::uint64_t>() > most) {
      refuse(fmt::format("{} is {}, and must be a whole number from {} to {}", name, member.dump(),
                         least, most));
    }
    return member.get<std::uint64_t>();
  }

  void finish() const {
    for (const auto& [name, value] : object_.items()) {
      if (!known_.contains(name)) refuse(where_ + " has no member " + name);
    }
  }

 private:
  const json& object_;
  std::string where_;
  std::set<std::string> known_;
};

constexpr std::uint64_t kAny = std::numeric_limits<std::uint64_t>::max();

Sizes parse_sizes(const json& object) {
  Members value(object, "value");
  Sizes sizes;
  if (const json* const range = value.find("log_uniform")) {
    if (!range->is_array() || range->size() != 2) refuse("value.log_uniform is not [MIN, MAX]");
    const std::uint64_t most = proto::kMaxValueBytes;
    sizes.min_bytes = Members::whole((*range)[0], "value.log_uniform[0]", 1, most);
    sizes.max_bytes = Members::whole((*range)[1], "value.log_uniform[1]", sizes.min_bytes, most);
  } else {
    sizes.min_bytes = sizes.max_bytes = value.whole("bytes", 100, 0, proto::kMaxValueBytes);
  }
  value.finish();
  return sizes;
}

double parse_mix(const json& object) {
  Members mix(object, "mix");
  const double gets = mix.number("get", 0, 0, 1e9);
  const double puts = mix.number("put", 0, 0, 1e9);
  mix.finish();
  if (gets + puts <= 0) refuse("mix.get and mix.put are both 0");
  return puts / (gets + puts);
}

std::string one_of(Members& members, const std::string& name, const std::set<std::string>& allowed,
                   const std::string& otherwise) {
  const std::string text = members.text(name, otherwise);
  if (allowed.contains(text)) return text;
  refuse(
      fmt::format("load.{} is '{}', and must be one of: {}", name, text, fmt::join(allowed, ", ")));
}

proto::Endpoint parse_address(const std::string& text) {
  proto::Result<proto::Endpoint> endpoint = proto::parse_endpoint(text);
  if (!endpoint) refuse("load.endpoint '" + text + "': " + endpoint.error().message);
  return std::move(*endpoint);
}

// What a kind of client can't do is refused rather than passed over.
void check_kind(const Config& config) {
  if (config.system.ends_with("-chunks") != !config.chunk_keys_file.empty()) {
    refuse("load.chunk_keys_file belongs to the systems redis-chunks and hiredis-chunks");
  }
  if (!config.uses_library) return;
  if (config.depth > 1) refuse("load.depth must be 1 with the client 'library', which waits");
  if (config.rate > 0 || config.is_churn || config.read_bytes_per_second > 0) {
    refuse("load.rate, load.churn and load.read_bytes_per_second need the client 'raw'");
  }
}

}  // namespace

Config parse_config(std::string_view text) {
  const json object = json::parse(text, nullptr, false);
  if (object.is_discarded()) refuse("the argument is not JSON");
  Members load(object, "load");
  Config config;
  config.system = one_of(load, "system",
                         {"cistern", "hiredis-chunks", "memcached", "redis", "redis-chunks"}, "");
  config.endpoint = parse_address(load.text("endpoint", ""));
  config.connections = static_cast<unsigned>(load.whole("connections", 1, 1, kMaxConnections));
  config.depth = static_cast<unsigned>(load.whole("depth", 1, 1, kMaxDepth));
  config.keys = static_cast<KeyIndex>(load.whole("keys", 1, 1, kMaxKeys));
  config.first_key = static_cast<KeyIndex>(load.whole("first_key", 0, 0, kMaxKeys - config.keys));
  config.key_prefix = load.text("key_prefix", "k");
  config.zipf = load.number("zipf", 0, 0, 10);
  config.is_sequential = load.flag("sequential");
  config.scan_share = load.number("scan_share", 0, 0, 1);
  config.seed = load.whole("seed", 1, 0, kAny);
  if (const json* const value = load.find("value")) config.value = parse_sizes(*value);
  if (const json* const mix = load.find("mix")) config.put_share = parse_mix(*mix);
  config.ttl_ms = load.whole("ttl_ms", 0, 0, proto::kMaxTtlMs);
  config.puts_on_miss = load.flag("put_on_miss");
  config.operations = load.whole("operations", 0, 0, kAny);
  config.rate = load.number("rate", 0, 0, kMaxRate);
  config.read_bytes_per_second = load.whole("read_bytes_per_second", 0, 0, kAny);
  config.verifies_all = one_of(load, "verify", {"sample", "all"}, "sample") == "all";
  config.is_churn = load.flag("churn");
  config.uses_library = one_of(load, "client", {"library", "raw"}, "raw") == "library";
  config.chunk_keys_file = load.text("chunk_keys_file", "");
  config.chunk_reads = static_cast<unsigned>(load.whole("chunk_reads", 4, 1, kMaxDepth));
  load.finish();
  check_kind(config);
  return config;
}

}  // namespace cistern::bench
