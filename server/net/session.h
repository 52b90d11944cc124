// One connection: moves bytes between a socket and proto::ServerConn, and watches its times.
//
// Backpressure. The socket is read for as long as the answers that are owed stay below a bound,
// also while it can't be written: payload arrives only within credit, for which memory is reserved,
// so CREDIT and CANCEL always get through. Past the bound reading stops until the client has taken
// what it asked for; a client that takes nothing for stall_timeout is closed. The bound is 64 KiB,
// and as much less as there is no memory for, down to one answer: a session that is short of it
// reads little at a time, answers, and waits for that to go.
//
// Turns. What is small is answered at once, in a turn of the socket's own. What is more than that,
// in either direction, waits for a bulk turn (see Readiness), and so never for a lack of events.
//
// The loop's thread only. Owned by its worker; handlers that are under way keep it alive, and find
// it closed.
#pragma once

#include <sys/uio.h>

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "server/net/requests.h"
#include "server/net/unique_fd.h"
#include "server/net/writer.h"

namespace cistern::net {

// A socket that was accepted, and the memory that was reserved for it.
struct Accepted {
  UniqueFd socket;
  bool is_tcp = false;
  ConnectionAccount::Place place;
};

class Session final : public std::enable_shared_from_this<Session>,
                      private Requests::Owner,
                      private Readiness::Watcher {
 public:
  // What is read of requests at a time while memory is short: what can't be answered yet is kept.
  static constexpr std::size_t kShortReadBytes = 4 * proto::kKiB;

  struct Owner {
    virtual ~Owner() = default;
    // It's over. Called once, and last.
    virtual void on_session_closed(Session& session) = 0;
  };

  // All references outlive it.
  Session(const SessionContext& context, Accepted accepted, Owner& owner);
  ~Session() override;
  void start();

  // Opens no more requests; closes, gracefully, once none is open.
  void go_away(CloseReason reason, const proto::Error& error);
  // Ends it now; what was open is cancelled.
  void close(CloseReason reason);

 private:
  enum class Flow : std::uint8_t { kDrained, kBlocked, kYield, kFailed };
  class Turn;

  // Requests::Owner
  void on_output() override;
  bool has_room_for(std::size_t answer_bytes) override;
  void on_transfer(Direction direction) override;

  // Readiness::Watcher
  void on_ready(const Readiness::Events& events) override;
  void on_bulk_turn() override;

  void on_tick();
  void note_acknowledged();
  // Of a peer that has taken nothing for a while: what waits for it keeps no chunks from others.
  void relieve();
  void receive();
  ssize_t receive_into(std::span<iovec> areas);
  void process();
  // On with the frames that were read already.
  void go_on();
  // Writes, goes on with what was read, closes what is over, and waits for what is next.
  void advance();
  void advance_later();
  // kYield: the turn may write no more, and there is more.
  Flow write();
  bool reads() const { return !paused_ && !conn_.failed(); }
  // Receives, and advances.
  void take_turn();

  // ---- session_memory.cc
  // Memory of answers that are owed and requests that came in part.
  std::size_t frames_bytes() const;
  // Charges them as what they take when `owed_bytes` are owed. False when there is no room.
  bool cover_owed(std::size_t owed_bytes);
  // At the end of a turn: charges them as what they are. Without room for that the connection
  // fails.
  void settle_frames();
  // To the largest size that there is room for, or back to the small one. False when it is so
  // already, or when there is no room for more.
  bool resize(Direction direction, bool large);

  bool has_left() const;
  void log_close(CloseReason reason) const;
  base::Duration tick() const;

  const SessionContext& context_;
  Owner& owner_;
  UniqueFd socket_;
  std::optional<Readiness::Id> watched_as_;
  const bool is_tcp_;
  ConnectionBudget budget_;
  Requests requests_;
  proto::ServerConn conn_;
  Writer writer_;

  bool closed_ = false;
  bool in_turn_ = false;
  bool in_bulk_turn_ = false;
  std::uint64_t written_before_turn_ = 0;
  bool advance_posted_ = false;
  bool readable_ = false;    // as far as is known
  bool peer_ended_ = false;  // it sends no more: reads go on to the end
  bool blocked_ = false;     // the socket took no more; not before it is writable again
  bool slow_ = false;        // it took nothing for a tick, and has not taken all since
  bool paused_ = false;      // frames were read and not handled yet
  std::size_t send_buffer_bytes_ = kSmallBufferBytes;
  std::size_t receive_buffer_bytes_ = kSmallBufferBytes;
  bool short_ = false;  // of memory, as far as is known
  std::uint64_t frames_seen_ = 0;
  std::optional<CloseReason> leaving_;                   // go_away() was called
  CloseReason failed_as_ = CloseReason::kProtocolError;  // once conn_ has failed
  base::TimePoint left_at_;
  const base::TimePoint opened_at_;
  base::TimePoint active_at_;  // the last frame, or the end of the last request
  Requests::Output output_;
  base::TimePoint written_at_;  // the last byte that the socket took, or when it had to take none
  base::Loop::TimerId timer_ = base::Loop::TimerId::kNone;
};

}  // namespace cistern::net
