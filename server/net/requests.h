// The open requests of one connection: between the wire's state machine and the service.
//
// The loop's thread only. A request lives from its frame to its final answer. What the service lent
// for it (an operation, an upload, a reader) is not destroyed from inside a callback, which may be
// that object's own, but by sweep().
#pragma once

#include <array>
#include <memory>
#include <unordered_map>
#include <vector>

#include "proto/server_conn.h"
#include "server/net/connection_budget.h"
#include "server/net/session_context.h"

namespace cistern::net {

class Requests final : public proto::ServerConn::Handler {
 public:
  // The session.
  struct Owner {
    virtual ~Owner() = default;
    // There is something to be sent, or to be swept.
    virtual void on_output() = 0;
    // Whether there is memory for an answer of so many bytes, which is given next. To be asked for
    // those that may be larger than kSureAnswerBytes.
    virtual bool has_room_for(std::size_t answer_bytes) = 0;
    // A transfer begins that is larger than the small buffers.
    virtual void on_transfer(Direction direction) = 0;
  };

  Requests(const SessionContext& context, ConnectionBudget& budget, Owner& owner);
  ~Requests() override;
  // Once, before anything else.
  void attach(proto::ServerConn& conn) { conn_ = &conn; }

  // How far the connection's output has come, in bytes since its beginning.
  struct Output {
    std::uint64_t acknowledged_bytes = 0;
    base::TimePoint moved_at;  // when that last grew
  };
  // Before each write. What next_piece() has given since the last call ends at `end_bytes` of the
  // output.
  void collected(std::uint64_t end_bytes);
  // Answers the requests whose time is over.
  void check_deadlines(const Output& output);
  // At the end of each turn. Destroys what has ended.
  void sweep();
  bool none_open() const { return open_.empty(); }

  // proto::ServerConn::Handler
  void on_keys_ahead(std::span<const proto::Bytes> keys) override;
  void on_get(std::uint32_t id, const proto::GetRequest& request) override;
  void on_put(std::uint32_t id, const proto::PutRequest& request) override;
  void on_delete(std::uint32_t id, const proto::KeyRequest& request) override;
  void on_stat(std::uint32_t id, const proto::KeyRequest& request) override;
  void on_touch(std::uint32_t id, const proto::TouchRequest& request) override;
  void on_stats(std::uint32_t id) override;
  void on_explain(std::uint32_t id, const proto::KeyRequest& request) override;
  proto::MutableBytes on_data_target(std::uint32_t id, std::size_t bytes) override;
  void on_data_done(std::uint32_t id, std::size_t bytes,
                    std::optional<proto::ChunkDigest> chunk_end) override;
  void on_put_end(std::uint32_t id, const proto::End& end) override;
  void on_abort(std::uint32_t id, const proto::Error& cause) override;
  proto::Piece next_piece(std::uint32_t id, std::size_t max_bytes) override;
  void on_value_sent(std::uint32_t id, const proto::Error* failure) override;
  void on_progress(std::uint32_t id) override;
  void on_answered(proto::Type type, proto::Status status) override;

 private:
  struct Request;
  using RequestPtr = std::unique_ptr<Request>;

  // Null when there is no memory for it; then it was answered.
  RequestPtr begin(std::uint32_t id, base::Op op, std::size_t extra_bytes);
  // For an answer whose metadata and value have so many bytes.
  bool has_room_for(std::size_t variable_bytes);
  // After the service was called: lists the request if it isn't over.
  void settle(RequestPtr request);
  // Records how long those took that were answered at once since the last call.
  void record_answered();
  // The final answer was given, or nobody waits for one.
  void finish(Request& request, proto::Status status);
  void answer_error(Request& request, const proto::Error& error);
  template <typename Answer>
  void answer_result(Request& request, const proto::Result<Answer>& result);
  std::optional<proto::Error> overdue(const Request& request, base::TimePoint now,
                                      const Output& output) const;
  Request* find(std::uint32_t id);

  const SessionContext& context_;
  ConnectionBudget& budget_;
  Owner& owner_;
  proto::ServerConn* conn_ = nullptr;
  std::unordered_map<std::uint32_t, RequestPtr> open_;
  std::vector<RequestPtr> over_;
  std::vector<std::uint32_t> gave_;  // pieces, since collected()
  // Requests that were answered within the call that brought them. One reading of the clock, just
  // before the answers are sent, is enough for all of a turn.
  std::array<std::uint32_t, base::kOpCount> answered_{};  // by Op
  bool any_answered_ = false;
  base::TimePoint first_began_;
  // Kept, so that a request which is answered at once allocates nothing here.
  RequestPtr spare_;
};

}  // namespace cistern::net
