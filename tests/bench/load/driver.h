// What a system speaks, without its sockets: requests out, replies in. One file for each protocol.
//
// A System is what all connections to a server share (requests written beforehand, digests); a
// Driver is one connection's state. The caller numbers open requests with slots of its own choice;
// a slot is free again once its on_end() was called.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "tests/bench/load/corpus.h"
#include "tests/bench/load/outbox.h"

namespace cistern::bench {

using Slot = std::uint32_t;

// Values larger than this are sent from where they are and may be answered in parts.
inline constexpr std::uint64_t kSmallValueBytes = proto::kMaxInlineBytes;

// The most requests that a connection may have open at once.
inline constexpr unsigned kMaxDepth = 1024;

enum class Outcome : std::uint8_t {
  kHit,
  kMiss,
  kStored,
  kRefused,  // no room, or too large: the server said so
  kFailed,   // anything else; the text says what
};

// Who learns what the replies are.
class Sink {
 public:
  // A hit begins: the size that the server announces.
  virtual void on_size(Slot slot, std::uint64_t size) = 0;
  // Bytes of the value, in order and without gaps.
  virtual void on_bytes(Slot slot, std::uint64_t position, proto::Bytes bytes) = 0;
  // Whether the content there is to be verified, beyond its length.
  virtual bool wants(Slot slot, std::uint64_t position) const = 0;
  // The reply is complete. `why` is for kRefused and kFailed.
  virtual void on_end(Slot slot, Outcome outcome, std::string_view why) = 0;

 protected:
  ~Sink() = default;
};

class Driver {
 public:
  virtual ~Driver() = default;

  // What a connection begins with. Requests may follow at once.
  virtual void open(Outbox& out) = 0;
  // Whether the server's part of that has arrived.
  virtual bool is_open() const = 0;
  // How many requests may be open at once; known once is_open().
  virtual unsigned max_open() const { return kMaxDepth; }
  // A request that will be asked for soon.
  virtual void prefetch(KeyIndex key, bool is_put) const = 0;
  virtual void get(Outbox& out, Slot slot, KeyIndex key) = 0;
  virtual void put(Outbox& out, Slot slot, KeyIndex key) = 0;
  // Takes all of the bytes, which may begin and end anywhere, and adds to `out` what they call for.
  // Empty, or what breaks the protocol: the connection must be closed then.
  virtual std::string feed(proto::Bytes in, Outbox& out, Sink& sink) = 0;
};

class System {
 public:
  virtual ~System() = default;
  virtual std::unique_ptr<Driver> driver() = 0;
};

struct SystemOptions {
  KeyIndex first_key = 0;  // requests for these keys are written beforehand
  KeyIndex keys = 0;
  bool has_gets = true;
  bool has_puts = false;
  std::uint64_t ttl_ms = 0;              // of every PUT; 0: none
  std::uint32_t window_bytes = 4 << 20;  // Cistern: a GET's unspent credit
};

// The corpus must outlive the system, and the system its drivers.
std::unique_ptr<System> make_cistern(const Corpus& corpus, const SystemOptions& options);
std::unique_ptr<System> make_redis(const Corpus& corpus, const SystemOptions& options);
std::unique_ptr<System> make_memcached(const Corpus& corpus, const SystemOptions& options);

}  // namespace cistern::bench
