// A real memcached of a test's own, on a free port of 127.0.0.1.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/process.h"

namespace cistern::testing {

// Throws std::runtime_error when memcached can't be started or reached. One thread at a time.
class MemcachedServer {
 public:
  // `arguments` go to memcached as they are: {"-m", "8192"}.
  explicit MemcachedServer(std::vector<std::string> arguments = {});
  ~MemcachedServer();
  MemcachedServer(const MemcachedServer&) = delete;
  MemcachedServer& operator=(const MemcachedServer&) = delete;

  std::uint16_t port() const { return port_; }
  std::string address() const;  // 127.0.0.1:port
  pid_t pid() const { return process_->pid(); }

  void kill();    // SIGKILL, waits
  void freeze();  // SIGSTOP, and waits until it has stopped
  void thaw();    // SIGCONT
  void start();   // after kill(): again, on the same port, empty

  // One command in memcached's text protocol, without its line's end ("delete x", "stats items",
  // "gets x", "set x 0 0 3\r\nabc"), over a connection of its own; its answer up to the closing
  // line, that included, without the last line's end.
  std::string command(const std::string& line);
  // A figure of `stats` or, named "settings item_size_max", of one of its kinds.
  std::uint64_t stat(const std::string& name);
  // The value under a key as it lies there; empty when there is none.
  std::string value(const std::string& key);
  // Of `gets`: "VALUE key flags bytes cas".
  std::uint64_t cas_of(const std::string& key);
  // Seconds that the item has left, by the server's clock; -1: no expiry, -2: it isn't there.
  long seconds_left(const std::string& key);
  // All keys, sorted.
  std::vector<std::string> keys(const std::string& prefix = "");

 private:
  bool answers();

  std::vector<std::string> arguments_;
  std::uint16_t port_ = 0;
  std::unique_ptr<Process> process_;
};

}  // namespace cistern::testing
