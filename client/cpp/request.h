// A request as the engine sees it: how it is sent, what it is told, when it is overdue. Internal.
//
// Everything here runs on the channel's executor, which never runs two things at once. A request is
// told of its end exactly once: by its final answer or by on_failed(); then the engine forgets it.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>

#include "proto/messages.h"
#include "proto/outbox.h"

namespace cistern::detail {

class Connection;
class Channel;

using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;

template <typename T>
using Callback = std::function<void(proto::Result<T>)>;

// How often the daemon hears that a slow reader or writer goes on, so that it doesn't take a large
// step that isn't complete yet for a stall.
inline constexpr std::chrono::seconds kSignOfLife{1};

// How long a request may still take: in all, and until the next thing that it waits for.
class Patience {
 public:
  void set_overall(std::optional<std::chrono::milliseconds> timeout);
  void wait(std::chrono::milliseconds at_most, std::string_view for_what);
  // What it waits for has come nearer: the wait begins again.
  void moved();
  void stop_waiting() { wait_until_ = TimePoint::max(); }

  TimePoint due() const { return std::min(overall_, wait_until_); }
  proto::Error error(TimePoint now) const;

 private:
  TimePoint overall_ = TimePoint::max();
  std::chrono::milliseconds overall_length_{0};
  TimePoint wait_until_ = TimePoint::max();
  std::chrono::milliseconds wait_length_{0};
  std::string_view for_what_;  // a literal
};

class Request : public std::enable_shared_from_this<Request> {
 public:
  Request() = default;
  virtual ~Request() = default;
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;

  // Encodes the request onto a connection whose limits are known, and returns its id there; or what
  // the limits exclude, and nothing was encoded.
  virtual proto::Result<std::uint32_t> send(Connection& connection) = 0;
  // Whether it may be sent again, on another connection, after its own was lost or going away.
  // `left`: it may have had an effect, since some of its bytes may have reached the server.
  virtual bool may_repeat(bool left) const { return !left; }
  // When it is overdue unless something happens before, and what to say then.
  TimePoint due() const { return patience_.due(); }
  proto::Error late(TimePoint now) const { return patience_.error(now); }
  // A GET or PUT is cancelled on the wire when given up; an answer to others is ignored.
  virtual bool is_stream() const { return false; }

  // ---- What the server sent; see proto::ClientConn::Handler. What a kind of request never gets
  // (ClientConn sees to it) does nothing.
  virtual void on_value(const proto::ValueHead&) {}
  virtual proto::MutableBytes on_data_target(std::size_t) { return {}; }
  virtual void on_data_done(std::size_t, std::optional<proto::ChunkDigest>) {}
  // The same for the frames of a compressed chunk; `end` with `chunk_end`.
  virtual proto::MutableBytes on_compressed_target(std::size_t) { return {}; }
  virtual void on_compressed_done(std::size_t, std::optional<proto::ChunkDigest>,
                                  const proto::CompressedEnd&) {}
  virtual void on_end(const proto::End&) {}
  virtual void on_credit() {}
  virtual proto::Piece next_piece(std::size_t) { return {}; }
  virtual void on_stored(const proto::Stored&) {}
  virtual void on_done(const proto::Done&) {}
  virtual void on_info(const proto::Info&) {}
  virtual void on_pong() {}
  virtual void on_stats(std::string_view) {}
  virtual void on_explanation(std::string_view) {}
  // All bytes that next_piece() gave so far are in the kernel's hands, and their memory is free.
  virtual void on_flushed() {}
  // Bytes of its value moved in either direction.
  virtual void on_moved() {}
  // Its end without an answer of its own kind: NOT_FOUND and NOT_MODIFIED come this way, too.
  virtual void on_failed(const proto::Error&) = 0;

 private:
  friend class Connection;
  friend class Channel;
  Connection* connection_ = nullptr;  // while it is open there
  std::uint32_t id_ = 0;
  bool repeated_ = false;
  TimePoint sent_at_{};
  std::uint64_t written_before_ = 0;  // what its connection had sent until then

 protected:
  Patience patience_;
  Connection* connection() const { return connection_; }
  std::uint32_t id() const { return id_; }
};

}  // namespace cistern::detail
