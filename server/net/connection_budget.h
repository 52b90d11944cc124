// What one connection may take of Account::kConnections: its kernel buffers, its own state, the
// requests that wait, the answers that the client doesn't take.
//
// Who is in comes first. A connection is accepted only with all that it needs to be served slowly:
// its kernel buffers, its state, kSpareRequestBytes of requests, and kFramesBytes of frames
// (answers that are owed, requests that came in part). With that it can ask for something small, be
// given a value of kMaxInlineBytes and put one of half that size, one after the other, whatever the
// others take. All of these together take at most three quarters of the account. The last quarter
// is for what makes them faster, and what that leaves is nobody's who wants to come in:
//
//   three quarters of it    larger kernel buffers, which stay for as long as a transfer; only while
//                           the whole account is less than half full
//   fifteen sixteenths      more requests, longer pipelines; these end soon, so also what of the
//                           whole account is free up to its half
//   all of it               what has been read already, and has to be kept
//
// The ledger is asked in steps, so that requests come and go without touching its lock.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

#include "server/base/ledger.h"
#include "server/net/socket_buffers.h"

namespace cistern::net {

// Answers that are owed and requests that came in part.
inline constexpr std::uint64_t kFramesBytes = 32 * proto::kKiB;
static_assert(kFramesBytes >= proto::kMaxInlineBytes + 2 * proto::kMaxKeyBytes + 8 * proto::kKiB,
              "a small value, its key and usual metadata, and the next request behind them");
// What they take of a connection that isn't short of memory: a burst that was read, and its
// answers.
inline constexpr std::uint64_t kRoomyFramesBytes = 256 * proto::kKiB;
// Part that is kept for requests, so that a connection can always ask for something small.
inline constexpr std::uint64_t kSpareRequestBytes = 12 * proto::kKiB;
// State of a session that does nothing: the objects, their tables and small vectors.
inline constexpr std::uint64_t kStateBytes = 4 * proto::kKiB;
// What a connection has to be granted before it is accepted, and keeps.
inline constexpr std::uint64_t kConnectionBytes =
    kStateBytes + kSpareRequestBytes + kFramesBytes + 2 * charged_bytes(kSmallBufferBytes);
// State of a request that waits, here and in the service, beside its key, metadata and bytes.
inline constexpr std::uint64_t kRequestBytes = 2 * proto::kKiB;
// An answer of up to this size takes what its request gives back.
inline constexpr std::uint64_t kSureAnswerBytes = kRequestBytes / 2;

// How large the account has to be for `connections` to be accepted; what they don't all need at
// once is for their growth.
constexpr std::uint64_t account_bytes(std::uint64_t connections) {
  return (connections * kConnectionBytes * 4 + 2) / 3;
}

// What all connections share. Any thread.
class ConnectionAccount {
 public:
  // One connection's: kConnectionBytes, and more when it has grown. Movable; `account` outlives it.
  class Place {
   public:
    Place(Place&& other) noexcept;
    Place& operator=(Place&&) = delete;
    ~Place();

   private:
    friend class ConnectionAccount;
    friend class ConnectionBudget;
    Place(ConnectionAccount& account, base::Reservation granted);

    ConnectionAccount* account_;
    base::Reservation granted_;
  };

  explicit ConnectionAccount(base::Ledger& ledger) : ledger_(ledger) {}
  // Empty when one more is not to be accepted.
  std::optional<Place> admit();

  enum class Need : std::uint8_t { kFaster, kMore, kUnavoidable };
  // Whether connections may grow by `bytes` for this. (Others may come in between: the shares are
  // for order, the ledger keeps the bound.)
  bool is_open(std::uint64_t bytes, Need need) const;

 private:
  base::Ledger& ledger_;
  std::atomic<std::uint64_t> admitted_bytes_{0};  // kConnectionBytes of each
};

class ConnectionBudget {
 public:
  using Need = ConnectionAccount::Need;

  explicit ConnectionBudget(ConnectionAccount::Place place);

  // False, and nothing taken, when there is no room.
  bool take(std::uint64_t bytes);
  void give(std::uint64_t bytes);
  // As take(), while there is plenty: for what makes a transfer faster and must not keep others
  // out.
  bool take_if_plenty(std::uint64_t bytes);
  // Charges frames as at least `bytes`; the first kFramesBytes of them are there in any case.
  // False, and nothing changed, when there is no room.
  bool cover_frames(std::uint64_t bytes, Need need = Need::kMore);
  // Charges them as no more than `bytes`.
  void uncover_frames(std::uint64_t bytes);
  // Whether the account has no room for `bytes` more of what can be avoided.
  bool is_short_of(std::uint64_t bytes) const;

  // Returns to the ledger what isn't needed, but for what was granted at first.
  void trim();

  std::uint64_t used() const { return used_; }

 private:
  bool take(std::uint64_t bytes, Need need);

  ConnectionAccount::Place place_;
  std::uint64_t used_ = kConnectionBytes - kSpareRequestBytes;
  std::uint64_t more_frames_bytes_ = 0;  // beyond kFramesBytes
};

}  // namespace cistern::net
