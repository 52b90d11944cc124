// Many readers of one value at once, each over a connection of its own and at its own pace, who
// compare every byte, every chunk's digest and the value's with what they expect.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "proto/digest.h"
#include "tests/support/process.h"

namespace cistern::testing {

// What all readers of a crowd must get.
struct ExpectedValue {
  ExpectedValue(std::vector<std::byte> value, std::uint32_t chunk_size);

  std::vector<std::byte> bytes;
  std::uint32_t chunk_bytes;
  std::vector<proto::ChunkDigest> chunks;
  proto::ValueDigest digest;
};

class Crowd {
 public:
  struct Pace {
    std::uint32_t bytes = 0;  // 0: as fast as it can
    Millis each{1000};        // so many bytes in this time, no more
    // True: it grants credit for everything and leaves what it can't take in the sockets' buffers.
    // False: it grants the bytes of its pace, and takes what comes.
    bool by_socket = false;
  };
  enum class State : std::uint8_t {
    kConnected,  // greeted, and asked if ask() was called
    kReading,    // has the value's head
    kDone,       // has the whole value, verified
    kCancelled,  // by cancel(), and the server confirmed it
    kFailed,     // `error` says why: an ERROR, a lost connection, wrong bytes
  };
  struct Outcome {
    State state = State::kConnected;
    std::uint64_t received = 0;  // bytes that are a correct prefix of the value
    std::uint64_t version = 0;
    std::string error{};
  };
  using Holds = std::function<bool(const Outcome&)>;

  // `count` readers, connected and greeted when this returns. Throws when that fails. They run on
  // `threads` threads of the crowd's own.
  Crowd(const std::string& endpoint, std::string key, std::shared_ptr<const ExpectedValue> value,
        unsigned count, const Pace& pace, unsigned threads = 1);
  // Closes what is open.
  ~Crowd();
  Crowd(const Crowd&) = delete;
  Crowd& operator=(const Crowd&) = delete;

  // All of them ask for the value.
  void ask();
  // Those that haven't ended send CANCEL, and take everything until it is confirmed.
  void cancel();

  std::vector<Outcome> outcomes() const;
  // Whether all of them satisfy `holds` within `patience`.
  bool wait(const Holds& holds, Millis patience) const;
  // Whether all have ended within `patience`, in whatever way.
  bool wait_ended(Millis patience) const;
  // What is wrong with those that aren't in `state`, for messages; empty: all are.
  std::string unless_all(State state) const;

 private:
  class Reader;
  class Group;
  std::vector<std::unique_ptr<Group>> groups_;
};

}  // namespace cistern::testing
