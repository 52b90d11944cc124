// What can go wrong, as one list of codes and one exception class.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace cistern {

// The codes of the protocol page. Those below 16 are results rather than failures; of them only
// kConditionFailed is ever thrown. Those from 256 arise in the client and never travel.
enum class Status : std::uint16_t {
  kOk = 0,
  kNotFound = 1,
  kNotModified = 2,
  kConditionFailed = 3,

  kBadRequest = 16,
  kUnsupported = 17,
  kProtocolError = 18,
  kKeyTooLarge = 19,
  kMetadataTooLarge = 20,
  kValueTooLarge = 21,
  kRangeInvalid = 22,
  kSizeMismatch = 23,
  kDigestMismatch = 24,
  kL2Rejected = 25,
  kTransferTooLarge = 26,

  kNoRoom = 32,
  kTooManyConnections = 33,
  kTooManyStreams = 34,
  kTimeout = 35,
  kStalled = 36,
  kCancelled = 37,
  kShuttingDown = 38,
  kEvicted = 39,
  kValueLost = 40,
  kL2Unavailable = 48,
  kL2Timeout = 49,
  kL2Busy = 50,
  kL2Error = 51,
  kOutcomeUnknown = 52,
  kInternal = 63,

  kConnectFailed = 256,
  kConnectionLost = 257,
  kDeadline = 258,
  kCorrupt = 259,
  kUsage = 260,
  kLocalIo = 261,
};

// "VALUE_TOO_LARGE" for kValueTooLarge. Valid for ever.
std::string_view name(Status status);
// Whether the same request may succeed later without being changed.
bool is_retryable(Status status);

// Thrown by the blocking client and carried by the asynchronous one's std::exception_ptr.
// what() is "NAME: message"; the message says what, where, which limit and what to do. It never
// holds bytes of a value.
class Error : public std::runtime_error {
 public:
  Error(Status status, std::string_view message);

  Status status() const noexcept { return status_; }
  bool retryable() const noexcept { return retryable_; }
  // what() without the name.
  std::string_view message() const noexcept { return std::string_view(what()).substr(skip_); }

 private:
  Status status_;
  bool retryable_;
  std::size_t skip_;
};

}  // namespace cistern
