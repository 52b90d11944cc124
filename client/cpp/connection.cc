#include "client/cpp/connection.h"

#include <algorithm>
#include <array>
#include <utility>

#include <asio/buffer.hpp>
#include <asio/local/stream_protocol.hpp>
#include <asio/post.hpp>
#include <fmt/format.h>

#include "proto/limits.h"

namespace cistern::detail {
namespace {

// What one gathered write takes at most, and how much is written or read before others on the
// same executor have their turn.
constexpr std::size_t kBatchBytes = 1024 * proto::kKiB;
constexpr int kTurnReads = 16;
constexpr int kTurnBatches = 8;
// Asio passes no more buffers than this to one system call.
constexpr std::size_t kMaxBuffers = 64;

bool would_block(const std::error_code& error) {
  return error == asio::error::would_block || error == asio::error::try_again ||
         error == asio::error::interrupted;
}

}  // namespace

Connection::Connection(asio::any_io_executor executor, std::weak_ptr<Owner> owner)
    : executor_(executor),
      owner_(std::move(owner)),
      socket_(executor),
      resolver_(executor),
      connect_timer_(executor),
      conn_(*this, static_cast<std::uint32_t>(proto::kMaxFrameBytes)),
      scratch_(proto::kScratchBytes) {}

Connection::~Connection() = default;

// ----------------------------------------------------------------------------------- Connecting

void Connection::connect(const proto::Endpoint& endpoint, std::string_view client_name,
                         std::chrono::milliseconds timeout) {
  endpoint_text_ = proto::to_string(endpoint);
  client_name_ = client_name;
  connect_timer_.expires_after(timeout);
  connect_timer_.async_wait([self = shared_from_this(), timeout](const std::error_code& error) {
    if (error || self->conn_.welcome()) return;
    self->lost({proto::Status::kConnectFailed, fmt::format("{} did not answer within {} ms",
                                                           self->endpoint_text_, timeout.count())});
  });
  is_tcp_ = endpoint.kind == proto::Endpoint::Kind::kTcp;
  if (is_tcp_) return connect_tcp(endpoint);
  connect_unix(endpoint);
}

void Connection::connect_tcp(const proto::Endpoint& endpoint) {
  std::error_code not_numeric;
  const auto address = asio::ip::make_address(endpoint.host, not_numeric);
  if (!not_numeric) {
    addresses_.emplace_back(address, endpoint.port);
    return try_next_address();
  }
  resolver_.async_resolve(
      endpoint.host, std::to_string(endpoint.port), asio::ip::resolver_base::numeric_service,
      [self = shared_from_this()](const std::error_code& error,
                                  const asio::ip::tcp::resolver::results_type& results) {
        if (self->closed_) return;
        if (error) {
          return self->lost(
              {proto::Status::kConnectFailed, fmt::format("the host of {} cannot be resolved: {}",
                                                          self->endpoint_text_, error.message())});
        }
        for (const auto& result : results) self->addresses_.push_back(result.endpoint());
        std::reverse(self->addresses_.begin(), self->addresses_.end());
        self->try_next_address();
      });
}

void Connection::try_next_address() {
  const asio::ip::tcp::endpoint address = addresses_.back();
  addresses_.pop_back();
  socket_.async_connect(
      asio::generic::stream_protocol::endpoint(address),
      [self = shared_from_this()](const std::error_code& error) { self->on_connected(error); });
}

void Connection::connect_unix(const proto::Endpoint& endpoint) {
  const asio::local::stream_protocol::endpoint address(endpoint.path);
  socket_.async_connect(
      asio::generic::stream_protocol::endpoint(address),
      [self = shared_from_this()](const std::error_code& error) { self->on_connected(error); });
}

void Connection::on_connected(const std::error_code& error) {
  if (closed_) return;
  std::error_code ignored;
  if (error) {
    socket_.close(ignored);
    if (!addresses_.empty()) return try_next_address();
    return lost({proto::Status::kConnectFailed,
                 fmt::format("cannot connect to {}: {}; is cisternd running and listening there?",
                             endpoint_text_, error.message())});
  }
  std::error_code failed;
  socket_.non_blocking(true, failed);
  // A unix socket has no such option, and a delayed request is slow but right.
  if (is_tcp_) socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  if (failed) {
    return lost({proto::Status::kConnectFailed,
                 fmt::format("the socket to {}: {}", endpoint_text_, failed.message())});
  }
  last_input_ = Clock::now();
  conn_.hello(client_name_);
  flush();
  if (!closed_) wait_for_input();
}

// ------------------------------------------------------------------------------------- Requests

std::optional<proto::Error> Connection::open(const std::shared_ptr<Request>& request) {
  const proto::Result<std::uint32_t> id = request->send(*this);
  if (!id) return id.error();
  request->connection_ = this;
  request->id_ = *id;
  request->sent_at_ = Clock::now();
  request->written_before_ = written_bytes_;
  requests_.emplace(*id, request);
  schedule_flush();
  return std::nullopt;
}

void Connection::give_up(Request& request) {
  const std::uint32_t id = request.id_;
  const std::shared_ptr<Request> keep = take(id);
  if (keep == nullptr) return;
  // What is not a stream can't be cancelled; its answer finds nobody and is dropped.
  if (request.is_stream()) conn_.cancel(id);
  schedule_flush();
}

void Connection::grant(std::uint32_t id, std::uint32_t bytes) {
  conn_.grant(id, bytes);
  schedule_flush();
}

void Connection::source_ready(std::uint32_t id) {
  conn_.ready(id);
  schedule_flush();
}

void Connection::close(const proto::Error& error) { lost(error); }

void Connection::collect_overdue(TimePoint now, std::vector<std::shared_ptr<Request>>& overdue,
                                 TimePoint& next) const {
  for (const auto& [id, request] : requests_) {
    if (request->due() <= now) {
      overdue.push_back(request);
    } else {
      next = std::min(next, request->due());
    }
  }
}

std::shared_ptr<Request> Connection::find(std::uint32_t id) const {
  const auto found = requests_.find(id);
  return found == requests_.end() ? nullptr : found->second;
}

std::shared_ptr<Request> Connection::take(std::uint32_t id) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) return nullptr;
  std::shared_ptr<Request> request = std::move(found->second);
  requests_.erase(found);
  request->connection_ = nullptr;
  return request;
}

void Connection::lost(const proto::Error& error) {
  if (closed_) return;
  closed_ = true;
  const auto self = shared_from_this();
  conn_.drop(error);
  connect_timer_.cancel();
  resolver_.cancel();
  std::error_code ignored;
  socket_.close(ignored);
  batch_.clear();

  std::vector<std::shared_ptr<Request>> open;
  open.reserve(requests_.size());
  for (auto& [id, request] : requests_) open.push_back(std::move(request));
  requests_.clear();
  // Ids grow with every request, and wrap after 2^32 of them, when order no longer matters.
  std::sort(open.begin(), open.end(), [](const auto& a, const auto& b) { return a->id_ < b->id_; });
  for (const auto& request : open) request->connection_ = nullptr;
  if (const auto owner = owner_.lock()) owner->on_lost(*this, error, std::move(open));
}

// ---------------------------------------------------------------------------------------- Input

void Connection::wait_for_input() {
  // Waiting for readiness, not reading: where bytes belong is decided when they are there, so that
  // no memory of a request is lent to the kernel while the request may end.
  socket_.async_wait(Socket::wait_read, [self = shared_from_this()](const std::error_code& error) {
    self->on_readable(error);
  });
}

void Connection::on_readable(const std::error_code& error) {
  if (closed_) return;
  if (error) {
    return lost({proto::Status::kConnectionLost,
                 fmt::format("the connection to {}: {}", endpoint_text_, error.message())});
  }
  for (int reads = 0; reads < kTurnReads; ++reads) {
    if (!read_once()) break;
  }
  if (closed_) return;
  conn_.finish();
  flush();
  if (closed_) return;
  if (const auto owner = owner_.lock()) owner->on_room(*this);
  if (!closed_) wait_for_input();
}

bool Connection::read_once() {
  const std::array<proto::MutableBytes, 2> areas = conn_.prepare(scratch_);
  const std::array<asio::mutable_buffer, 2> buffers{
      asio::mutable_buffer(areas[0].data(), areas[0].size()),
      asio::mutable_buffer(areas[1].data(), areas[1].size())};
  std::error_code error;
  const std::size_t got = socket_.receive(buffers, 0, error);
  if (error) {
    if (would_block(error)) return false;
    const bool greeted = conn_.welcome().has_value();
    const std::string why = error == asio::error::eof ? "the daemon closed it" : error.message();
    lost({greeted ? proto::Status::kConnectionLost : proto::Status::kConnectFailed,
          greeted ? fmt::format("the connection to {} broke: {}", endpoint_text_, why)
                  : fmt::format("{} broke the connection during the handshake: {}", endpoint_text_,
                                why)});
    return false;
  }
  last_input_ = Clock::now();
  conn_.commit(got);
  if (const auto request = find(receiving_)) request->on_moved();
  conn_.process();
  // A short read has emptied the socket; asking again would only be told so.
  return !closed_ && got == areas[0].size() + areas[1].size();
}

// --------------------------------------------------------------------------------------- Output

void Connection::schedule_flush() {
  if (flush_scheduled_ || waiting_to_write_ || closed_) return;
  // Posted, so that requests that are made in one turn share a system call.
  flush_scheduled_ = true;
  asio::post(executor_, [self = shared_from_this()] {
    self->flush_scheduled_ = false;
    self->flush();
  });
}

void Connection::flush() {
  if (waiting_to_write_ || closed_) return;
  for (int batches = 0; batches < kTurnBatches;) {
    if (batch_.empty()) {
      if (!conn_.has_output()) return;
      conn_.collect(batch_, kBatchBytes);
      if (batch_.empty()) return;
    }
    fill_buffers();
    std::error_code error;
    const std::size_t wrote = socket_.send(buffers_, 0, error);
    if (would_block(error)) {
      waiting_to_write_ = true;
      socket_.async_wait(Socket::wait_write, [self = shared_from_this()](const std::error_code&) {
        self->waiting_to_write_ = false;
        self->flush();
      });
      return;
    }
    if (error) {
      return lost({proto::Status::kConnectionLost,
                   fmt::format("the connection to {} broke: {}", endpoint_text_, error.message())});
    }
    written_bytes_ += wrote;
    advance(wrote);
    for (const std::uint32_t id : in_batch_) {
      if (const auto request = find(id)) request->on_moved();
    }
    if (segment_ == batch_.segments.size()) {
      ++batches;
      batch_done();
    }
  }
  schedule_flush();
}

void Connection::fill_buffers() {
  buffers_.clear();
  for (std::size_t i = segment_; i < batch_.segments.size() && buffers_.size() < kMaxBuffers; ++i) {
    const proto::Bytes bytes = batch_.memory_of(batch_.segments[i]);
    const std::size_t skip = i == segment_ ? in_segment_ : 0;
    buffers_.emplace_back(bytes.data() + skip, bytes.size() - skip);
  }
}

void Connection::advance(std::size_t bytes) {
  while (bytes > 0) {
    const std::size_t left = batch_.segments[segment_].size - in_segment_;
    if (bytes < left) {
      in_segment_ += bytes;
      return;
    }
    bytes -= left;
    in_segment_ = 0;
    ++segment_;
  }
}

void Connection::batch_done() {
  batch_.clear();
  segment_ = 0;
  in_segment_ = 0;
  std::vector<std::uint32_t> ids;
  ids.swap(in_batch_);
  for (const std::uint32_t id : ids) {
    if (const auto request = find(id)) request->on_flushed();
  }
}

}  // namespace cistern::detail
