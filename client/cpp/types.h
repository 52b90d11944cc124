// What goes into a call and what comes out of it, for both faces of the library.
//
// Sizes are bytes, durations std::chrono, times of expiry Unix time in whole milliseconds. Keys are
// bytes of any kind, 1 to the server's limits.max_key_bytes of them.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace cistern {

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// Drawn anew for every stored value, compared for equality only.
using Version = std::uint64_t;
// 16 hex digits, as in JSON and on command lines.
std::string to_hex(Version version);
// Empty unless `text` is 1 to 16 hex digits.
std::optional<Version> parse_version(std::string_view text);

using ExpiryTime = std::chrono::sys_time<std::chrono::milliseconds>;

// What is known of a value beside its bytes.
struct ValueInfo {
  std::uint64_t size = 0;
  Version version = 0;
  std::optional<ExpiryTime> expires_at;  // empty: never
  std::string metadata;                  // a JSON object; empty: none
  std::uint32_t chunk_bytes = 0;         // how the value is cut; integrity is checked per chunk
  bool in_l1 = false;                    // stat: in the daemon's memory
  bool in_l2 = false;                    // stat: in the second tier
  bool degraded = false;                 // the second tier could not be asked whether it is current
};

struct Value : ValueInfo {
  // ReadOptions::if_changed named this version: there are no bytes, the caller has them.
  bool not_modified = false;
  std::vector<std::byte> bytes;  // of a range: only those

  std::string_view text() const {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
};

// What TOUCH left behind.
struct Touched {
  Version version = 0;
  std::optional<ExpiryTime> expires_at;
};

// How a PUT ended.
struct Stored {
  Version version = 0;
  std::uint64_t size = 0;
  std::optional<ExpiryTime> expires_at;
  bool in_l1 = false;
  bool in_l2 = false;
  // The second tier could not be told: it is in the daemon's memory alone (l2.on_failure.put).
  bool degraded = false;
};

struct ClientOptions {
  // "tcp://host:port" or "unix:///path".
  std::string endpoint = "tcp://127.0.0.1:7400";
  // Who is calling, for the daemon's logs: at most 64 bytes. Empty: the library and its version.
  std::string name{};
  // To resolve the name, connect and shake hands.
  std::chrono::milliseconds connect_timeout{5'000};
  // Until the first answer to a request. A little longer than the daemon's limits.request_timeout,
  // since its own answer says more.
  std::chrono::milliseconds request_timeout{35'000};
  // A transfer fails when the caller has waited this long and no byte and no credit has moved. Time
  // that the caller spends elsewhere doesn't count, and a transfer that moves is never cut.
  std::chrono::milliseconds stall_timeout{60'000};
};

// `timeout` in all options below: how long the whole call may take, a transfer from its opening to
// its end included. Empty: ClientOptions' request_timeout and stall_timeout alone.
using Timeout = std::optional<std::chrono::milliseconds>;

struct CallOptions {
  Timeout timeout{};
};

struct Range {
  std::uint64_t offset = 0;
  std::optional<std::uint64_t> length{};  // empty: to the end; longer than the value: likewise
};

struct ReadOptions {
  // Only these bytes. Still verified: the covering chunks are fetched and trimmed here.
  std::optional<Range> range{};
  // The most value bytes in one frame; 0: the server's choice. The smallest is 1 KiB.
  std::uint32_t frame_bytes = 0;
  // How many bytes may be under way or buffered. Two chunks is the least, whatever is said here.
  std::uint32_t window_bytes = 4 * 1024 * 1024;
  // Skip the bytes if the value still has this version.
  std::optional<Version> if_changed{};
  Timeout timeout{};
};

struct PutOptions {
  // Empty: the daemon's storage.default_ttl. 0: never expires.
  std::optional<std::chrono::milliseconds> ttl{};
  // A JSON object of at most the server's limits.max_metadata_bytes; empty: none.
  std::string metadata{};
  // Store only if there is no value, or only if it has this version; else kConditionFailed.
  bool if_absent = false;
  std::optional<Version> if_version{};
  // The most value bytes in one frame; 0: the server's limit.
  std::uint32_t frame_bytes = 0;
  Timeout timeout{};
};

struct ChangeOptions {  // remove, touch
  std::optional<Version> if_version{};
  Timeout timeout{};
};

}  // namespace cistern
