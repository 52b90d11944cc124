#include "client/cli/arguments.h"

#include <array>
#include <charconv>
#include <cstdlib>
#include <limits>
#include <vector>

#include <CLI/CLI.hpp>
#include <cistern/version.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace cistern::cli {
namespace {

constexpr const char* kDescription =
    "Puts values of any size into Cistern, a sidecar cache, and gets them back.";

constexpr const char* kFooter = R"(
Examples:
  cistern put model ./model.bin                store a file under the key `model`
  cistern get model -o model.bin               get it back, verified
  cistern put greeting - --ttl 5m < hello.txt  from standard input, for five minutes
  cistern get log --range 0-1023               the first KiB, to standard output
  cistern put lock /dev/null --if-absent       only if there is no such value
  cistern stat model --json                    what is known of it, for scripts
  cistern explain model                        why it is there, or why it is not
  cistern rm model

The daemon is found at --server, else at $CISTERN_SERVER, else at tcp://127.0.0.1:7400.
Exit status: 0 done, 1 not found, 2 usage, 3 refused for ever, 4 failed, try again.
More: man cistern)";

std::optional<std::uint64_t> parse_number(std::string_view text) {
  std::uint64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, number);
  if (text.empty() || error != std::errc() || at != end) return std::nullopt;
  return number;
}

[[noreturn]] void usage(const std::string& message) {
  throw Failure(Exit::kUsage, message + "\nTry: cistern --help");
}

std::string to_metadata(const std::vector<std::string>& pairs) {
  if (pairs.empty()) return {};
  nlohmann::json object = nlohmann::json::object();
  for (const std::string& pair : pairs) {
    const std::size_t equals = pair.find('=');
    if (equals == std::string::npos || equals == 0) {
      usage(fmt::format("--meta {}: expected NAME=TEXT, for example --meta type=png", pair));
    }
    const std::string name = pair.substr(0, equals);
    if (object.contains(name)) usage(fmt::format("--meta {}: {} is given twice", pair, name));
    object[name] = pair.substr(equals + 1);
  }
  try {
    return object.dump();
  } catch (const nlohmann::json::exception&) {
    usage("--meta: names and texts must be UTF-8");
  }
}

// What options say before it is checked.
struct Raw {
  std::string timeout;
  std::string ttl;
  std::string range;
  std::string if_version;
  std::vector<std::string> meta;
};

void add_commands(CLI::App& app, Arguments& to, Raw& raw) {
  const auto command = [&](const char* name, const char* description, Command which) {
    CLI::App* const sub = app.add_subcommand(name, description);
    sub->fallthrough();  // --server and the like may stand after the command, too
    sub->callback([&to, which] { to.command = which; });
    return sub;
  };
  const auto key = [&](CLI::App* sub) {
    sub->add_option("KEY", to.key, "the value's key")->required();
  };
  const auto if_version = [&](CLI::App* sub) {
    sub->add_option("--if-version", raw.if_version, "only if the value has this version")
        ->type_name("HEX");
  };

  CLI::App* const put = command("put", "Store a file, or standard input, under KEY", Command::kPut);
  key(put);
  put->add_option("FILE", to.file, "the file to store; - is standard input")->required();
  put->add_option("--ttl", raw.ttl, "time to live: 500ms, 10s, 5m, 1h, 7d; 0 is for ever")
      ->type_name("TIME");
  put->add_option("--meta", raw.meta, "a word of metadata; may be repeated")
      ->type_name("NAME=TEXT")
      ->allow_extra_args(false);
  CLI::Option* const absent =
      put->add_flag("--if-absent", to.if_absent, "only if there is no value under KEY");
  if_version(put);
  put->get_option("--if-version")->excludes(absent);

  CLI::App* const get = command("get", "Get a value, or a range of it", Command::kGet);
  key(get);
  to.file = "-";
  get->add_option("-o,--output", to.file,
                  "where to; it is replaced only when all was received and verified. "
                  "- is standard output, the default")
      ->type_name("FILE");
  get->add_option("--range", raw.range,
                  "bytes A to B, both included; A-: from A on; -N: the last N")
      ->type_name("A-B");
  get->add_flag("--compressed", to.compressed,
                "let chunks come compressed, as the second tier has them, and decode them here");

  CLI::App* const remove = command("rm", "Remove a value", Command::kRemove);
  key(remove);
  if_version(remove);
  key(command("stat", "Say what is known of a value, without its bytes", Command::kStat));
  CLI::App* const touch = command("touch", "Give a value a new time to live", Command::kTouch);
  key(touch);
  touch->add_option("--ttl", raw.ttl, "from now on: 500ms, 10s, 5m, 1h, 7d; 0 is for ever")
      ->type_name("TIME")
      ->required();
  if_version(touch);
  key(command("explain", "Say where a key stands, in memory and in the second tier, and why",
              Command::kExplain));
  command("ping", "Ask the daemon for a sign of life", Command::kPing);
  command("stats", "Show the daemon's figures", Command::kStats);
}

// Rejects what each option alone can't see, and converts the rest.
void check(Arguments& to, const Raw& raw) {
  if (!raw.timeout.empty()) {
    to.timeout = parse_duration(raw.timeout, "--timeout");
    if (to.timeout->count() == 0) usage("--timeout 0: it must be longer than that");
  }
  if (!raw.ttl.empty()) to.ttl = parse_duration(raw.ttl, "--ttl");
  if (!raw.range.empty()) to.range = parse_range(raw.range);
  if (!raw.if_version.empty()) {
    to.if_version = parse_version(raw.if_version);
    if (!to.if_version) {
      usage(
          fmt::format("--if-version {}: expected up to 16 hex digits, as `cistern stat` prints "
                      "them",
                      raw.if_version));
    }
  }
  to.metadata = to_metadata(raw.meta);
  if (to.key.empty() && to.command != Command::kPing && to.command != Command::kStats) {
    usage("KEY is empty");
  }
  if (to.command == Command::kGet && to.json && to.file == "-") {
    usage("--json describes the value on standard output, where its bytes go: add -o FILE");
  }
}

}  // namespace

std::chrono::milliseconds parse_duration(std::string_view text, std::string_view option) {
  struct Unit {
    std::string_view name;
    std::uint64_t ms;
  };
  constexpr std::array<Unit, 5> kUnits{
      {{"ms", 1}, {"s", 1000}, {"m", 60'000}, {"h", 3'600'000}, {"d", 86'400'000}}};
  const std::size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  const std::optional<std::uint64_t> number = parse_number(text.substr(0, digits));
  const std::string_view unit = text.substr(digits);
  if (number == 0u && unit.empty()) return std::chrono::milliseconds(0);
  for (const Unit& known : kUnits) {
    if (unit != known.name || !number) continue;
    constexpr std::uint64_t kMost = std::numeric_limits<std::int64_t>::max();
    if (*number > kMost / known.ms) break;
    return std::chrono::milliseconds(static_cast<std::int64_t>(*number * known.ms));
  }
  usage(fmt::format("{} {}: expected a time such as 500ms, 10s, 5m, 1h or 7d", option, text));
}

ByteRange parse_range(std::string_view text) {
  const std::size_t dash = text.find('-');
  if (dash != std::string_view::npos) {
    const std::optional<std::uint64_t> first = parse_number(text.substr(0, dash));
    const std::optional<std::uint64_t> last = parse_number(text.substr(dash + 1));
    if (dash == 0 && last > 0u) return {.first = {}, .last = {}, .suffix_bytes = *last};
    if (first && dash + 1 == text.size()) return {.first = first, .last = {}};
    if (first && last && *first <= *last && *last - *first < ~std::uint64_t{0}) {
      return {.first = first, .last = last};
    }
  }
  usage(
      fmt::format("--range {}: expected A-B with A not after B (0-1023 is the first KiB), A- or "
                  "-N",
                  text));
}

Parsed parse_arguments(int argc, const char* const* argv) {
  Parsed parsed;
  Arguments& to = parsed.arguments;
  Raw raw;
  CLI::App app(kDescription, "cistern");
  app.footer(kFooter);
  app.set_version_flag("--version", "cistern " CISTERN_VERSION);
  app.require_subcommand(1);
  const char* const from_environment = std::getenv("CISTERN_SERVER");
  to.server = from_environment != nullptr && *from_environment != '\0' ? from_environment
                                                                       : ClientOptions().endpoint;
  app.add_option("-s,--server", to.server, "the daemon: tcp://HOST:PORT or unix:///PATH")
      ->type_name("ENDPOINT");
  app.add_flag("--json", to.json, "print results as JSON");
  app.add_flag("-q,--quiet", to.quiet, "print nothing but data and errors");
  app.add_option("--timeout", raw.timeout, "give up when the whole command takes longer")
      ->type_name("TIME");
  add_commands(app, to, raw);
  try {
    app.parse(argc, argv);
    check(to, raw);
  } catch (const CLI::ParseError& error) {
    const int status = app.exit(error);
    parsed.exit = status == 0 ? Exit::kOk : Exit::kUsage;
  }
  return parsed;
}

}  // namespace cistern::cli
