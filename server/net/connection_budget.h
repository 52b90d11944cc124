// What one connection may take of Account::kConnections: its kernel buffers, its own state, the
// requests that wait, the answers that the client doesn't take.
//
// The ledger is asked in steps, so that requests come and go without touching its lock.
#pragma once

#include <cstdint>

#include "server/base/ledger.h"
#include "server/net/socket_buffers.h"

namespace cistern::net {

// State of a session that does nothing: the objects, their tables and small vectors.
inline constexpr std::uint64_t kSessionBytes = 16 * proto::kKiB;
// What a connection has to be granted before it is accepted.
inline constexpr std::uint64_t kConnectionBytes =
    kSessionBytes + 2 * charged_bytes(kSmallBufferBytes);
// Part of it that is kept for requests, so that a connection can always ask for something small.
inline constexpr std::uint64_t kSpareRequestBytes = 8 * proto::kKiB;
static_assert(kSpareRequestBytes < kSessionBytes);
// State of a request that waits, here and in the service, beside its key, metadata and bytes.
inline constexpr std::uint64_t kRequestBytes = 2 * proto::kKiB;

class ConnectionBudget {
 public:
  // `granted` has kConnectionBytes. `ledger` is asked whether the account is half full.
  ConnectionBudget(base::Ledger& ledger, base::Reservation granted);

  // False, and nothing taken, when there is no room.
  bool take(std::uint64_t bytes);
  void give(std::uint64_t bytes);
  // As take(), but only while the account is less than half full: for what makes a transfer faster
  // and must not keep others out.
  bool take_if_plenty(std::uint64_t bytes);
  // Returns to the ledger what isn't needed, but for what was granted at first.
  void trim();

  std::uint64_t used() const { return used_; }

 private:
  base::Ledger& ledger_;
  base::Reservation granted_;
  std::uint64_t used_ = kConnectionBytes - kSpareRequestBytes;
};

}  // namespace cistern::net
