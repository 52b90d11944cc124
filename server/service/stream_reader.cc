#include "server/service/stream_reader.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "server/service/fill.h"

namespace cistern::service {

// ------------------------------------------------------------------------------------------ Waker

void Waker::set(std::function<void()> ready) { ready_ = std::move(ready); }

void Waker::wake() {
  if (!waiting_ || !ready_) return;
  waiting_ = false;
  const std::function<void()> ready = ready_;
  ready();
}

void Waker::close() {
  waiting_ = false;
  ready_ = nullptr;
}

// ----------------------------------------------------------------------------------------- ranges

Result<std::optional<proto::Range>> cover_of(const std::optional<proto::Range>& range,
                                             const base::ValueMeta& meta) {
  if (!range) return std::optional<proto::Range>{};
  const bool empty_whole = meta.size == 0 && range->offset == 0;
  if (range->offset >= meta.size && !empty_whole) {
    return base::fail(Status::kRangeInvalid,
                      fmt::format("the range begins at byte {}; the value has {} bytes",
                                  range->offset, meta.size));
  }
  const std::uint64_t length = std::min(range->length, meta.size - range->offset);
  const std::uint64_t chunk = meta.chunk_bytes;
  const std::uint64_t begin = range->offset / chunk * chunk;
  const std::uint64_t past = (range->offset + length + chunk - 1) / chunk * chunk;
  const std::uint64_t end = std::min(meta.size, std::max(begin, past));
  if (begin == 0 && end == meta.size) return std::optional<proto::Range>{};
  return std::optional(proto::Range{begin, length == 0 ? 0 : end - begin});
}

Reading make_reading(std::shared_ptr<Worker> worker, std::shared_ptr<const Key> key,
                     const base::ValueMeta& meta, const std::optional<proto::Range>& cover) {
  Reading reading;
  reading.waker = std::make_shared<Waker>(worker->loop);
  reading.worker = std::move(worker);
  reading.key = std::move(key);
  reading.meta = std::make_shared<base::ValueMeta>(meta);
  reading.end = meta.chunk_count();
  if (cover) {
    reading.first = cover->offset / meta.chunk_bytes;
    const std::uint64_t past = cover->offset + cover->length;
    reading.end = (past + meta.chunk_bytes - 1) / meta.chunk_bytes;
  }
  return reading;
}

// ----------------------------------------------------------------------------------- StreamReader

StreamReader::StreamReader(Reading reading, std::unique_ptr<ChunkSource> source)
    : reading_(std::move(reading)), source_(std::move(source)), index_(reading_.first) {
  if (source_ != nullptr && reading_.whole() && !source_->verified()) hasher_.emplace();
}

StreamReader::~StreamReader() { reading_.waker->close(); }

void StreamReader::on_ready(std::function<void()> ready) { reading_.waker->set(std::move(ready)); }

proto::Piece StreamReader::next(std::size_t max_bytes) {
  if (error_) return failed(*error_);
  if (index_ == reading_.end) {
    source_.reset();
    proto::Piece piece;
    piece.kind = proto::Piece::Kind::kEnd;
    piece.end = {reading_.meta->digest, reading_.meta->size};
    return piece;
  }
  if (const Error* const error = source_->error()) return failed(*error);
  if (max_bytes == 0) return wait();
  for (;;) {
    Taken taken = source_->take(index_);
    switch (taken.kind) {
      case Taken::Kind::kWait:
        return wait();
      case Taken::Kind::kFailed:
        return failed(*source_->error());
      case Taken::Kind::kGone:
        source_ = source_->successor(index_);
        continue;
      case Taken::Kind::kChunk:
        if (offset_ == 0 &&
            !verify(taken.compressed ? taken.compressed->digest : taken.chunk->digest())) {
          return failed(*error_);
        }
        return cut(std::move(taken), max_bytes);
    }
  }
}

// The last bytes of a value that isn't what its writer wrote don't leave the daemon.
bool StreamReader::verify(proto::ChunkDigest digest) {
  if (!hasher_) return true;
  hasher_->add(digest);
  const base::ValueMeta& meta = *reading_.meta;
  if (index_ + 1 < reading_.end || hasher_->finish(meta.chunk_bytes, meta.size) == meta.digest) {
    return true;
  }
  reading_.worker->value_lost(*reading_.key, meta.version, base::Loss::kValueDigest);
  error_ = base::lost(base::Loss::kValueDigest,
                      "the chunks in the second tier do not have the value's digest")
               .value();
  return false;
}

proto::Piece StreamReader::wait() {
  reading_.waker->wait();
  return {};
}

proto::Piece StreamReader::failed(const Error& error) {
  proto::Piece piece;
  piece.kind = proto::Piece::Kind::kFailed;
  piece.error = error;
  return piece;
}

proto::Piece StreamReader::cut(Taken taken, std::size_t max_bytes) {
  const Bytes left = taken.chunk->bytes().subspan(offset_);
  proto::Piece piece;
  piece.kind = proto::Piece::Kind::kBytes;
  piece.bytes.data = left.data();
  piece.bytes.size = std::min(max_bytes, left.size());
  piece.bytes.owner = std::move(taken.owner);
  offset_ += piece.bytes.size;
  piece.compressed = taken.compressed.has_value();
  if (piece.bytes.size < left.size()) return piece;
  piece.chunk_end = taken.chunk->digest();
  if (taken.compressed) {
    piece.chunk_end = taken.compressed->digest;
    piece.compressed_end = {taken.chunk->digest(), taken.compressed->bytes};
  }
  offset_ = 0;
  source_->passed(index_);
  if (++index_ == reading_.end) source_.reset();
  return piece;
}

// -------------------------------------------------------------------------------------- in memory

namespace {

class MemorySource : public ChunkSource {
 public:
  MemorySource(Reading reading, base::ValuePtr value)
      : reading_(std::move(reading)), value_(std::move(value)), index_(reading_.first) {
    if (reading_.worker->store != nullptr && reading_.meta->size > l2::kInlineBytes) renew();
  }
  ~MemorySource() override { reading_.worker->loop.cancel(renewal_); }
  MemorySource(const MemorySource&) = delete;
  MemorySource& operator=(const MemorySource&) = delete;

  Taken take(std::uint64_t index) override {
    index_ = index;
    base::ChunkPtr chunk = value_->chunk(index);
    if (chunk == nullptr) return {.kind = Taken::Kind::kGone};
    return {.kind = Taken::Kind::kChunk, .chunk = chunk, .owner = chunk};
  }
  bool verified() const override { return true; }

  std::unique_ptr<ChunkSource> successor(std::uint64_t index) override {
    Reading rest = reading_;
    rest.first = index;
    return source_in_l2(std::move(rest));
  }

 private:
  // From the moment in which the value is revoked L2 alone has it, where it may have been replaced:
  // its chunks have to last until the reader, however slow, comes for the next one.
  void renew() {
    const Duration grace = reading_.worker->options.replace_grace;
    renewal_ = reading_.worker->loop.after(grace / 3, [this, grace] {
      if (value_->revoked()) {
        reading_.worker->upkeep.expire({reading_.key->text, reading_.meta->version, reading_.end},
                                       index_, grace, true);
      }
      renew();
    });
  }

  const Reading reading_;
  const base::ValuePtr value_;
  std::uint64_t index_;
  base::Loop::TimerId renewal_ = base::Loop::TimerId::kNone;
};

}  // namespace

std::unique_ptr<ChunkSource> source_in_memory(Reading reading, base::ValuePtr value) {
  return std::make_unique<MemorySource>(std::move(reading), std::move(value));
}

}  // namespace cistern::service
