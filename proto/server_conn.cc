#include "proto/server_conn.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "proto/json.h"

namespace cistern::proto {

ServerConn::ServerConn(const ServerLimits& limits, Handler& handler)
    : limits_(limits), handler_(handler), reader_(limits.max_frame_bytes), outbox_(*this) {}

namespace {

constexpr std::size_t kLookAheadKeys = 32;

const Error kNoHello{Status::kProtocolError, "the first frame of a connection must be HELLO"};

std::optional<Error> check_ttl(std::uint64_t ttl_ms) {
  if (ttl_ms <= kMaxTtlMs || ttl_ms == kDefaultTtl) return std::nullopt;
  return Error{Status::kBadRequest,
               fmt::format("a time to live of {} ms; the longest is {} ms", ttl_ms, kMaxTtlMs)};
}

}  // namespace

bool ServerConn::process(std::size_t max_owed_bytes) {
  while (!failed_) {
    if (outbox_.control_bytes() >= max_owed_bytes) return false;
    if (seen_ahead_ == 0) look_ahead();
    --seen_ahead_;
    switch (reader_.next()) {
      case FrameReader::Event::kNeedBytes: {
        seen_ahead_ = 0;
        // A frame whose bytes come slowly moves, too.
        const std::uint32_t id = reader_.header().id;
        if (reader_.receiving(id) && streams_.contains(id)) handler_.on_progress(id);
        return true;
      }
      case FrameReader::Event::kSkipped:
        if (!greeted_) fail(kNoHello);
        break;
      case FrameReader::Event::kError:
        fail(reader_.error());
        break;
      case FrameReader::Event::kFrame:
        ++frames_in_;
        on_frame();
        break;
      case FrameReader::Event::kData:
        ++frames_in_;
        on_data();
        break;
      case FrameReader::Event::kDataEnd:
        on_data_end();
        break;
    }
  }
  return true;
}

void ServerConn::look_ahead() {
  std::array<Bytes, kLookAheadKeys> keys;
  std::size_t count = 0;
  Bytes rest = reader_.buffered();
  while (greeted_ && count < keys.size() && rest.size() >= kHeaderBytes) {
    const FrameHeader header = decode_header(rest.data());
    rest = rest.subspan(kHeaderBytes);
    if (header.length > rest.size()) break;
    // These take the reader two events; counted as one, what follows would be announced again.
    if (header.type == static_cast<std::uint8_t>(Type::kData)) break;
    if (header.length > kMaxControlBytes) break;
    const Bytes key = key_ahead(static_cast<Type>(header.type), rest.first(header.length));
    if (!key.empty()) keys[count++] = key;
    rest = rest.subspan(header.length);
    ++seen_ahead_;
  }
  seen_ahead_ = std::max<std::size_t>(seen_ahead_, 1);
  if (count > 1) handler_.on_keys_ahead({keys.data(), count});
}

void ServerConn::on_frame() {
  const FrameHeader& header = reader_.header();
  const Bytes payload = reader_.payload();
  const MessageInfo* const known = find_message(header.type);
  if (!greeted_) {
    if (known == nullptr || known->type != Type::kHello) return fail(kNoHello);
    if (header.id != 0) return fail(Error{Status::kProtocolError, "a HELLO with a request id"});
    return on_hello(payload);
  }
  if (known == nullptr) {
    const Error error{Status::kUnsupported,
                      fmt::format("frames of type {:#04x} are not known here", header.type)};
    if (header.id == 0) return fail(error);
    Stream* const found = streams_.find(header.id);
    if (found == nullptr) return refuse(header.id, error);
    return misplaced(header.id, *found, error);
  }
  if (known->sender == Sender::kServer || known->type == Type::kHello || header.id == 0) {
    return fail(Error{
        Status::kProtocolError,
        fmt::format("a {} frame with request id {} is out of place here", known->name, header.id)});
  }
  switch (known->type) {
    case Type::kCredit:
    case Type::kCancel:
    case Type::kEnd:
      return on_stream_frame(known->type, header.id, payload);
    default:
      on_request(known->type, header.id, payload);
      streams_.settle();
  }
}

void ServerConn::on_hello(Bytes payload) {
  const Result<Hello> hello = decode_hello(payload);
  if (!hello) return fail(hello.error());
  if (hello->version_min > kProtocolVersion || hello->version_max < kProtocolVersion) {
    return fail(Error{Status::kUnsupported,
                      fmt::format("the client speaks protocol versions {} to {}, this server {}",
                                  hello->version_min, hello->version_max, kProtocolVersion)});
  }
  greeted_ = true;
  features_ = hello->features &
              (limits_.compressed ? kKnownFeatures : kKnownFeatures & ~kFeatureCompressed);
  Welcome welcome;
  welcome.features = features_;
  welcome.max_value_bytes = limits_.max_value_bytes;
  welcome.max_frame_bytes = limits_.max_frame_bytes;
  welcome.chunk_bytes = limits_.chunk_bytes;
  welcome.max_key_bytes = limits_.max_key_bytes;
  welcome.max_metadata_bytes = limits_.max_metadata_bytes;
  welcome.max_inline_bytes = static_cast<std::uint32_t>(kMaxInlineBytes);
  welcome.max_streams = limits_.max_streams;
  welcome.stream_window_bytes = limits_.stream_window_bytes;
  welcome.name = limits_.name;
  encode(outbox_.control(), welcome);
  if (going_away_) send_error(0, Type::kGoaway, *going_away_);
}

void ServerConn::on_request(Type type, std::uint32_t id, Bytes payload) {
  if (streams_.contains(id)) {
    return fail(Error{Status::kProtocolError,
                      fmt::format("request id {} was used again before its final answer", id)});
  }
  // Checks the key and what else `check` looks at, and opens the request; the handler is told of
  // it only then.
  const auto open_with = [&](const auto& decoded, Stream stream, const auto& check) {
    std::optional<Error> error;
    if (!decoded) {
      error = decoded.error();
    } else if (error = check_key(decoded->key); !error) {
      error = check(*decoded);
    }
    if (!error) return open(type, id, stream);
    reject(type, id, *error);
    return false;
  };
  const auto no_more = [](const auto&) { return std::optional<Error>(); };
  switch (type) {
    case Type::kGet: {
      const Result<GetRequest> request = decode_get(payload);
      const auto check = [this](const GetRequest& get) { return check_get(get); };
      if (open_with(request, Stream{.kind = Kind::kGet}, check)) on_get(id, *request);
      return;
    }
    case Type::kPut: {
      const Result<PutRequest> request = decode_put(payload);
      const auto check = [this](const PutRequest& put) { return check_put(put); };
      if (open_with(request, Stream{}, check)) on_put(id, *request);
      return;
    }
    case Type::kDelete: {
      const Result<KeyRequest> request = decode_key_request(payload, type);
      const Stream stream{.kind = Kind::kWriting};
      if (open_with(request, stream, no_more)) handler_.on_delete(id, *request);
      return;
    }
    case Type::kStat: {
      const Result<KeyRequest> request = decode_key_request(payload, type);
      if (open_with(request, Stream{}, no_more)) handler_.on_stat(id, *request);
      return;
    }
    case Type::kTouch: {
      const Result<TouchRequest> request = decode_touch(payload);
      const auto check = [](const TouchRequest& touch) { return check_ttl(touch.ttl_ms); };
      const Stream stream{.kind = Kind::kWriting};
      if (open_with(request, stream, check)) handler_.on_touch(id, *request);
      return;
    }
    case Type::kStats: {
      const Result<KeyRequest> request = decode_key_request(payload, type);
      if (!request) return reject(type, id, request.error());
      if (!request->key.empty()) {
        return reject(type, id, Error{Status::kBadRequest, "a STATS request has a key"});
      }
      if (open(type, id, Stream{})) handler_.on_stats(id);
      return;
    }
    case Type::kExplain: {
      const Result<KeyRequest> request = decode_key_request(payload, type);
      const auto check = [this](const KeyRequest&) { return check_feature(kFeatureExplain); };
      if (open_with(request, Stream{}, check)) handler_.on_explain(id, *request);
      return;
    }
    case Type::kPing:
      return on_ping(id, payload);
    default:
      return;  // on_frame() passes no other
  }
}

// Answered at once, whatever else is open: it asks whether the connection is alive.
void ServerConn::on_ping(std::uint32_t id, Bytes payload) {
  if (payload.size() > kMaxPingBytes) {
    return reject(Type::kPing, id,
                  Error{Status::kBadRequest, fmt::format("a PING carries {} bytes; at most {} are "
                                                         "allowed",
                                                         payload.size(), kMaxPingBytes)});
  }
  encode_plain(outbox_.control(), id, Type::kPong, payload);
  handler_.on_answered(Type::kPing, Status::kOk);
}

std::optional<Error> ServerConn::check_get(const GetRequest& request) const {
  if (request.frame_bytes != 0 && request.frame_bytes < kMinReaderFrameBytes) {
    return Error{Status::kBadRequest,
                 fmt::format("the reader asks for frames of {} bytes; the least is {}",
                             request.frame_bytes, kMinReaderFrameBytes)};
  }
  if (request.credit_bytes > kMaxCreditBytes) {
    return Error{Status::kBadRequest, fmt::format("a first credit of {} bytes; the most is {}",
                                                  request.credit_bytes, kMaxCreditBytes)};
  }
  if (request.range && request.range->length == 0) {
    return Error{Status::kBadRequest, "a range of 0 bytes"};
  }
  if (request.compressed) return check_feature(kFeatureCompressed);
  return std::nullopt;
}

void ServerConn::on_get(std::uint32_t id, const GetRequest& request) {
  Stream& stream = *streams_.find(id);
  const auto head_bytes = kChunkDigestBytes + (request.compressed ? kCompressedEndBytes : 0);
  const auto largest = limits_.max_frame_bytes - static_cast<std::uint32_t>(head_bytes);
  stream.frame_bytes = request.frame_bytes == 0 ? largest : std::min(request.frame_bytes, largest);
  stream.first_credit = request.credit_bytes;
  handler_.on_get(id, request);
}

std::optional<Error> ServerConn::check_put(const PutRequest& request) const {
  if (request.metadata.size() > limits_.max_metadata_bytes) {
    return Error{Status::kMetadataTooLarge,
                 fmt::format("the metadata has {} bytes; limits.max_metadata_bytes is {}",
                             request.metadata.size(), limits_.max_metadata_bytes)};
  }
  if (!request.metadata.empty() && !is_json_object(request.metadata)) {
    return Error{Status::kBadRequest, "the metadata is not a JSON object in UTF-8"};
  }
  if (request.is_inline && request.inline_bytes.size() > kMaxInlineBytes) {
    return Error{Status::kBadRequest,
                 fmt::format("an inline PUT carries {} bytes; at most {} are allowed, larger "
                             "values are sent in DATA frames",
                             request.inline_bytes.size(), kMaxInlineBytes)};
  }
  if (request.if_absent && request.if_version) {
    return Error{Status::kBadRequest, "a PUT names both if-absent and if-version"};
  }
  return check_ttl(request.ttl_ms);
}

void ServerConn::on_put(std::uint32_t id, const PutRequest& request) {
  Stream& stream = *streams_.find(id);
  stream.kind = request.is_inline ? Kind::kWriting : Kind::kPutReceiving;
  stream.declared = request.size;
  handler_.on_put(id, request);
}

void ServerConn::on_stream_frame(Type type, std::uint32_t id, Bytes payload) {
  Stream* const found = streams_.find(id);
  if (found == nullptr) return;  // it has just ended
  Stream& stream = *found;
  switch (type) {
    case Type::kCancel:
      // A complete write is under way and its outcome will be told.
      if (stream.kind == Kind::kWriting) return;
      if (!payload.empty()) return abort(id, Error{Status::kBadRequest, "a CANCEL has a payload"});
      return abort(id, Error{Status::kCancelled, {}});
    case Type::kCredit:
      return on_credit(id, stream, payload);
    case Type::kEnd: {
      const Result<End> end = decode_end(payload);
      if (!end) return misplaced(id, stream, end.error());
      return on_put_end(id, stream, *end);
    }
    default:
      return;
  }
}

void ServerConn::on_credit(std::uint32_t id, Stream& stream, Bytes payload) {
  const Result<std::uint32_t> bytes = decode_credit(payload);
  if (!bytes) return misplaced(id, stream, bytes.error());
  if (stream.kind != Kind::kGet) {
    return misplaced(id, stream,
                     Error{Status::kBadRequest, "CREDIT for a request that is not a GET"});
  }
  bool fits = true;
  if (outbox_.has(id)) {
    fits = outbox_.add_credit(id, *bytes);
  } else {
    stream.first_credit += *bytes;
    fits = stream.first_credit <= kMaxCreditBytes;
  }
  if (!fits) {
    return abort(
        id, Error{Status::kBadRequest,
                  fmt::format("the stream's unspent credit would pass {} bytes", kMaxCreditBytes)});
  }
  handler_.on_progress(id);
}

void ServerConn::on_data() {
  const std::uint32_t id = reader_.header().id;
  if (!greeted_) return fail(kNoHello);
  if (id == 0) return fail(Error{Status::kProtocolError, "a DATA frame with request id 0"});
  Stream* const found = streams_.find(id);
  if (found == nullptr || found->has_failed) return reader_.discard();  // it has just ended
  if (const std::optional<Error> error = check_data(*found)) {
    reader_.discard();
    return misplaced(id, *found, *error);
  }
  found->credit -= reader_.data_bytes();
  const MutableBytes target = handler_.on_data_target(id, reader_.data_bytes());
  if (target.size() == reader_.data_bytes()) return reader_.set_target(target);
  reader_.discard();
  // The handler may have answered the request already.
  if (Stream* const stream = streams_.find(id)) stream->has_failed = true;
}

void ServerConn::on_data_end() {
  const std::uint32_t id = reader_.header().id;
  Stream* const found = streams_.find(id);
  if (found == nullptr || found->has_failed) return;  // while these bytes were under way
  Stream& stream = *found;
  stream.received += reader_.data_bytes();
  if (reader_.chunk_end() && stream.received % limits_.chunk_bytes != 0) stream.short_chunk = true;
  handler_.on_data_done(id, reader_.data_bytes(), reader_.chunk_end());
  if (streams_.contains(id)) handler_.on_progress(id);
}

std::optional<Error> ServerConn::check_data(const Stream& stream) const {
  const std::uint64_t bytes = reader_.data_bytes();
  if (stream.kind != Kind::kPutReceiving) {
    return Error{Status::kBadRequest, "DATA for a request that takes none"};
  }
  if (stream.declared != kUnknownSize && bytes > stream.declared - stream.received) {
    return Error{Status::kSizeMismatch,
                 fmt::format("more DATA than the {} bytes that were declared", stream.declared)};
  }
  if (bytes > stream.credit) {
    return Error{Status::kBadRequest,
                 fmt::format("{} bytes of DATA with a credit of {}", bytes, stream.credit)};
  }
  const std::uint64_t in_chunk = stream.received % limits_.chunk_bytes;
  if (stream.short_chunk || bytes > limits_.chunk_bytes - in_chunk) {
    return Error{Status::kBadRequest,
                 fmt::format("a DATA frame crosses the end of a chunk of {} bytes, or follows the "
                             "last one",
                             limits_.chunk_bytes)};
  }
  const bool full = in_chunk + bytes == limits_.chunk_bytes;
  const bool last = stream.declared != kUnknownSize && stream.received + bytes == stream.declared;
  const bool marked = reader_.chunk_end().has_value();
  const bool may_be_short = stream.declared == kUnknownSize;
  if ((full || last) != marked && !(marked && may_be_short)) {
    return Error{Status::kBadRequest,
                 marked ? "a DATA frame ends a chunk before the chunk is full"
                        : "the DATA frame that completes a chunk does not carry its digest"};
  }
  return std::nullopt;
}

void ServerConn::on_put_end(std::uint32_t id, Stream& stream, const End& end) {
  if (stream.has_failed) return;
  if (stream.kind != Kind::kPutReceiving) {
    return misplaced(id, stream,
                     Error{Status::kBadRequest, "END for a request that is not being received"});
  }
  const bool open_chunk = stream.received % limits_.chunk_bytes != 0 && !stream.short_chunk;
  const bool too_few = stream.declared != kUnknownSize && stream.received != stream.declared;
  if (too_few || end.size != stream.received) {
    const std::uint64_t expected = too_few ? stream.declared : end.size;
    return abort(
        id, Error{Status::kSizeMismatch,
                  fmt::format("{} bytes were declared and {} arrived", expected, stream.received)});
  }
  if (open_chunk) {
    return abort(id, Error{Status::kBadRequest, "END before the last chunk's digest"});
  }
  stream.kind = Kind::kWriting;
  handler_.on_put_end(id, end);
}

std::optional<Error> ServerConn::check_key(Bytes key) const {
  if (key.empty()) return Error{Status::kBadRequest, "the key is empty"};
  if (key.size() <= limits_.max_key_bytes) return std::nullopt;
  return Error{Status::kKeyTooLarge, fmt::format("the key has {} bytes; limits.max_key_bytes is {}",
                                                 key.size(), limits_.max_key_bytes)};
}

std::optional<Error> ServerConn::check_feature(std::uint64_t feature) const {
  if ((features_ & feature) != 0) return std::nullopt;
  return Error{Status::kUnsupported,
               fmt::format("the request needs feature {:#x}, which HELLO did not offer", feature)};
}

}  // namespace cistern::proto
