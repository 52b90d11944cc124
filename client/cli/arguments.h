// What the command line says, checked and typed.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

#include <cistern/types.h>

namespace cistern::cli {

// The exit statuses that scripts rely on; the manual page lists them.
enum class Exit : int { kOk = 0, kNotFound = 1, kUsage = 2, kPermanent = 3, kRetryable = 4 };

// Ends the command with this status; the message says what, where and what to do.
struct Failure : std::runtime_error {
  Failure(Exit status, const std::string& message) : std::runtime_error(message), exit(status) {}
  Exit exit;
};

// `A-B` (both included), `A-`, or `-N` for the last N bytes.
struct ByteRange {
  std::optional<std::uint64_t> first;
  std::optional<std::uint64_t> last;
  std::uint64_t suffix_bytes = 0;  // without `first`
};

enum class Command { kNone, kPut, kGet, kRemove, kStat, kTouch, kPing, kStats, kExplain };

struct Arguments {
  Command command = Command::kNone;
  std::string server;
  bool json = false;
  bool quiet = false;
  Timeout timeout;

  std::string key;
  std::string file;  // put: the source; get: the destination; "-": standard input or output
  std::optional<std::chrono::milliseconds> ttl;
  std::string metadata;  // a JSON object, or empty
  bool if_absent = false;
  std::optional<Version> if_version;
  std::optional<ByteRange> range;
  bool compressed = false;
};

// The arguments, or the status to end with after help, the version or an error was printed.
struct Parsed {
  Arguments arguments;
  std::optional<Exit> exit;
};
Parsed parse_arguments(int argc, const char* const* argv);

// `500ms`, `10s`, `5m`, `1h`, `7d`; a bare 0. Throws Failure(kUsage) naming `option`.
std::chrono::milliseconds parse_duration(std::string_view text, std::string_view option);
ByteRange parse_range(std::string_view text);

}  // namespace cistern::cli
