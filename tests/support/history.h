// What happened to one key, and whether every read of it may have been so.
//
// A write counts from when it was begun until it was acknowledged. A read that began at t may
// return the value of a write w unless some write that began after w was acknowledged was itself
// acknowledged before t: then w was surely replaced. It may also return a write that was under way
// at any time of the read. "Absent" is what a delete leaves, and what was there before any write.
//
// Writes and reads go through places, such as daemons that share a second tier. What was written
// through another place may be seen later, by History::staleness at most: there, read "acknowledged
// before t - staleness".
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace cistern::testing {

// Any monotonic clock, one for all threads; strictly increasing between what happens in order.
using Instant = std::int64_t;
inline constexpr Instant kNever = std::numeric_limits<Instant>::max();

struct Write {
  std::uint64_t id = 0;  // unique in the history, not 0; a delete has one, too
  bool removes = false;  // a delete
  Instant began = 0;
  Instant acked = kNever;  // kNever: the outcome isn't known
  unsigned place = 0;
};

struct Read {
  std::optional<std::uint64_t> id;  // of the write that was read; empty: absent
  Instant began = 0;
  Instant ended = 0;
  unsigned place = 0;
};

struct History {
  std::vector<Write> writes;  // those that may have had an effect
  std::vector<Read> reads;
  // A cache may lose what it holds (evicted, expired): then "absent" is always allowed.
  bool absent_is_allowed = false;
  Instant staleness = 0;  // between places, in the clock's unit
};

// What is wrong with it, one sentence a read; empty when nothing is.
std::vector<std::string> violations(const History& history);

}  // namespace cistern::testing
