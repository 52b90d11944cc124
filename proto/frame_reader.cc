#include "proto/frame_reader.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include <fmt/format.h>

namespace cistern::proto {
namespace {

bool fits_control(std::uint8_t type) { return type != static_cast<std::uint8_t>(Type::kData); }

}  // namespace

std::array<MutableBytes, 2> FrameReader::prepare(MutableBytes scratch) {
  if (scratch.size() < kScratchBytes) std::abort();
  if (scratch_.empty()) {
    scratch_ = scratch;
    begin_ = 0;
    end_ = carry_.size();
    std::copy(carry_.begin(), carry_.end(), scratch_.begin());
    carry_.clear();
  } else if (begin_ > 0) {
    // What is left of the last read is less than one control frame.
    std::memmove(scratch_.data(), scratch_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  // Unread bytes of the scratch come before whatever is read now, also in the target.
  offered_ = begin_ == end_ ? target_ : MutableBytes{};
  return {offered_, scratch_.subspan(end_)};
}

void FrameReader::commit(std::size_t bytes) {
  const std::size_t direct = std::min(bytes, offered_.size());
  if (bytes - direct > scratch_.size() - end_) std::abort();  // more than prepare() had room for
  offered_ = {};
  target_ = target_.subspan(direct);
  left_ -= direct;
  end_ += bytes - direct;
}

FrameReader::Event FrameReader::next() {
  switch (state_) {
    case State::kHead:
      return parse_head();
    case State::kAwaitTarget:
      discard();
      [[fallthrough]];
    case State::kInData:
    case State::kSkip:
      return take_data();
    case State::kFailed:
      return Event::kError;
  }
  return Event::kError;
}

FrameReader::Event FrameReader::parse_head() {
  const std::size_t have = end_ - begin_;
  if (have < kHeaderBytes) return Event::kNeedBytes;
  const std::byte* const at = scratch_.data() + begin_;
  header_ = decode_header(at);
  const std::size_t length = header_.length;
  const MessageInfo* const known = find_message(header_.type);
  const bool is_data = known != nullptr && !fits_control(header_.type);
  const std::size_t bound = known != nullptr && !is_data ? kMaxControlBytes : max_frame_bytes_;
  if (length > bound) {
    return fail_with(Status::kProtocolError,
                     fmt::format("a {} frame announces {} bytes of payload; at most {} are allowed",
                                 known != nullptr ? known->name : "(unknown type)", length, bound));
  }
  if (header_.reserved != 0) {
    return fail_with(Status::kProtocolError, "the reserved field of a frame header is not zero");
  }
  if (known == nullptr && (header_.type & kIgnorableTypeBit) != 0) {
    begin_ += kHeaderBytes;
    left_ = length;
    state_ = State::kSkip;
    return take_data();
  }
  // The flags of a type that isn't known here can't be judged.
  if (known != nullptr && (header_.flags & ~(is_data ? data_flags_ : 0)) != 0) {
    return fail_with(
        Status::kProtocolError,
        fmt::format("a {} frame has unknown header flags {:#04x}", known->name, header_.flags));
  }
  if (is_data) {
    const bool ends_chunk = (header_.flags & kFlagChunkEnd) != 0;
    const std::size_t digest_bytes =
        !ends_chunk ? 0 : kChunkDigestBytes + (compressed() ? kCompressedEndBytes : 0);
    if (length <= digest_bytes) {
      return fail_with(Status::kProtocolError, "a DATA frame has no value bytes");
    }
    if (have < kHeaderBytes + digest_bytes) return Event::kNeedBytes;
    chunk_end_.reset();
    if (ends_chunk) chunk_end_ = load_le<ChunkDigest>(at + kHeaderBytes);
    if (ends_chunk && compressed()) {
      const std::byte* const end = at + kHeaderBytes + kChunkDigestBytes;
      compressed_end_ = {load_le<ChunkDigest>(end), load_le<std::uint32_t>(end + 8)};
    }
    begin_ += kHeaderBytes + digest_bytes;
    data_bytes_ = length - digest_bytes;
    left_ = data_bytes_;
    state_ = State::kAwaitTarget;
    return Event::kData;
  }
  if (known == nullptr && length > kMaxControlBytes) {
    // Answerable, but too long to be kept: its payload goes by unread.
    payload_ = {};
    begin_ += kHeaderBytes;
    left_ = length;
    state_ = State::kSkip;
    return Event::kFrame;
  }
  if (have < kHeaderBytes + length) return Event::kNeedBytes;
  payload_ = Bytes(at + kHeaderBytes, length);
  begin_ += kHeaderBytes + length;
  return Event::kFrame;
}

FrameReader::Event FrameReader::take_data() {
  const bool skipping = state_ == State::kSkip;
  const std::size_t take = std::min(left_, end_ - begin_);
  if (take > 0) {
    if (!skipping && !discarding_) {
      std::memcpy(target_.data(), scratch_.data() + begin_, take);
      target_ = target_.subspan(take);
    }
    begin_ += take;
    left_ -= take;
  }
  if (left_ > 0) return Event::kNeedBytes;
  state_ = State::kHead;
  target_ = {};
  if (skipping) return Event::kSkipped;
  discarding_ = false;
  return Event::kDataEnd;
}

void FrameReader::set_target(MutableBytes target) {
  if (state_ != State::kAwaitTarget || target.size() != data_bytes_) std::abort();
  target_ = target;
  discarding_ = false;
  state_ = State::kInData;
}

void FrameReader::discard() {
  if (state_ != State::kAwaitTarget && state_ != State::kInData) return;
  target_ = {};
  discarding_ = true;
  state_ = State::kInData;
}

void FrameReader::finish() {
  if (scratch_.empty()) return;
  carry_.assign(scratch_.begin() + static_cast<std::ptrdiff_t>(begin_),
                scratch_.begin() + static_cast<std::ptrdiff_t>(end_));
  // An idle connection holds no more than it needs.
  if (carry_.capacity() > 2 * carry_.size()) carry_.shrink_to_fit();
  scratch_ = {};
  offered_ = {};
  begin_ = end_ = 0;
}

void FrameReader::abandon() {
  std::vector<std::byte>().swap(carry_);
  scratch_ = {};
  offered_ = {};
  begin_ = end_ = 0;
}

FrameReader::Event FrameReader::fail_with(Status status, std::string message) {
  error_ = Error{status, std::move(message)};
  state_ = State::kFailed;
  return Event::kError;
}

}  // namespace cistern::proto
