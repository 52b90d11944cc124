#include "tests/bench/load/cistern_driver.h"

#include <algorithm>
#include <cstring>

namespace cistern::bench {
namespace {

constexpr std::size_t kIdOffset = 8;  // in a frame's header

}  // namespace

void CisternDriver::open(Outbox& out) {
  scratch_.clear();
  proto::encode(scratch_, proto::Hello{.name = "cistern-load"});
  out.append(scratch_);
}

CisternDriver::Stream& CisternDriver::begin(Slot slot, Stream::Kind kind, KeyIndex key) {
  if (slot >= streams_.size()) streams_.resize(slot + 1);
  Stream& stream = streams_[slot];
  stream.kind = kind;
  stream.key = key;
  stream.id = (((stream.id >> kSlotBits) + 1) << kSlotBits) | slot;
  if (stream.id <= kSlotMask) stream.id += kSlotMask + 1;  // 0 is the connection's
  stream.position = 0;
  stream.credit = 0;
  stream.wrong.clear();
  return stream;
}

CisternDriver::Stream* CisternDriver::find(std::uint32_t id) {
  const std::size_t slot = id & kSlotMask;
  if (slot >= streams_.size() || streams_[slot].id != id) return nullptr;
  return streams_[slot].kind == Stream::Kind::kNone ? nullptr : &streams_[slot];
}

void CisternDriver::end(Stream& stream, Sink& sink, Outcome outcome, std::string_view why) {
  stream.kind = Stream::Kind::kNone;
  sink.on_end(stream.id & kSlotMask, outcome, why);
}

void CisternDriver::get(Outbox& out, Slot slot, KeyIndex key) {
  Stream& stream = begin(slot, Stream::Kind::kGet, key);
  proto::store_le(out.append(system_.gets_.of(key)) + kIdOffset, stream.id);
}

void CisternDriver::put(Outbox& out, Slot slot, KeyIndex key) {
  Stream& stream = begin(slot, Stream::Kind::kPut, key);
  stream.size = system_.corpus_.size(key);
  stream.chunk_bytes = system_.welcome_.chunk_bytes;
  proto::store_le(out.append(system_.puts_.of(key)) + kIdOffset, stream.id);
  if (system_.is_inline(stream.size)) {
    out.append(system_.corpus_.piece(key, 0, stream.size));
  } else {
    stream.value_hasher.emplace();
  }
}

std::string CisternDriver::feed(proto::Bytes in, Outbox& out, Sink& sink) {
  std::string error;
  while (!in.empty() && error.empty()) {
    switch (state_) {
      case State::kHeader:
        in = take_header(in, out, sink, error);
        break;
      case State::kControl:
        in = take_control(in, out, sink, error);
        break;
      case State::kDigest:
        in = take_digest(in);
        break;
      case State::kData:
        in = take_data(in, out, sink);
        break;
    }
  }
  return error;
}

proto::Bytes CisternDriver::gather(proto::Bytes& in, std::size_t wanted) {
  if (partial_.empty() && in.size() >= wanted) {
    const proto::Bytes whole = in.first(wanted);
    in = in.subspan(wanted);
    return whole;
  }
  const std::size_t step = std::min(in.size(), wanted - partial_.size());
  partial_.insert(partial_.end(), in.begin(), in.begin() + static_cast<std::ptrdiff_t>(step));
  in = in.subspan(step);
  return partial_.size() == wanted ? proto::Bytes(partial_) : proto::Bytes();
}

proto::Bytes CisternDriver::take_header(proto::Bytes in, Outbox& out, Sink& sink,
                                        std::string& error) {
  const proto::Bytes bytes = gather(in, proto::kHeaderBytes);
  if (bytes.empty()) return in;
  header_ = proto::decode_header(bytes.data());
  partial_.clear();
  if (header_.type == static_cast<std::uint8_t>(proto::Type::kData)) {
    error = on_data_header(sink);
  } else if (header_.length > proto::kMaxControlBytes) {
    error = "a frame of type " + std::to_string(header_.type) + " has " +
            std::to_string(header_.length) + " bytes, at most 65536 are allowed";
  } else if (header_.length == 0) {
    error = on_control({}, out, sink);
  } else {
    state_ = State::kControl;
  }
  return in;
}

proto::Bytes CisternDriver::take_control(proto::Bytes in, Outbox& out, Sink& sink,
                                         std::string& error) {
  const proto::Bytes payload = gather(in, header_.length);
  if (payload.empty()) return in;
  error = on_control(payload, out, sink);
  partial_.clear();
  return in;
}

proto::Bytes CisternDriver::take_digest(proto::Bytes in) {
  const proto::Bytes bytes = gather(in, proto::kChunkDigestBytes);
  if (bytes.empty()) return in;
  digest_ = proto::load_le<std::uint64_t>(bytes.data());
  partial_.clear();
  state_ = State::kData;
  return in;
}

proto::Bytes CisternDriver::take_data(proto::Bytes in, Outbox& out, Sink& sink) {
  Stream& stream = *data_stream_;
  const std::size_t step = std::min(in.size(), data_left_);
  const proto::Bytes bytes = in.first(step);
  sink.on_bytes(stream.id & kSlotMask, stream.position, bytes);
  if (stream.is_chunk_checked) stream.chunk_hasher->add(bytes);
  stream.position += step;
  data_left_ -= step;
  if (data_left_ == 0) {
    state_ = State::kHeader;
    if ((header_.flags & proto::kFlagChunkEnd) != 0) on_data_end(stream);
    grant(stream, out);
  }
  return in.subspan(step);
}

std::string CisternDriver::on_control(proto::Bytes payload, Outbox& out, Sink& sink) {
  state_ = State::kHeader;
  const auto type = static_cast<proto::Type>(header_.type);
  if (type == proto::Type::kWelcome) {
    const proto::Result<proto::Welcome> welcome = proto::decode_welcome(payload);
    if (!welcome) return "WELCOME: " + welcome.error().message;
    system_.on_welcome(*welcome);
    is_open_ = true;
    return {};
  }
  Stream* const stream = find(header_.id);
  if (type == proto::Type::kError || type == proto::Type::kGoaway) {
    return on_error(stream, payload, sink);
  }
  if (stream == nullptr) {
    return "a frame of type " + std::to_string(header_.type) + " for no open request";
  }
  if (type == proto::Type::kValue && stream->kind == Stream::Kind::kGet) {
    return on_value(*stream, payload, sink);
  }
  if (type == proto::Type::kEnd && stream->kind == Stream::Kind::kValue) {
    return on_value_end(*stream, payload, sink);
  }
  if (type == proto::Type::kStored && stream->kind == Stream::Kind::kPut) {
    end(*stream, sink, Outcome::kStored, {});
    return {};
  }
  if (type == proto::Type::kCredit && stream->kind == Stream::Kind::kPut && payload.size() == 4) {
    stream->credit += proto::load_le<std::uint32_t>(payload.data());
    pump(*stream, out);
    return {};
  }
  return "a frame of type " + std::to_string(header_.type) + " that the request doesn't call for";
}

}  // namespace cistern::bench
