#include "client/cpp/put_stream.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "client/cpp/convert.h"

namespace cistern::detail {
namespace {

using proto::Error;
using proto::Status;

// Of a chunk that isn't full, bytes are sent in units of this: a slow source is felt by the daemon,
// and a talkative one doesn't make a frame of every write.
constexpr std::size_t kEagerBytes = 64 * proto::kKiB;

}  // namespace

PutStream::PutStream(std::weak_ptr<Channel> channel, std::string_view key, PutOptions options,
                     std::optional<std::uint64_t> size)
    : channel_(std::move(channel)), key_(key), options_(std::move(options)), size_(size) {
  patience_.set_overall(options_.timeout);
}

void PutStream::begin() {
  if (size_ && *size_ > proto::kMaxInlineBytes) return start();
  head_.resize(static_cast<std::size_t>(size_.value_or(proto::kMaxInlineBytes)));
}

void PutStream::start() {
  const auto channel = channel_.lock();
  if (channel == nullptr) return fail({Status::kCancelled, "the client was closed"});
  state_ = State::kOpening;
  channel->start(shared_from_this());
}

proto::Result<std::uint32_t> PutStream::send(Connection& connection) {
  const proto::Welcome& limits = connection.welcome();
  if (auto refused = check_key(key_, limits)) return tl::unexpected(*std::move(refused));
  if (auto refused = check_metadata(options_.metadata, limits)) {
    return tl::unexpected(*std::move(refused));
  }
  const proto::Result<std::uint64_t> ttl = to_ttl(options_.ttl);
  if (!ttl) return tl::unexpected(ttl.error());
  if (options_.if_absent && options_.if_version) {
    return proto::fail(Status::kUsage, "PutOptions has both if_absent and if_version");
  }
  if (chunk_bytes_ != 0 && chunk_bytes_ != limits.chunk_bytes) {
    return proto::fail(Status::kConnectionLost,
                       "the connection broke, and the daemon came back with another chunk size; "
                       "nothing was stored: try again");
  }
  chunk_bytes_ = limits.chunk_bytes;
  proto::PutRequest request{.key = proto::as_bytes(key_),
                            .size = size_.value_or(proto::kUnknownSize),
                            .ttl_ms = *ttl,
                            .if_absent = options_.if_absent,
                            .if_version = options_.if_version,
                            .metadata = proto::as_bytes(options_.metadata)};
  if (committed_ && total_ == head_filled_) {
    request.size = total_;
    const std::uint64_t most =
        std::min<std::uint64_t>({limits.max_inline_bytes, proto::kMaxInlineBytes,
                                 limits.chunk_bytes, limits.max_value_bytes});
    if (total_ <= most) {
      request.is_inline = true;
      request.inline_bytes = proto::Bytes(head_).first(head_filled_);
      request.inline_digest = value_digest(request.inline_bytes, chunk_bytes_);
      return connection.wire().put(request, 0);
    }
  }
  // A value that passes limits.max_value_bytes is opened, too: without credit no payload follows,
  // and the daemon has to know that the older value was meant to be replaced.
  state_ = State::kStreaming;
  given_at_ = Clock::now();
  expected_bytes_ = request.size;
  spill_head();
  auto frame_bytes = limits.max_frame_bytes - static_cast<std::uint32_t>(proto::kChunkDigestBytes);
  if (options_.frame_bytes != 0) frame_bytes = std::min(frame_bytes, options_.frame_bytes);
  const std::uint32_t id = connection.wire().put(request, frame_bytes);
  settle();
  return id;
}

// The bytes that were gathered to travel in the PUT's own frame go into chunks instead.
void PutStream::spill_head() {
  proto::Bytes rest = proto::Bytes(head_).first(head_filled_);
  total_ -= rest.size();
  while (!rest.empty()) {
    Chunk* chunk = chunk_with_room();
    if (chunk == nullptr) {
      // Chunks smaller than the head: more than kChunks of them, once.
      chunks_.push_back(std::make_shared<Chunk>());
      chunks_.back()->data = std::make_unique_for_overwrite<std::byte[]>(chunk_bytes_);
      queue_.push_back(chunks_.back());
      chunk = chunks_.back().get();
    }
    const std::size_t part = std::min<std::size_t>(rest.size(), chunk_bytes_ - chunk->filled);
    std::memcpy(chunk->data.get() + chunk->filled, rest.data(), part);
    rest = rest.subspan(part);
    chunk->filled += part;
    total_ += part;
    if (chunk->filled == chunk_bytes_) complete(*chunk);
  }
  if (!queue_.empty() && !queue_.back()->complete && (full() || committed_)) {
    complete(*queue_.back());
  }
  head_ = {};
  head_filled_ = 0;
}

// ------------------------------------------------------------------------------------- Filling

// The chunk that is being filled, a new one, or null when all are on their way.
PutStream::Chunk* PutStream::chunk_with_room() {
  if (!queue_.empty() && !queue_.back()->complete) return queue_.back().get();
  for (const auto& chunk : chunks_) {
    const bool queued = std::find(queue_.begin(), queue_.end(), chunk) != queue_.end();
    if (queued || chunk.use_count() > 1) continue;  // the kernel has not got all of it
    chunk->filled = chunk->taken = 0;
    chunk->complete = false;
    queue_.push_back(chunk);
    return chunk.get();
  }
  if (chunks_.size() >= kChunks) return nullptr;
  auto chunk = std::make_shared<Chunk>();
  const auto bytes = std::min<std::uint64_t>(chunk_bytes_, expected_bytes_);
  chunk->data = std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(bytes));
  chunks_.push_back(chunk);
  queue_.push_back(std::move(chunk));
  return queue_.back().get();
}

proto::MutableBytes PutStream::room() {
  if (error_ || committed_ || full()) return {};
  if (state_ == State::kHead) {
    if (head_filled_ < head_.size()) return proto::MutableBytes(head_).subspan(head_filled_);
    start();  // more is coming than a frame holds
  }
  if (state_ != State::kStreaming) return {};
  Chunk* const chunk = chunk_with_room();
  if (chunk == nullptr) return {};
  std::uint64_t free = chunk_bytes_ - chunk->filled;
  if (size_) free = std::min(free, *size_ - total_);
  return {chunk->data.get() + chunk->filled, static_cast<std::size_t>(free)};
}

void PutStream::filled(std::size_t bytes) {
  if (bytes == 0 || error_) return;
  total_ += bytes;
  if (state_ == State::kHead) {
    head_filled_ += bytes;
    return;
  }
  Chunk& chunk = *queue_.back();
  const std::size_t units_before = chunk.filled / kEagerBytes;
  chunk.filled += bytes;
  if (chunk.filled == chunk_bytes_ || full()) complete(chunk);
  if ((chunk.complete || chunk.filled / kEagerBytes > units_before || trickles()) &&
      connection() != nullptr) {
    connection()->source_ready(id());
  }
}

void PutStream::complete(Chunk& chunk) {
  chunk.digest = proto::chunk_digest({chunk.data.get(), chunk.filled});
  chunk.complete = true;
  hasher_.add(chunk.digest);
}

void PutStream::await_room(Callback<std::monostate> ready) {
  ready_ = std::move(ready);
  if (!error_) wait("the daemon took no byte of the value");
  settle();
}

void PutStream::commit(Callback<Stored> stored) {
  if (!error_ && !committed_ && size_ && total_ != *size_) fail_size(total_);
  if (!error_ && committed_) {
    return stored(proto::fail(Status::kUsage, "the value was committed already"));
  }
  if (error_) return stored(tl::unexpected(*error_));
  committed_ = true;
  stored_ = std::move(stored);
  wait("the daemon did not confirm that the value is stored");
  if (state_ == State::kHead) return start();
  if (!queue_.empty() && !queue_.back()->complete) {
    if (queue_.back()->filled > 0) {
      complete(*queue_.back());
    } else {
      queue_.pop_back();
    }
  }
  if (connection() != nullptr) connection()->source_ready(id());
}

void PutStream::wait(std::string_view for_what) {
  const auto channel = channel_.lock();
  if (channel == nullptr) return;
  patience_.wait(channel->options().stall_timeout, for_what);
  channel->watch(*this);
}

// ------------------------------------------------------------------------------------- Sending

// In whole units, so that a fast writer's frames are large. The last byte goes with the digest.
std::size_t PutStream::sendable(const Chunk& chunk) const {
  if (chunk.complete) return chunk.filled;
  const std::size_t but_last = std::max<std::size_t>(chunk.filled, 1) - 1;
  if (trickles()) return but_last;
  return std::max(but_last / kEagerBytes * kEagerBytes, chunk.taken);
}

proto::Piece PutStream::next_piece(std::size_t max_bytes) {
  proto::Piece piece;
  if (queue_.empty()) {
    if (!committed_) return piece;
    piece.kind = proto::Piece::Kind::kEnd;
    piece.end = {.digest = hasher_.finish(chunk_bytes_, total_), .size = total_};
    return piece;
  }
  const std::shared_ptr<Chunk> chunk = queue_.front();
  const std::size_t bytes = std::min(sendable(*chunk) - chunk->taken, max_bytes);
  if (bytes == 0) return piece;
  value_bytes_left_ = true;
  given_at_ = Clock::now();
  piece.kind = proto::Piece::Kind::kBytes;
  piece.bytes.data = chunk->data.get() + chunk->taken;
  piece.bytes.size = bytes;
  piece.bytes.owner = chunk;
  chunk->taken += bytes;
  if (chunk->complete && chunk->taken == chunk->filled) {
    piece.chunk_end = chunk->digest;
    queue_.pop_front();
  }
  return piece;
}

void PutStream::on_flushed() { settle(); }

void PutStream::settle() {
  if (!ready_) return;
  if (!error_ && room().empty() && !full()) return;
  patience_.stop_waiting();
  const Callback<std::monostate> ready = std::exchange(ready_, nullptr);
  if (error_) return ready(tl::unexpected(*error_));
  ready(std::monostate());
}

// ---------------------------------------------------------------------------------------- Ends

void PutStream::on_stored(const proto::Stored& stored) {
  if (!committed_) {
    return fail(
        {Status::kProtocolError, "the daemon says that the value is stored before it was sent"});
  }
  state_ = State::kOver;
  patience_ = Patience();
  queue_.clear();
  chunks_.clear();
  if (const auto done = std::exchange(stored_, nullptr)) done(to_stored(stored));
}

void PutStream::on_failed(const Error& error) { fail(error); }

void PutStream::fail_size(std::uint64_t offered_bytes) {
  fail({Status::kSizeMismatch,
        fmt::format("{} bytes were declared and {} {}; nothing was stored", size_.value_or(0),
                    offered_bytes, offered_bytes > size_.value_or(0) ? "or more came" : "came")});
}

void PutStream::abort() {
  if (state_ == State::kOver || error_) return;
  fail({Status::kCancelled, "the writer was aborted; nothing was stored"});
}

// Also ends the request if it is still open.
void PutStream::fail(const Error& error) {
  error_ = error;
  state_ = State::kOver;
  patience_ = Patience();
  if (const auto channel = channel_.lock()) channel->forget(*this);
  queue_.clear();
  chunks_.clear();
  if (const auto stored = std::exchange(stored_, nullptr)) stored(tl::unexpected(error));
  settle();
}

}  // namespace cistern::detail
