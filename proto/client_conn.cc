#include "proto/client_conn.h"

#include <algorithm>

#include <fmt/format.h>

namespace cistern::proto {
namespace {

// What a server says in an ERROR or GOAWAY. A code that isn't known here, or isn't for the wire,
// keeps what its retryable bit says.
Error error_of(const ErrorMessage& message) {
  const std::optional<Status> status = status_from_code(message.code);
  if (status && *status != Status::kOk && message.code < kFirstLocalCode) {
    return Error{*status, std::string(message.message), message.degraded};
  }
  return Error{message.retryable ? Status::kInternal : Status::kBadRequest,
               fmt::format("code {}: {}", message.code, message.message)};
}

}  // namespace

ClientConn::ClientConn(Handler& handler, std::uint32_t max_frame_bytes)
    : handler_(handler),
      max_frame_bytes_(max_frame_bytes),
      reader_(max_frame_bytes),
      outbox_(*this) {}

// ------------------------------------------------------------------------------------- Requests

void ClientConn::hello(std::string_view name) {
  encode(outbox_.control(), Hello{.features = kKnownFeatures, .name = name});
}

std::uint32_t ClientConn::open(Request request) {
  do {
    if (++last_id_ == 0) ++last_id_;
  } while (requests_.contains(last_id_));
  requests_.emplace(last_id_, request);
  return last_id_;
}

std::uint32_t ClientConn::get(const GetRequest& request) {
  const std::uint32_t id = open(Request{.type = Type::kGet, .credit = request.credit_bytes});
  GetRequest bounded = request;
  const auto largest = max_frame_bytes_ - static_cast<std::uint32_t>(kChunkDigestBytes);
  if (bounded.frame_bytes == 0 || bounded.frame_bytes > largest) bounded.frame_bytes = largest;
  encode(outbox_.control(), id, bounded);
  return id;
}

std::uint32_t ClientConn::put(const PutRequest& request, std::uint32_t frame_bytes) {
  const std::uint32_t id = open(Request{.type = Type::kPut});
  encode(outbox_.control(), id, request);
  if (!request.is_inline) outbox_.open(id, 0, frame_bytes);
  return id;
}

std::uint32_t ClientConn::remove(const KeyRequest& request) {
  const std::uint32_t id = open(Request{.type = Type::kDelete});
  encode(outbox_.control(), id, Type::kDelete, request);
  return id;
}

std::uint32_t ClientConn::stat(const KeyRequest& request) {
  const std::uint32_t id = open(Request{.type = Type::kStat});
  encode(outbox_.control(), id, Type::kStat, request);
  return id;
}

std::uint32_t ClientConn::touch(const TouchRequest& request) {
  const std::uint32_t id = open(Request{.type = Type::kTouch});
  encode(outbox_.control(), id, request);
  return id;
}

std::uint32_t ClientConn::ping(Bytes payload) {
  const std::uint32_t id = open(Request{.type = Type::kPing});
  encode_plain(outbox_.control(), id, Type::kPing, payload);
  return id;
}

std::uint32_t ClientConn::stats() {
  const std::uint32_t id = open(Request{.type = Type::kStats});
  encode(outbox_.control(), id, Type::kStats, KeyRequest{});
  return id;
}

std::uint32_t ClientConn::explain(const KeyRequest& request) {
  const std::uint32_t id = open(Request{.type = Type::kExplain});
  encode(outbox_.control(), id, Type::kExplain, request);
  return id;
}

void ClientConn::grant(std::uint32_t id, std::uint32_t bytes) {
  const auto found = requests_.find(id);
  if (found == requests_.end() || found->second.cancelled) return;
  found->second.credit += bytes;
  encode_credit(outbox_.control(), id, bytes);
}

void ClientConn::cancel(std::uint32_t id) {
  const auto found = requests_.find(id);
  if (found == requests_.end() || found->second.cancelled) return;
  found->second.cancelled = true;
  if (reader_.receiving(id)) reader_.discard();
  outbox_.close(id);
  encode_plain(outbox_.control(), id, Type::kCancel, {});
}

void ClientConn::drop(const Error& cause) { fail(cause); }

void ClientConn::fail(const Error& error) {
  if (failed_) return;
  failed_ = true;
  for (const auto& [id, request] : requests_) {
    if (reader_.receiving(id)) reader_.discard();
    outbox_.close(id);
  }
  requests_.clear();
  handler_.on_lost(error);
}

// ---------------------------------------------------------------------------------------- Input

void ClientConn::process() {
  while (!failed_) {
    switch (reader_.next()) {
      case FrameReader::Event::kNeedBytes:
        return;
      case FrameReader::Event::kSkipped:
        break;
      case FrameReader::Event::kError:
        fail(reader_.error());
        break;
      case FrameReader::Event::kFrame:
        on_frame();
        break;
      case FrameReader::Event::kData:
        on_data();
        break;
      case FrameReader::Event::kDataEnd: {
        const std::uint32_t id = reader_.header().id;
        const auto found = requests_.find(id);
        if (found == requests_.end() || found->second.cancelled) break;
        found->second.received += reader_.data_bytes();
        handler_.on_data_done(id, reader_.data_bytes(), reader_.chunk_end());
        break;
      }
    }
  }
}

void ClientConn::on_frame() {
  const FrameHeader& header = reader_.header();
  const MessageInfo* const known = find_message(header.type);
  if (known == nullptr || known->sender == Sender::kClient) {
    return fail(Error{Status::kProtocolError,
                      fmt::format("the server sent a frame of type {:#04x}", header.type)});
  }
  const Bytes payload = reader_.payload();
  if (known->type == Type::kWelcome) return on_welcome(payload);
  if (header.id == 0) return on_connection(*known, payload);
  if (!welcome_)
    return fail(Error{Status::kProtocolError, "the server answers before its WELCOME"});
  on_answer(known->type, header.id, payload);
}

void ClientConn::on_welcome(Bytes payload) {
  const Result<Welcome> welcome = decode_welcome(payload);
  if (!welcome) return fail(Error{Status::kProtocolError, welcome.error().message});
  if (welcome_ || reader_.header().id != 0 || welcome->version != kProtocolVersion ||
      welcome->chunk_bytes < kMinChunkBytes || welcome->chunk_bytes > kMaxChunkBytes ||
      welcome->max_frame_bytes < kMinFrameBytes) {
    return fail(Error{Status::kProtocolError, "the server's WELCOME makes no sense"});
  }
  server_name_ = welcome->name;
  welcome_ = *welcome;
  welcome_->name = server_name_;
  handler_.on_welcome(*welcome_);
}

void ClientConn::on_connection(const MessageInfo& known, Bytes payload) {
  const Result<ErrorMessage> message = decode_error(payload);
  if ((known.type != Type::kError && known.type != Type::kGoaway) || !message) {
    return fail(
        Error{Status::kProtocolError,
              fmt::format("the server sent a {} frame with id 0 that it cannot send", known.name)});
  }
  if (known.type == Type::kGoaway) return handler_.on_go_away(error_of(*message));
  fail(error_of(*message));
}

void ClientConn::on_answer(Type type, std::uint32_t id, Bytes payload) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) return;  // it has just ended
  Request& request = found->second;
  const auto malformed = [&](const Error& error) {
    fail(Error{Status::kProtocolError,
               fmt::format("a {} frame of the server: {}",
                           find_message(static_cast<std::uint8_t>(type))->name, error.message)});
  };
  // Whether this answer fits what was asked; a final one also closes the request.
  const auto expects = [&](std::initializer_list<Type> asked) {
    if (std::find(asked.begin(), asked.end(), request.type) != asked.end()) return true;
    malformed(Error{Status::kProtocolError, "it does not answer what was asked"});
    return false;
  };
  // Closes the request; false when nobody wants to hear of it.
  const auto close = [&] {
    const bool wanted = !request.cancelled;
    outbox_.close(id);
    requests_.erase(id);
    return wanted;
  };
  switch (type) {
    case Type::kCredit: {
      const Result<std::uint32_t> bytes = decode_credit(payload);
      if (!bytes) return malformed(bytes.error());
      if (!expects({Type::kPut}) || request.cancelled) return;
      if (!outbox_.add_credit(id, *bytes)) {
        return malformed(Error{Status::kProtocolError, "the credit passes its bound"});
      }
      return handler_.on_credit(id);
    }
    case Type::kValue:
      return on_value(id, request, payload);
    case Type::kEnd:
      return on_end(id, request, payload);
    case Type::kStored: {
      const Result<Stored> stored = decode_stored(payload);
      if (!stored) return malformed(stored.error());
      if (expects({Type::kPut}) && close()) handler_.on_stored(id, *stored);
      return;
    }
    case Type::kDone: {
      const Result<Done> done = decode_done(payload);
      if (!done) return malformed(done.error());
      if (expects({Type::kDelete, Type::kTouch}) && close()) handler_.on_done(id, *done);
      return;
    }
    case Type::kInfo: {
      const Result<Info> info = decode_info(payload);
      if (!info) return malformed(info.error());
      if (expects({Type::kStat}) && close()) handler_.on_info(id, *info);
      return;
    }
    case Type::kPong:
      if (expects({Type::kPing}) && close()) handler_.on_pong(id, payload);
      return;
    case Type::kStatsResult:
      if (expects({Type::kStats}) && close()) handler_.on_stats(id, as_text(payload));
      return;
    case Type::kExplanation:
      if (expects({Type::kExplain}) && close()) handler_.on_explanation(id, as_text(payload));
      return;
    case Type::kError: {
      const Result<ErrorMessage> message = decode_error(payload);
      if (!message) return malformed(message.error());
      if (!close()) return;
      return handler_.on_error(id, error_of(*message));
    }
    default:
      return malformed(Error{Status::kProtocolError, "it is out of place"});
  }
}

void ClientConn::on_value(std::uint32_t id, Request& request, Bytes payload) {
  const Result<ValueHead> head = decode_value(payload);
  if (!head || request.type != Type::kGet || request.expected) {
    return fail(Error{Status::kProtocolError,
                      head ? std::string("a VALUE frame is out of place")
                           : "a VALUE frame of the server: " + head.error().message});
  }
  const Range whole{0, head->size};
  const Range cover = head->cover.value_or(whole);
  const std::uint64_t chunk = head->chunk_bytes;
  const bool chunked =
      chunk >= kMinChunkBytes && chunk <= kMaxChunkBytes && head->size <= kMaxValueBytes;
  const bool inside = cover.offset <= head->size && cover.length <= head->size - cover.offset;
  if (!chunked || !inside || cover.offset % chunk != 0 ||
      ((cover.offset + cover.length) % chunk != 0 && cover.offset + cover.length != head->size)) {
    return fail(Error{Status::kProtocolError, "a VALUE frame announces bytes that cannot be"});
  }
  if ((head->flags & kValueInline) != 0) {
    if (head->cover || head->size > kMaxInlineBytes || head->size > request.credit) {
      return fail(Error{Status::kProtocolError, "an inline VALUE that cannot be"});
    }
    const bool wanted = !request.cancelled;
    requests_.erase(id);
    if (wanted) handler_.on_value(id, *head);
    return;
  }
  request.expected = cover;
  request.chunk_bytes = head->chunk_bytes;
  request.value_bytes = head->size;
  if (!request.cancelled) handler_.on_value(id, *head);
}

void ClientConn::on_end(std::uint32_t id, Request& request, Bytes payload) {
  const Result<End> end = decode_end(payload);
  if (!end || !request.expected) {
    return fail(Error{Status::kProtocolError, "an END frame of the server is out of place"});
  }
  if (request.cancelled) {
    requests_.erase(id);
    return;
  }
  if (request.received != request.expected->length || end->size != request.value_bytes) {
    return fail(
        Error{Status::kProtocolError, fmt::format("the server ended a value after {} of {} bytes",
                                                  request.received, request.expected->length)});
  }
  requests_.erase(id);
  handler_.on_end(id, *end);
}

void ClientConn::on_data() {
  const std::uint32_t id = reader_.header().id;
  if (id == 0 || !welcome_) {
    return fail(Error{Status::kProtocolError, "the server sent a DATA frame out of place"});
  }
  const auto found = requests_.find(id);
  if (found == requests_.end() || found->second.cancelled) return reader_.discard();
  if (const std::optional<Error> error = check_data(found->second)) return fail(*error);
  found->second.credit -= reader_.data_bytes();
  const MutableBytes target = handler_.on_data_target(id, reader_.data_bytes());
  const auto still = requests_.find(id);
  if (still == requests_.end() || still->second.cancelled ||
      target.size() != reader_.data_bytes()) {
    return reader_.discard();
  }
  reader_.set_target(target);
}

std::optional<Error> ClientConn::check_data(const Request& request) const {
  const std::uint64_t bytes = reader_.data_bytes();
  if (!request.expected) {
    return Error{Status::kProtocolError, "the server sent DATA without a VALUE"};
  }
  if (bytes > request.credit) {
    return Error{Status::kProtocolError, fmt::format("the server sent {} bytes with a credit of {}",
                                                     bytes, request.credit)};
  }
  const std::uint64_t left = request.expected->length - request.received;
  const std::uint64_t in_chunk = request.received % request.chunk_bytes;
  if (bytes > left || bytes > request.chunk_bytes - in_chunk) {
    return Error{Status::kProtocolError, "a DATA frame passes the end of its chunk"};
  }
  const bool completes = bytes == left || in_chunk + bytes == request.chunk_bytes;
  if (completes != reader_.chunk_end().has_value()) {
    return Error{Status::kProtocolError, "a DATA frame marks the end of a chunk wrongly"};
  }
  return std::nullopt;
}

// --------------------------------------------------------------------------------------- Output

Piece ClientConn::next_piece(std::uint32_t id, std::size_t max_bytes) {
  // Credit comes after WELCOME, so the server's bound is known by now.
  const std::size_t largest = welcome_ ? welcome_->max_frame_bytes - kChunkDigestBytes : max_bytes;
  return handler_.next_piece(id, std::min(max_bytes, largest));
}

void ClientConn::sent_end(std::uint32_t) {}

void ClientConn::source_failed(std::uint32_t id, const Error& error) {
  const auto found = requests_.find(id);
  if (found == requests_.end() || found->second.cancelled) return;
  cancel(id);
  handler_.on_error(id, error);
}

}  // namespace cistern::proto
