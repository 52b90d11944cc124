// One connection: its socket, its driver, and the requests that are open on it. It sends what it is
// told to, verifies what it gets and counts it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/bench/load/config.h"
#include "tests/bench/load/driver.h"
#include "tests/bench/load/plan.h"
#include "tests/bench/load/socket.h"
#include "tests/bench/load/totals.h"
#include "tests/bench/load/value_check.h"

namespace cistern::bench {

class Connection final : public Sink {
 public:
  // What all connections of a process share; all of it outlives them.
  struct Shared {
    const Config& config;
    const Corpus& corpus;
    System& system;
    Totals& totals;
    proto::MutableBytes buffer;  // into which every connection receives, so that it stays warm
    std::uint64_t issued = 0;    // requests, ever
    std::uint64_t open = 0;      // of all connections
  };

  explicit Connection(Shared& shared) : shared_(shared) {}

  // Makes the socket and begins the conversation. Throws std::runtime_error.
  void connect(bool waits);
  void close();
  bool is_connected() const { return fd_.is_open(); }
  // The server has said what it says at the beginning.
  bool is_open() const { return driver_ && driver_->is_open(); }
  int fd() const { return fd_.get(); }

  // A request that will be issued soon.
  void prefetch(const Operation& operation) const {
    if (driver_) driver_->prefetch(operation.key, operation.is_put);
  }
  // Puts a request into what is to be sent; `intended_ns` is when its latency begins.
  void issue(const Operation& operation, std::int64_t intended_ns);
  unsigned open_requests() const { return open_; }
  // How many the server lets be open; known once is_open().
  unsigned max_open() const { return driver_ ? driver_->max_open() : kMaxDepth; }
  // Keys whose GETs missed, to be put; taken by the caller.
  std::vector<KeyIndex>& missed() { return missed_; }

  // Sends what it can. False: the connection is lost; why() says how.
  bool flush();
  bool has_unsent() const { return !out_.empty(); }
  // Receives at most `at_most` bytes, once, or more often while the buffer was filled. False: lost.
  bool receive(std::size_t at_most);
  const std::string& why() const { return why_; }
  std::uint64_t received_bytes() const { return received_bytes_; }

  // Counts the open requests as failed, or forgets them without counting.
  void fail_open(const std::string& why);
  void forget_open();

  void on_size(Slot slot, std::uint64_t size) override;
  void on_bytes(Slot slot, std::uint64_t position, proto::Bytes bytes) override;
  bool wants(Slot slot, std::uint64_t position) const override;
  void on_end(Slot slot, Outcome outcome, std::string_view why) override;

 private:
  struct Request {
    Operation operation;
    bool is_open = false;
    std::int64_t intended_ns = 0;
    ValueCheck value;
  };

  void count_hit(const Request& request);
  bool lose(std::string why);

  Shared& shared_;
  Fd fd_;
  std::unique_ptr<Driver> driver_;
  Outbox out_;
  std::vector<Request> requests_;  // by slot
  std::vector<Slot> free_;
  std::vector<KeyIndex> missed_;
  unsigned open_ = 0;
  std::int64_t now_ns_ = 0;  // when the bytes that are being looked at had arrived
  std::uint64_t received_bytes_ = 0;
  std::string why_;
};

}  // namespace cistern::bench
