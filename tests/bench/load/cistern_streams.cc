// What the bytes of a value are worth, in both directions: credit, chunks and digests.
#include <algorithm>
#include <cstring>

#include "tests/bench/load/cistern_driver.h"

namespace cistern::bench {

namespace {

// VALUE's fixed part; PROTOCOL.md has the table.
constexpr std::size_t kValueHeadBytes = 40;
constexpr std::size_t kInlineHeadBytes = kValueHeadBytes + proto::kValueDigestBytes;

// Most answers are inline and have no TLV area. They are read here, a few loads each; everything
// else is the codec's.
std::optional<proto::ValueHead> read_plain_inline(proto::Bytes payload) {
  if (payload.size() < kInlineHeadBytes) return std::nullopt;
  const auto flags = proto::load_le<std::uint32_t>(payload.data());
  const auto tlv_bytes = proto::load_le<std::uint16_t>(payload.data() + 4);
  const bool is_plain =
      (flags & (proto::kCriticalFlags | proto::kValueInline)) == proto::kValueInline;
  if (!is_plain || tlv_bytes != 0) return std::nullopt;
  proto::ValueHead head;
  head.flags = flags;
  head.size = proto::load_le<std::uint64_t>(payload.data() + 8);
  head.chunk_bytes = proto::load_le<std::uint32_t>(payload.data() + 32);
  std::memcpy(head.inline_digest.data(), payload.data() + kValueHeadBytes,
              head.inline_digest.size());
  head.inline_bytes = payload.subspan(kInlineHeadBytes);
  return head;
}

}  // namespace

std::string CisternDriver::on_value(Stream& stream, proto::Bytes payload, Sink& sink) {
  if (const auto plain = read_plain_inline(payload)) {
    on_inline(stream, *plain, sink);
    return {};
  }
  const proto::Result<proto::ValueHead> head = proto::decode_value(payload);
  if (!head) return "VALUE: " + head.error().message;
  if ((head->flags & proto::kValueInline) != 0) {
    on_inline(stream, *head, sink);
    return {};
  }
  sink.on_size(stream.id & kSlotMask, head->size);
  stream.size = head->size;
  stream.chunk_bytes = head->chunk_bytes;
  stream.kind = Stream::Kind::kValue;
  const std::uint64_t expected = system_.corpus_.size(stream.key);
  stream.credit = expected <= kSmallValueBytes ? kSmallValueBytes : system_.options_.window_bytes;
  stream.value_hasher.emplace();
  return {};
}

void CisternDriver::on_inline(Stream& stream, const proto::ValueHead& head, Sink& sink) {
  const Slot slot = stream.id & kSlotMask;
  sink.on_size(slot, head.size);
  sink.on_bytes(slot, 0, head.inline_bytes);
  if (sink.wants(slot, 0) &&
      proto::ValueHasher::of_single(proto::chunk_digest(head.inline_bytes), head.chunk_bytes,
                                    head.size) != head.inline_digest) {
    end(stream, sink, Outcome::kFailed, "the bytes of an inline value don't have its digest");
  } else {
    end(stream, sink, Outcome::kHit, {});
  }
}

std::string CisternDriver::on_data_header(Sink& sink) {
  data_stream_ = find(header_.id);
  if (data_stream_ == nullptr || data_stream_->kind != Stream::Kind::kValue) {
    return "DATA for no open request";
  }
  Stream& stream = *data_stream_;
  const bool is_chunk_end = (header_.flags & proto::kFlagChunkEnd) != 0;
  const std::size_t head_bytes = is_chunk_end ? proto::kChunkDigestBytes : 0;
  if (header_.length <= head_bytes) return "DATA without value bytes";
  data_left_ = header_.length - head_bytes;
  const std::uint64_t in_chunk = stream.position % stream.chunk_bytes;
  const std::uint64_t chunk_left =
      std::min<std::uint64_t>(stream.chunk_bytes - in_chunk, stream.size - stream.position);
  if (data_left_ > chunk_left) return "DATA that crosses the end of a chunk";
  if (is_chunk_end != (data_left_ == chunk_left)) return "DATA whose CHUNK_END is wrong";
  if (data_left_ > stream.credit) return "DATA past the credit that was granted";
  stream.credit -= data_left_;
  if (in_chunk == 0) {
    stream.is_chunk_checked = sink.wants(stream.id & kSlotMask, stream.position);
    if (stream.is_chunk_checked && !stream.chunk_hasher) stream.chunk_hasher.emplace();
  }
  state_ = is_chunk_end ? State::kDigest : State::kData;
  return {};
}

void CisternDriver::on_data_end(Stream& stream) {
  stream.value_hasher->add(digest_);
  if (stream.is_chunk_checked && stream.chunk_hasher->finish() != digest_) {
    stream.wrong = "the chunk that ends at byte " + std::to_string(stream.position) +
                   " doesn't have its digest";
  }
}

// Half a window at a time, so that a CREDIT is rare and the server never runs dry.
void CisternDriver::grant(Stream& stream, Outbox& out) {
  const std::uint64_t window = system_.options_.window_bytes;
  if (stream.credit > window / 2 || stream.position + stream.credit >= stream.size) return;
  scratch_.clear();
  proto::encode_credit(scratch_, stream.id, static_cast<std::uint32_t>(window - stream.credit));
  out.append(scratch_);
  stream.credit = window;
}

std::string CisternDriver::on_value_end(Stream& stream, proto::Bytes payload, Sink& sink) {
  const proto::Result<proto::End> message = proto::decode_end(payload);
  if (!message) return "END: " + message.error().message;
  if (message->size != stream.size || stream.position != stream.size) {
    stream.wrong =
        "END after " + std::to_string(stream.position) + " bytes of " + std::to_string(stream.size);
  } else if (stream.value_hasher->finish(stream.chunk_bytes, stream.size) != message->digest) {
    stream.wrong = "the chunks' digests don't have the value's digest";
  }
  end(stream, sink, stream.wrong.empty() ? Outcome::kHit : Outcome::kFailed, stream.wrong);
  return {};
}

std::string CisternDriver::on_error(Stream* stream, proto::Bytes payload, Sink& sink) {
  const proto::Result<proto::ErrorMessage> message = proto::decode_error(payload);
  if (!message) return "ERROR: " + message.error().message;
  const std::optional<proto::Status> status = proto::status_from_code(message->code);
  std::string text = status ? std::string(proto::name(*status)) : std::to_string(message->code);
  text += ": " + std::string(message->message);
  if (stream == nullptr) return text;
  if (status == proto::Status::kNotFound) {
    end(*stream, sink, Outcome::kMiss, {});
  } else if (status == proto::Status::kNoRoom || status == proto::Status::kValueTooLarge) {
    end(*stream, sink, Outcome::kRefused, text);
  } else {
    end(*stream, sink, Outcome::kFailed, text);
  }
  return {};
}

void CisternDriver::pump(Stream& stream, Outbox& out) {
  if (stream.position == stream.size) return;
  const std::uint64_t max_data = system_.welcome_.max_frame_bytes - proto::kChunkDigestBytes;
  while (stream.credit > 0 && stream.position < stream.size) {
    const std::uint64_t chunk_begin = stream.position - stream.position % stream.chunk_bytes;
    const std::uint64_t chunk_end = std::min(chunk_begin + stream.chunk_bytes, stream.size);
    const std::uint64_t step = std::min({stream.credit, max_data, chunk_end - stream.position});
    std::optional<proto::ChunkDigest> digest;
    if (stream.position + step == chunk_end) {
      digest = system_.digest(stream.key, chunk_begin, chunk_end - chunk_begin);
      stream.value_hasher->add(*digest);
    }
    scratch_.clear();
    proto::encode_data_head(scratch_, stream.id, static_cast<std::size_t>(step), digest);
    out.append(scratch_);
    for (std::uint64_t done = 0; done < step;) {
      const proto::Bytes piece =
          system_.corpus_.piece(stream.key, stream.position + done, step - done);
      out.refer(piece);
      done += piece.size();
    }
    stream.position += step;
    stream.credit -= step;
  }
  if (stream.position < stream.size) return;
  scratch_.clear();
  proto::encode(
      scratch_, stream.id,
      proto::End{stream.value_hasher->finish(stream.chunk_bytes, stream.size), stream.size});
  out.append(scratch_);
}

}  // namespace cistern::bench
