#include "server/l2/redis_receiver.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include <fmt/format.h>

#include "server/base/check.h"

namespace cistern::l2 {
namespace {

using base::Loss;
using Event = ReplyReceiver::Event;

constexpr std::size_t kTrailerBytes = 2;  // CR LF after a bulk string

// What is received only to be dropped goes here; nobody reads it.
base::MutableBytes dropped_bytes() {
  static thread_local std::array<std::byte, 64 * proto::kKiB> bytes;
  return bytes;
}

Event broken(std::string why) {
  return {Event::Kind::kBroken, base::fail(base::Status::kL2Error, std::move(why))};
}

}  // namespace

std::array<base::MutableBytes, 2> ReplyReceiver::space() {
  if (begin_ == end_) begin_ = end_ = 0;
  if (begin_ > 0) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  const base::MutableBytes rest = base::MutableBytes(buffer_).subspan(end_);
  if (phase_ == Phase::kPayload) {
    return {chunk_->space().subspan(filled_, form_.stored_bytes - filled_), rest};
  }
  if (phase_ == Phase::kDrop && drop_left_ > 0) {
    const base::MutableBytes away = dropped_bytes();
    if (drop_left_ > away.size()) return {away, {}};
    return {away.first(static_cast<std::size_t>(drop_left_)), rest};
  }
  return {rest, {}};
}

void ReplyReceiver::received(std::size_t bytes) {
  if (phase_ == Phase::kPayload) {
    const std::size_t direct = std::min(bytes, form_.stored_bytes - filled_);
    hasher_.add(base::Bytes(chunk_->space()).subspan(filled_, direct));
    filled_ += direct;
    bytes -= direct;
  } else if (phase_ == Phase::kDrop) {
    const auto direct = static_cast<std::size_t>(std::min<std::uint64_t>(bytes, drop_left_));
    drop_left_ -= direct;
    bytes -= direct;
  }
  end_ += bytes;
  DCHECK(end_ <= buffer_.size());
}

void ReplyReceiver::consume(std::size_t bytes) { begin_ += bytes; }

void ReplyReceiver::drop(std::uint64_t bytes, base::Result<StoredChunk> outcome) {
  chunk_.reset();
  outcome_ = std::move(outcome);
  phase_ = Phase::kDrop;
  const auto here = static_cast<std::size_t>(std::min<std::uint64_t>(bytes, buffered().size()));
  consume(here);
  drop_left_ = bytes - here;
}

void ReplyReceiver::abandon() {
  if (phase_ == Phase::kPayload) {
    hasher_.finish();  // starts over
    drop(form_.stored_bytes - filled_ + kTrailerBytes, StoredChunk());
  } else {
    // Before the payload the caller's `wanted` decides; after it the chunk is dropped here.
    outcome_ = StoredChunk();
  }
}

Event ReplyReceiver::next(const Expected* expected) {
  for (;;) {
    switch (phase_) {
      case Phase::kHead: {
        Event event = read_head(expected);
        if (event.kind != Event::Kind::kNone || phase_ == Phase::kHead) return event;
        break;
      }
      case Phase::kChunkHeader:
        if (!read_chunk_header(*expected)) return {};
        break;
      case Phase::kPayload:
        if (!read_payload()) return {};
        break;
      case Phase::kTrailer:
        return read_trailer();
      case Phase::kDrop:
        if (drop_left_ > 0) return {};
        return finish();
    }
  }
}

Event ReplyReceiver::read_head(const Expected* expected) {
  if (buffered().empty()) return {};
  if (expected == nullptr) return broken("Redis sent a reply that was not asked for");
  const ParsedHead parsed = parse_reply_head(buffered());
  if (parsed.state == ParsedHead::State::kUnfinished) {
    if (buffered().size() < kBufferBytes) return {};
    return broken("Redis sent a reply whose first line does not end");
  }
  if (parsed.state == ParsedHead::State::kInvalid) {
    return broken("Redis sent a reply that is not of its protocol");
  }
  const ReplyHead head = parsed.head;
  consume(parsed.consumed);  // the text stays where it is until the next space()
  outcome_ = StoredChunk();
  if (head.kind == ReplyHead::Kind::kError) {
    outcome_ = tl::unexpected(redis_error(head.text));
    return finish();
  }
  if (expected->is_chunk) return begin_chunk(*expected, head);
  if (head.kind != ReplyHead::Kind::kSimple) return broken("Redis sent a reply of another kind");
  return finish();
}

Event ReplyReceiver::begin_chunk(const Expected& expected, const ReplyHead& head) {
  const ChunkIdentity& identity = expected.identity;
  if (head.kind == ReplyHead::Kind::kNil) {
    outcome_ = base::lost(Loss::kMissing, fmt::format("chunk {} is missing", identity.index));
    return finish();
  }
  if (head.kind != ReplyHead::Kind::kBulk) return broken("Redis sent a reply of another kind");
  const std::size_t most_bytes = kChunkHeaderBytes + identity.raw_bytes;
  if (!expected.wanted) {
    drop(head.length + kTrailerBytes, StoredChunk());
  } else if (head.length <= kChunkHeaderBytes || head.length > most_bytes) {
    drop(head.length + kTrailerBytes,
         base::lost(Loss::kChunkLength,
                    fmt::format("chunk {} has {} bytes; it can have {} to {}", identity.index,
                                head.length, kChunkHeaderBytes + 1, most_bytes)));
  } else {
    envelope_bytes_ = static_cast<std::size_t>(head.length);
    phase_ = Phase::kChunkHeader;
  }
  return {};
}

bool ReplyReceiver::read_chunk_header(const Expected& expected) {
  if (buffered().size() < kChunkHeaderBytes) return false;
  const auto form =
      decode_chunk_header(expected.identity, buffered().first(kChunkHeaderBytes), envelope_bytes_);
  consume(kChunkHeaderBytes);
  filled_ = 0;
  if (!expected.wanted || !form) {
    drop(envelope_bytes_ - kChunkHeaderBytes + kTrailerBytes,
         expected.wanted ? base::Result<StoredChunk>(tl::unexpected(form.error())) : StoredChunk());
    return true;
  }
  form_ = *form;
  raw_bytes_ = expected.identity.raw_bytes;
  try {
    chunk_ = base::Chunk::allocate(form_.stored_bytes);
  } catch (const std::bad_alloc&) {
    drop(form_.stored_bytes + kTrailerBytes,
         base::fail(base::Status::kNoRoom,
                    fmt::format("no memory for a chunk of {} bytes", form_.stored_bytes)));
    return true;
  }
  const base::Bytes here =
      buffered().first(std::min<std::size_t>(buffered().size(), form_.stored_bytes));
  std::memcpy(chunk_->space().data(), here.data(), here.size());
  hasher_.add(here);
  filled_ = here.size();
  consume(here.size());
  phase_ = Phase::kPayload;
  return true;
}

bool ReplyReceiver::read_payload() {
  if (filled_ < form_.stored_bytes) return false;
  const proto::ChunkDigest digest = hasher_.finish();
  if (digest == form_.stored_digest) {
    chunk_->seal(form_.stored_bytes, digest);
    outcome_ = StoredChunk{form_.codec, raw_bytes_, form_.raw_digest, std::move(chunk_)};
  } else {
    outcome_ = base::lost(Loss::kChunkDigest, "a chunk's bytes do not have its digest");
  }
  chunk_.reset();
  phase_ = Phase::kTrailer;
  return true;
}

Event ReplyReceiver::read_trailer() {
  if (buffered().size() < kTrailerBytes) return {};
  if (proto::as_text(buffered().first(kTrailerBytes)) != "\r\n") {
    return broken("Redis sent more than it announced");
  }
  consume(kTrailerBytes);
  return finish();
}

Event ReplyReceiver::finish() {
  phase_ = Phase::kHead;
  return {Event::Kind::kReply, std::exchange(outcome_, StoredChunk())};
}

}  // namespace cistern::l2
