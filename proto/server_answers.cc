// The output side of ServerConn: answers, the end of requests and connections, DATA.
#include <algorithm>
#include <vector>

#include <fmt/format.h>

#include "proto/server_conn.h"

namespace cistern::proto {

// -------------------------------------------------------------------------------------- Answers

void ServerConn::answer_inline(std::uint32_t id, ValueHead head) {
  Stream* const found = streams_.find(id);
  if (found == nullptr) return;
  if (head.inline_bytes.size() > std::min<std::uint64_t>(kMaxInlineBytes, found->first_credit)) {
    return answer(id, Error{Status::kInternal, "the value does not fit one frame"});
  }
  head.flags |= kValueInline;
  encode(outbox_.control(), id, head);
  close(id);
}

void ServerConn::start_value(std::uint32_t id, const ValueHead& head) {
  Stream* const found = streams_.find(id);
  if (found == nullptr || found->kind != Kind::kGet || outbox_.has(id)) return;
  encode(outbox_.control(), id, head);
  outbox_.open(id, found->first_credit, found->frame_bytes);
}

void ServerConn::grant(std::uint32_t id, std::uint32_t bytes) {
  Stream* const found = streams_.find(id);
  if (found == nullptr || found->kind != Kind::kPutReceiving || bytes == 0) return;
  found->credit += bytes;
  encode_credit(outbox_.control(), id, bytes);
}

void ServerConn::answer(std::uint32_t id, const Stored& stored) {
  if (!streams_.contains(id)) return;
  encode(outbox_.control(), id, stored);
  close(id);
}

void ServerConn::answer(std::uint32_t id, const Done& done) {
  if (!streams_.contains(id)) return;
  encode(outbox_.control(), id, done);
  close(id);
}

void ServerConn::answer(std::uint32_t id, const Info& info) {
  if (!streams_.contains(id)) return;
  encode(outbox_.control(), id, info);
  close(id);
}

void ServerConn::answer_stats(std::uint32_t id, std::string_view json) {
  if (!streams_.contains(id)) return;
  if (json.size() > kMaxStatsBytes) {
    return answer(id, Error{Status::kInternal, "the statistics do not fit one frame"});
  }
  encode_plain(outbox_.control(), id, Type::kStatsResult, as_bytes(json));
  close(id);
}

void ServerConn::answer_explain(std::uint32_t id, std::string_view json) {
  if (!streams_.contains(id)) return;
  if (json.size() > kMaxExplanationBytes) {
    return answer(id, Error{Status::kInternal, "the explanation is too long"});
  }
  encode_plain(outbox_.control(), id, Type::kExplanation, as_bytes(json));
  close(id);
}

void ServerConn::answer(std::uint32_t id, const Error& error) {
  if (!streams_.contains(id)) return;
  refuse(id, error);
  close(id);
}

// ----------------------------------------------------------------------------------- Connection

void ServerConn::go_away(const Error& error) {
  if (going_away_ || failed_) return;
  going_away_ = error;
  if (greeted_) send_error(0, Type::kGoaway, error);
}

void ServerConn::fail(const Error& error) {
  if (failed_) return;
  failure_ = error;
  drop(error);
  send_error(0, Type::kError, error);
}

void ServerConn::drop(const Error& cause) {
  if (failed_) return;
  failed_ = true;
  for (const std::uint32_t id : streams_.ids()) {
    close(id);
    handler_.on_abort(id, cause);
  }
}

bool ServerConn::open(Type type, std::uint32_t id, Stream stream) {
  if (going_away_) {
    reject(type, id, *going_away_);
    return false;
  }
  if (streams_.size() >= limits_.max_streams) {
    reject(type, id,
           Error{Status::kTooManyStreams, fmt::format("{} requests are open on this connection; "
                                                      "limits.max_streams_per_connection is {}",
                                                      streams_.size(), limits_.max_streams)});
    return false;
  }
  streams_.open(id, stream);
  return true;
}

void ServerConn::reject(Type type, std::uint32_t id, const Error& error) {
  refuse(id, error);
  handler_.on_answered(type, error.status);
}

void ServerConn::refuse(std::uint32_t id, const Error& error) {
  send_error(id, Type::kError, error);
}

void ServerConn::abort(std::uint32_t id, const Error& error) {
  refuse(id, error);
  close(id);
  handler_.on_abort(id, error);
}

void ServerConn::misplaced(std::uint32_t id, const Stream& stream, const Error& error) {
  if (stream.kind != Kind::kWriting) return abort(id, error);
  // The write may happen whatever is answered: a refusal would be a lie.
  fail(Error{Status::kProtocolError, error.message});
}

void ServerConn::close(std::uint32_t id) {
  if (reader_.receiving(id)) reader_.discard();
  outbox_.close(id);
  streams_.close(id);
}

void ServerConn::send_error(std::uint32_t id, Type type, const Error& error) {
  encode(outbox_.control(), id, type,
         ErrorMessage{.code = static_cast<std::uint16_t>(error.status),
                      .retryable = is_retryable(error.status),
                      .degraded = error.degraded,
                      .message = error.message});
}

// --------------------------------------------------------------------------------------- Output

Piece ServerConn::next_piece(std::uint32_t id, std::size_t max_bytes) {
  return handler_.next_piece(id, max_bytes);
}

void ServerConn::sent_end(std::uint32_t id) {
  streams_.close(id);
  handler_.on_value_sent(id, nullptr);
}

void ServerConn::source_failed(std::uint32_t id, const Error& error) {
  refuse(id, error);
  streams_.close(id);
  handler_.on_value_sent(id, &error);
}

}  // namespace cistern::proto
