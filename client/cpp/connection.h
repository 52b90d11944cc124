// One socket with its protocol state: connects, reads, writes, and tells each request what arrived.
// Internal; runs on the executor that it is given, which must never run two things at once.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include <asio/any_io_executor.hpp>
#include <asio/generic/stream_protocol.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/steady_timer.hpp>

#include "client/cpp/request.h"
#include "proto/client_conn.h"
#include "proto/endpoint.h"

namespace cistern::detail {

class Connection : public std::enable_shared_from_this<Connection>,
                   private proto::ClientConn::Handler {
 public:
  struct Owner {
    virtual ~Owner() = default;
    // The handshake is done: requests may be opened.
    virtual void on_ready(Connection& connection) = 0;
    // No new requests here; open ones go on.
    virtual void on_going_away(Connection& connection) = 0;
    // The server refused `request` because it is going away, so it had no effect. True: the owner
    // sends it elsewhere; false: the request is to hear of the refusal.
    virtual bool on_refused(const std::shared_ptr<Request>& request) = 0;
    // Requests have ended: there may be room for others.
    virtual void on_room(Connection& connection) = 0;
    // It is of no use any more. `requests` were open, in the order in which they were sent; the
    // owner repeats or fails each.
    virtual void on_lost(Connection& connection, const proto::Error& error,
                         std::vector<std::shared_ptr<Request>> requests) = 0;
  };

  Connection(asio::any_io_executor executor, std::weak_ptr<Owner> owner);
  ~Connection() override;

  // Ends with Owner::on_ready or, at the latest after `timeout`, Owner::on_lost.
  void connect(const proto::Endpoint& endpoint, std::string_view client_name,
               std::chrono::milliseconds timeout);
  // Opens `request`; on an error nothing was opened. Needs ready().
  std::optional<proto::Error> open(const std::shared_ptr<Request>& request);
  // Forgets an open request, cancelling it if it is a stream.
  void give_up(Request& request);
  // 0 bytes: only says that the reader goes on.
  void grant(std::uint32_t id, std::uint32_t bytes);
  // The source of a PUT has bytes again.
  void source_ready(std::uint32_t id);
  // Ends everything: Owner::on_lost with `error`.
  void close(const proto::Error& error);

  // Adds those that are overdue, and lowers `next` to when the first of the others will be.
  void collect_overdue(TimePoint now, std::vector<std::shared_ptr<Request>>& overdue,
                       TimePoint& next) const;

  bool ready() const { return conn_.welcome().has_value() && !closed_ && !going_away_; }
  bool has_room() const { return conn_.open_requests() < welcome().max_streams; }
  bool idle() const { return conn_.open_requests() == 0; }
  bool closed() const { return closed_; }
  // Whether some bytes of `request` may have left this machine.
  bool has_left(const Request& request) const { return written_bytes_ != request.written_before_; }
  TimePoint last_input() const { return last_input_; }
  // Needs ready().
  const proto::Welcome& welcome() const { return *conn_.welcome(); }

  // For Request::send().
  proto::ClientConn& wire() { return conn_; }

 private:
  using Socket = asio::generic::stream_protocol::socket;

  void connect_tcp(const proto::Endpoint& endpoint);
  void try_next_address();
  void connect_unix(const proto::Endpoint& endpoint);
  void on_connected(const std::error_code& error);
  void wait_for_input();
  void on_readable(const std::error_code& error);
  // One read; false when nothing more is there now.
  bool read_once();
  void schedule_flush();
  void flush();
  void fill_buffers();
  void advance(std::size_t bytes);
  void batch_done();
  void lost(const proto::Error& error);
  std::shared_ptr<Request> find(std::uint32_t id) const;
  std::shared_ptr<Request> take(std::uint32_t id);

  // proto::ClientConn::Handler
  void on_welcome(const proto::Welcome& welcome) override;
  void on_value(std::uint32_t id, const proto::ValueHead& head) override;
  proto::MutableBytes on_data_target(std::uint32_t id, std::size_t bytes) override;
  void on_data_done(std::uint32_t id, std::size_t bytes,
                    std::optional<proto::ChunkDigest> chunk_end) override;
  void on_end(std::uint32_t id, const proto::End& end) override;
  void on_credit(std::uint32_t id) override;
  proto::Piece next_piece(std::uint32_t id, std::size_t max_bytes) override;
  void on_stored(std::uint32_t id, const proto::Stored& stored) override;
  void on_done(std::uint32_t id, const proto::Done& done) override;
  void on_info(std::uint32_t id, const proto::Info& info) override;
  void on_pong(std::uint32_t id, proto::Bytes payload) override;
  void on_stats(std::uint32_t id, std::string_view json) override;
  void on_explanation(std::uint32_t id, std::string_view json) override;
  void on_error(std::uint32_t id, const proto::Error& error) override;
  void on_go_away(const proto::Error& error) override;
  void on_lost(const proto::Error& error) override;

  asio::any_io_executor executor_;
  std::weak_ptr<Owner> owner_;
  Socket socket_;
  asio::ip::tcp::resolver resolver_;
  std::vector<asio::ip::tcp::endpoint> addresses_;  // still to be tried, the next one last
  asio::steady_timer connect_timer_;
  std::string endpoint_text_;
  std::string client_name_;
  bool is_tcp_ = false;
  proto::ClientConn conn_;
  std::unordered_map<std::uint32_t, std::shared_ptr<Request>> requests_;
  std::vector<std::byte> scratch_;
  std::uint32_t receiving_ = 0;  // the request whose DATA frame is arriving

  proto::Batch batch_;          // being written
  std::size_t segment_ = 0;     // of it, the one being written
  std::size_t in_segment_ = 0;  // bytes of that one that were written
  std::vector<asio::const_buffer> buffers_;
  std::vector<std::uint32_t> in_batch_;  // the PUTs whose bytes are in it
  bool flush_scheduled_ = false;
  bool waiting_to_write_ = false;

  std::uint64_t written_bytes_ = 0;
  TimePoint last_input_{};
  bool going_away_ = false;
  bool closed_ = false;
};

}  // namespace cistern::detail
