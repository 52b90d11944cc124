#include "client/cpp/get_stream.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>

#include "client/cpp/convert.h"

namespace cistern::detail {
namespace {

using proto::Error;
using proto::Status;

// Kept beside the chunks that are in use, so that a steady transfer allocates nothing.
constexpr std::size_t kSpareChunks = 2;
constexpr std::uint64_t kLeastChunks = 2;

Error is_closed() { return {Status::kCancelled, "the reader was closed"}; }

}  // namespace

GetStream::GetStream(std::weak_ptr<Channel> channel, std::string_view key, ReadOptions options,
                     Mode mode)
    : channel_(std::move(channel)), key_(key), options_(std::move(options)), mode_(mode) {}

void GetStream::open(Callback<Opening> opened) {
  opened_ = std::move(opened);
  const auto channel = channel_.lock();
  if (channel == nullptr) return on_failed({Status::kCancelled, "the client was closed"});
  patience_.set_overall(options_.timeout);
  if (!options_.timeout) {
    patience_.wait(channel->options().request_timeout, "the daemon did not answer");
  }
  channel->start(shared_from_this());
}

proto::Result<std::uint32_t> GetStream::send(Connection& connection) {
  const proto::Welcome& limits = connection.welcome();
  if (auto refused = check_key(key_, limits)) return tl::unexpected(*std::move(refused));
  if (options_.frame_bytes != 0 && options_.frame_bytes < proto::kMinReaderFrameBytes) {
    return proto::fail(Status::kUsage,
                       fmt::format("ReadOptions::frame_bytes is {}; the least is {}",
                                   options_.frame_bytes, proto::kMinReaderFrameBytes));
  }
  if (options_.range && options_.range->length == 0) {
    return proto::fail(Status::kUsage, "ReadOptions::range is 0 bytes long");
  }
  // At least a small value whole, so that it can come in one frame.
  const std::uint64_t least =
      std::max<std::uint64_t>(kLeastChunks * limits.chunk_bytes, proto::kMaxInlineBytes);
  granted_ = std::min<std::uint64_t>(std::max<std::uint64_t>(options_.window_bytes, least),
                                     proto::kMaxCreditBytes);
  proto::GetRequest request{.key = proto::as_bytes(key_),
                            .credit_bytes = static_cast<std::uint32_t>(granted_),
                            .frame_bytes = options_.frame_bytes,
                            .if_changed = options_.if_changed};
  // A daemon without a second tier has nothing that is compressed.
  request.compressed = options_.compressed && (limits.features & proto::kFeatureCompressed) != 0;
  if (options_.range) {
    request.range = proto::Range{.offset = options_.range->offset,
                                 .length = options_.range->length.value_or(proto::kUnknownSize)};
  }
  return connection.wire().get(request);
}

// ---------------------------------------------------------------------------------------- Head

void GetStream::on_value(const proto::ValueHead& head) {
  head_seen_ = true;
  info_ = to_info(head);
  cover_ = head.cover.value_or(proto::Range{0, head.size});
  if (!trim(head)) {
    return fail({Status::kProtocolError,
                 fmt::format("the daemon answered a range with bytes {} to {} of {}, which do not "
                             "cover it",
                             cover_.offset, cover_.offset + cover_.length, head.size)});
  }
  patience_.stop_waiting();
  if ((head.flags & proto::kValueInline) != 0) {
    take_inline(head);
    if (error_) return;
  } else {
    window_ = std::min<std::uint64_t>(
        std::max<std::uint64_t>(options_.window_bytes, kLeastChunks * head.chunk_bytes),
        proto::kMaxCreditBytes);
    hasher_.emplace();
    told_at_ = Clock::now();
    top_up();
  }
  if (const auto opened = std::exchange(opened_, nullptr)) opened(Opening::kValue);
}

// What of the bytes that arrive was asked for; false when they don't contain it.
bool GetStream::trim(const proto::ValueHead& head) {
  if (!options_.range) {
    length_ = left_ = head.size;
    return cover_.offset == 0 && cover_.length == head.size;
  }
  const std::uint64_t begin = options_.range->offset;
  if (begin > head.size || begin < cover_.offset) return false;
  length_ = std::min(options_.range->length.value_or(head.size), head.size - begin);
  left_ = length_;
  skip_ = begin - cover_.offset;
  return skip_ <= cover_.length && length_ <= cover_.length - skip_;
}

void GetStream::take_inline(const proto::ValueHead& head) {
  const proto::Bytes bytes = head.inline_bytes;
  if (bytes.size() != head.size || cover_.length != head.size ||
      value_digest(bytes, head.chunk_bytes) != head.inline_digest) {
    return fail({Status::kCorrupt, fmt::format("the {} bytes of the value do not have the digest "
                                               "that the daemon announced",
                                               bytes.size())});
  }
  const proto::Bytes wanted =
      bytes.subspan(static_cast<std::size_t>(skip_), static_cast<std::size_t>(length_));
  ended_ = true;
  skip_ = 0;
  if (mode_ == Mode::kCollect) {
    collected_.assign(wanted.begin(), wanted.end());
  } else if (!wanted.empty()) {
    Chunk chunk{.data = std::make_unique_for_overwrite<std::byte[]>(wanted.size()),
                .size = wanted.size(),
                .filled = wanted.size(),
                .verified = true};
    std::memcpy(chunk.data.get(), wanted.data(), wanted.size());
    chunks_.push_back(std::move(chunk));
  }
}

// ---------------------------------------------------------------------------------------- Data

void GetStream::allocate_chunk() {
  const std::uint64_t largest = std::min<std::uint64_t>(info_.chunk_bytes, cover_.length);
  const auto size =
      static_cast<std::size_t>(std::min<std::uint64_t>(largest, cover_.length - arrived_));
  if (mode_ == Mode::kCollect) {
    collected_.resize(collected_.size() + size);
    in_chunk_ = 0;
    return;
  }
  Chunk chunk{.size = size};
  if (spare_.empty()) {
    chunk.data = std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(largest));
  } else {
    chunk.data = std::move(spare_.back());
    spare_.pop_back();
  }
  chunks_.push_back(std::move(chunk));
}

bool GetStream::begin_chunk() {
  try {
    if (arrived_ == 0 && mode_ == Mode::kCollect) {
      collected_.reserve(static_cast<std::size_t>(cover_.length));
    }
    allocate_chunk();
    return true;
  } catch (const std::exception&) {
    fail({Status::kLocalIo, fmt::format("there is no memory for a value of {} bytes; read it in "
                                        "pieces with open()",
                                        info_.size)});
    return false;
  }
}

proto::MutableBytes GetStream::on_data_target(std::size_t bytes) {
  if (arrived_ % info_.chunk_bytes == 0 && !begin_chunk()) return {};
  if (mode_ == Mode::kStream) {
    Chunk& chunk = chunks_.back();
    return {chunk.data.get() + chunk.filled, bytes};
  }
  return {collected_.data() + arrived_, bytes};
}

void GetStream::on_data_done(std::size_t bytes, std::optional<proto::ChunkDigest> chunk_end) {
  arrived_ += bytes;
  in_chunk_ += bytes;
  proto::Bytes whole;
  if (mode_ == Mode::kStream) {
    Chunk& chunk = chunks_.back();
    chunk.filled += bytes;
    whole = {chunk.data.get(), chunk.filled};
  } else {
    whole = proto::Bytes(collected_).last(in_chunk_);
  }
  if (!chunk_end) return;
  if (proto::chunk_digest(whole) != *chunk_end) {
    return fail({Status::kCorrupt,
                 fmt::format("chunk {} of the value arrived with a wrong digest; none of its {} "
                             "bytes were handed out",
                             (cover_.offset + arrived_ - 1) / info_.chunk_bytes, whole.size())});
  }
  end_chunk(*chunk_end);
}

void GetStream::end_chunk(proto::ChunkDigest digest) {
  hasher_->add(digest);
  if (mode_ == Mode::kCollect) {
    released_ = arrived_;
    return top_up();
  }
  chunks_.back().verified = true;
  skip_ahead();
  settle();
}

// The connection has checked that a compressed chunk is smaller than it is raw.
proto::MutableBytes GetStream::on_compressed_target(std::size_t bytes) {
  const std::size_t filled = frame_.size();
  try {
    if (decoder_ == nullptr) decoder_ = std::make_unique<codec::Decoder>();
    frame_.resize(filled + bytes);
  } catch (const std::exception&) {
    fail({Status::kLocalIo, "there is no memory for a compressed chunk"});
    return {};
  }
  return proto::MutableBytes(frame_).subspan(filled);
}

void GetStream::on_compressed_done(std::size_t, std::optional<proto::ChunkDigest> chunk_end,
                                   const proto::CompressedEnd& end) {
  if (!chunk_end) return;
  const std::uint64_t index = (cover_.offset + arrived_) / info_.chunk_bytes;
  if (proto::chunk_digest(frame_) != end.stored_digest) {
    return fail({Status::kCorrupt, fmt::format("compressed chunk {} of the value arrived with a "
                                               "wrong digest; none of it was handed out",
                                               index)});
  }
  std::optional<codec::Fault> fault = codec::check_frame(frame_, end.raw_bytes);
  if (!fault && !begin_chunk()) return;
  if (!fault) {
    proto::MutableBytes raw = mode_ == Mode::kStream
                                  ? proto::MutableBytes(chunks_.back().data.get(), end.raw_bytes)
                                  : proto::MutableBytes(collected_).last(end.raw_bytes);
    fault = decoder_->decode(frame_, raw, *chunk_end);
  }
  if (fault) {
    return fail(
        {Status::kCorrupt,
         fmt::format("chunk {} of the value {}; none of it was handed out", index, text(*fault))});
  }
  frame_.clear();
  arrived_ += end.raw_bytes;
  if (mode_ == Mode::kStream) chunks_.back().filled = end.raw_bytes;
  end_chunk(*chunk_end);
}

void GetStream::on_end(const proto::End& end) {
  const bool whole = cover_.offset == 0 && cover_.length == info_.size;
  if (whole && hasher_->finish(info_.chunk_bytes, info_.size) != end.digest) {
    return fail({Status::kCorrupt,
                 fmt::format("the {} bytes of the value do not have the digest that the daemon "
                             "announced; what was read of it must not be used",
                             info_.size)});
  }
  ended_ = true;
  if (mode_ == Mode::kCollect && length_ != cover_.length) {
    const auto first = collected_.begin() + static_cast<std::ptrdiff_t>(skip_);
    collected_.erase(collected_.begin(), first);
    collected_.resize(static_cast<std::size_t>(length_));
  }
  settle();
}

// ------------------------------------------------------------------------------------- Reading

void GetStream::await(Callback<bool> ready) {
  ready_ = std::move(ready);
  const auto channel = channel_.lock();
  if (channel != nullptr && !error_) {
    patience_.wait(channel->options().stall_timeout, "no byte of the value arrived");
    channel->watch(*this);
  }
  settle();
}

proto::Bytes GetStream::front() const {
  if (chunks_.empty() || !chunks_.front().verified || error_) return {};
  const Chunk& chunk = chunks_.front();
  const std::uint64_t there = chunk.filled - chunk.consumed;
  return {chunk.data.get() + chunk.consumed,
          static_cast<std::size_t>(std::min<std::uint64_t>(there, left_))};
}

bool GetStream::consume(std::size_t bytes) {
  if (bytes == 0 || error_) return false;
  const TimePoint before = told_at_;
  Chunk& chunk = chunks_.front();
  chunk.consumed += bytes;
  left_ -= bytes;
  // What follows the last byte that was asked for is only there to be verified.
  if (left_ == 0) chunk.consumed = chunk.filled;
  if (chunk.consumed == chunk.filled) release_front();
  say_alive();
  return told_at_ != before;
}

void GetStream::release_front() {
  released_ += chunks_.front().size;
  if (spare_.size() < kSpareChunks) spare_.push_back(std::move(chunks_.front().data));
  chunks_.pop_front();
  top_up();
}

// Passes over what a range's first chunk holds before it, or, of a generous server, whole chunks.
void GetStream::skip_ahead() {
  while (skip_ > 0 && !chunks_.empty() && chunks_.front().verified) {
    Chunk& chunk = chunks_.front();
    const std::uint64_t passed = std::min<std::uint64_t>(skip_, chunk.filled - chunk.consumed);
    chunk.consumed += static_cast<std::size_t>(passed);
    skip_ -= passed;
    if (chunk.consumed == chunk.filled) release_front();
  }
  while (left_ == 0 && !chunks_.empty() && chunks_.front().verified) release_front();
}

void GetStream::top_up() {
  const std::uint64_t limit = std::min(cover_.length, released_ + window_);
  if (limit <= granted_ || connection() == nullptr) return;
  connection()->grant(id(), static_cast<std::uint32_t>(limit - granted_));
  granted_ = limit;
  told_at_ = Clock::now();
}

// Credit comes a chunk at a time, and a slow reader takes long for one.
void GetStream::say_alive() {
  if (connection() == nullptr) return;
  const TimePoint now = Clock::now();
  if (now - told_at_ < kSignOfLife) return;
  told_at_ = now;
  connection()->grant(id(), 0);
}

void GetStream::settle() {
  if (!ready_) return;
  const bool bytes = !front().empty();
  if (!bytes && !ended_ && !error_) return;
  patience_.stop_waiting();
  const Callback<bool> ready = std::exchange(ready_, nullptr);
  if (error_) return ready(tl::unexpected(*error_));
  ready(bytes);
}

// ---------------------------------------------------------------------------------------- Ends

void GetStream::close() {
  if (closed_) return;
  closed_ = true;
  if (!error_) fail(is_closed());
  chunks_.clear();
  spare_.clear();
}

void GetStream::on_failed(const Error& error) {
  const bool opening = opened_ != nullptr;
  if (opening && error.status == Status::kNotModified) {
    not_modified_ = ended_ = true;
    patience_ = Patience();
    return std::exchange(opened_, nullptr)(Opening::kNotModified);
  }
  if (opening && error.status == Status::kNotFound) {
    patience_ = Patience();
    return std::exchange(opened_, nullptr)(Opening::kNotFound);
  }
  fail(error);
}

// Also ends the request if it is still open. Chunks stay: the caller may be looking at one.
void GetStream::fail(const Error& error) {
  error_ = error;
  patience_ = Patience();
  if (const auto channel = channel_.lock()) channel->forget(*this);
  if (opened_) return std::exchange(opened_, nullptr)(tl::unexpected(error));
  settle();
}

}  // namespace cistern::detail
