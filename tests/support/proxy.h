// A TCP proxy on a free port of 127.0.0.1, on a thread of its own, that does to the bytes between
// the daemon and Redis what networks and overloaded servers do.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace cistern::testing {

// Every function may be called on any thread and has taken effect when it returns.
class Proxy {
 public:
  using Millis = std::chrono::milliseconds;

  explicit Proxy(std::uint16_t upstream_port);
  ~Proxy();
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;

  std::uint16_t port() const;

  // Each piece that comes from upstream waits a random time from [least, most]; order is kept.
  void delay_replies(Millis least, Millis most, std::uint64_t seed);

  // At most so many bytes of replies at a time on each connection, and so long between them.
  void throttle_replies(std::size_t bytes, Millis between);

  // The gate: bulk replies of at least `bulk_bytes` pass as long as `count` of them haven't; the
  // next one's bytes, and all after them on its connection, are withheld until open_gate().
  void close_gate_after(std::size_t count, std::size_t bulk_bytes);
  void open_gate();
  // Bulk replies of the size in question that passed since close_gate_after().
  std::size_t passed() const;
  // How many connections are held back by the gate now.
  std::size_t withheld() const;

  // Each connection is closed, on both sides, when so many more bytes of replies have passed on it.
  void cut_after(std::size_t bytes);
  // One bit in the middle of every bulk reply of at least `bulk_bytes` is flipped.
  void corrupt_bulks(std::size_t bulk_bytes);
  // The first byte of each piece that comes from upstream is overwritten.
  void garble_replies();
  // Replies don't arrive; requests do.
  void swallow_replies();
  // No more delay, throttle, cut, corruption, garbling or swallowing.
  void clear_faults();
  // Nobody takes new connections: the listener's queue is full, the kernel drops who knocks.
  void black_hole(bool on);
  // New connections go there.
  void set_upstream(std::uint16_t port);

  // The first piece from a client for which `matches` holds, and all after it on its connection,
  // are kept back; the connection upstream stays, also when the client's side is closed.
  void hold_requests(std::function<bool(std::string_view)> matches);
  // Waits until something is held; false when nothing is within `patience`.
  bool wait_held(Millis patience);
  // What is held goes upstream, in order, and nothing new is held.
  void release_held();

  // Nothing passes in either direction, and nothing is lost: connections are made and are silent.
  void freeze(bool on);
  // Closes every connection on both sides, but for the upstream side of what is held.
  void cut();
  // New connections are closed at once.
  void refuse(bool on);

  std::size_t connections() const;  // open on the client's side
  std::uint64_t accepted() const;   // ever
  std::uint64_t bytes_up() const;   // passed on, to upstream and from it
  std::uint64_t bytes_down() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// For hold_requests: a piece that contains this text.
std::function<bool(std::string_view)> containing(std::string text);

}  // namespace cistern::testing
