// Chunks of a value on their way from L2 to one reader, through a bounded window.
#pragma once

#include <algorithm>

#include "server/service/stream_reader.h"

namespace cistern::service {

// What a reader of these chunks waits for at its admission: two chunks as allocated, or all when
// they take less.
std::uint64_t window_bytes(const base::ValueMeta& meta, std::uint64_t first, std::uint64_t end);

// How many reads may be in flight after the first answer, and after every later one.
inline unsigned wider(unsigned width, const Options& options) {
  const unsigned most = std::max(1u, options.prefetch_chunks);
  return width == 1 ? std::min(2u, most) : most;
}

// Waits for a window's memory, as Ledger::wait: null, with `why` set, when it could never be given.
std::shared_ptr<base::Ledger::Ticket> admit(Worker& worker, std::uint64_t bytes,
                                            base::Ledger::Granted granted, Error& why);

// Reads ahead: one chunk in flight at first, since Redis builds all pipelined replies before it
// writes the first; then two, then prefetch_chunks as far as the ledger has room. A chunk's memory
// is given back when the last segment that shows it is let go of.
//
// `window` has at least one chunk as allocated; empty: the source waits for its admission by
// itself. Fails with kEvicted when there is no L2 that has the chunks by themselves. Has no
// successor.
std::unique_ptr<ChunkSource> source_in_l2(Reading reading, base::Reservation window = {});

// Reads the whole value into `room`, at L2's pace and not at the reader's: the room is a part of
// L1's budget that nobody else can use meanwhile. When all is there and verified it is published,
// if `token` allows; from then on the reader has it in memory as any other reader of L1.
std::unique_ptr<ChunkSource> source_for_l1(Reading reading, l1::Room room,
                                           WriteGate::MissToken token);

}  // namespace cistern::service
