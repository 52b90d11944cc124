// What the protocol's state machine reports, passed on to the request that it is about.
#include <fmt/format.h>

#include "client/cpp/connection.h"

namespace cistern::detail {

void Connection::on_welcome(const proto::Welcome&) {
  connect_timer_.cancel();
  if (const auto owner = owner_.lock()) owner->on_ready(*this);
}

void Connection::on_value(std::uint32_t id, const proto::ValueHead& head) {
  const bool over = (head.flags & proto::kValueInline) != 0;
  if (const auto request = over ? take(id) : find(id)) request->on_value(head);
}

proto::MutableBytes Connection::on_data_target(std::uint32_t id, std::size_t bytes) {
  const auto request = find(id);
  if (request == nullptr) return {};
  receiving_ = id;
  request->on_moved();
  if (conn_.compressed()) return request->on_compressed_target(bytes);
  return request->on_data_target(bytes);
}

void Connection::on_data_done(std::uint32_t id, std::size_t bytes,
                              std::optional<proto::ChunkDigest> chunk_end) {
  receiving_ = 0;
  const auto request = find(id);
  if (request == nullptr) return;
  if (conn_.compressed()) {
    request->on_compressed_done(bytes, chunk_end, conn_.compressed_end());
  } else {
    request->on_data_done(bytes, chunk_end);
  }
}

void Connection::on_end(std::uint32_t id, const proto::End& end) {
  if (const auto request = take(id)) request->on_end(end);
}

void Connection::on_credit(std::uint32_t id) {
  const auto request = find(id);
  if (request == nullptr) return;
  request->on_moved();
  request->on_credit();
}

proto::Piece Connection::next_piece(std::uint32_t id, std::size_t max_bytes) {
  const auto request = find(id);
  if (request == nullptr) return {};
  if (in_batch_.empty() || in_batch_.back() != id) in_batch_.push_back(id);
  return request->next_piece(max_bytes);
}

void Connection::on_stored(std::uint32_t id, const proto::Stored& stored) {
  if (const auto request = take(id)) request->on_stored(stored);
}

void Connection::on_done(std::uint32_t id, const proto::Done& done) {
  if (const auto request = take(id)) request->on_done(done);
}

void Connection::on_info(std::uint32_t id, const proto::Info& info) {
  if (const auto request = take(id)) request->on_info(info);
}

void Connection::on_pong(std::uint32_t id, proto::Bytes) {
  if (const auto request = take(id)) request->on_pong();
}

void Connection::on_stats(std::uint32_t id, std::string_view json) {
  if (const auto request = take(id)) request->on_stats(json);
}

void Connection::on_explanation(std::uint32_t id, std::string_view json) {
  if (const auto request = take(id)) request->on_explanation(json);
}

void Connection::on_error(std::uint32_t id, const proto::Error& error) {
  const auto request = take(id);
  if (request == nullptr) return;
  // It crossed the GOAWAY on its way.
  const bool refused = going_away_ && error.status == proto::Status::kShuttingDown;
  const auto owner = owner_.lock();
  if (refused && owner != nullptr && owner->on_refused(request)) return;
  request->on_failed(error);
}

void Connection::on_go_away(const proto::Error&) {
  if (going_away_) return;
  going_away_ = true;
  if (const auto owner = owner_.lock()) owner->on_going_away(*this);
}

void Connection::on_lost(const proto::Error& error) {
  proto::Error told = error;
  told.message = fmt::format("the connection to {}: {}", endpoint_text_, error.message);
  lost(told);
}

}  // namespace cistern::detail
