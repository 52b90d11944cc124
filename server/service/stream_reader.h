// A Reader: cuts chunks into pieces, and goes on elsewhere where one source of chunks ends.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "server/service/worker.h"

namespace cistern::service {

// Tells a reader, once for each time that it had to wait, that it's worth asking again. Held by the
// reader and by whatever works for it; loop's thread.
class Waker : public std::enable_shared_from_this<Waker> {
 public:
  explicit Waker(base::Loop& loop) : loop_(loop) {}
  void set(std::function<void()> ready);
  void wait() { waiting_ = true; }
  // Runs `ready`, if somebody waits; the reader may be gone afterwards. Not within Reader::next().
  void wake();
  void close();

 private:
  base::Loop& loop_;
  std::function<void()> ready_;
  bool waiting_ = false;
};

struct Taken {
  enum class Kind : std::uint8_t {
    kWait,    // it isn't there yet; the waker tells
    kChunk,   // `chunk`
    kGone,    // this source has nothing more: go on with successor()
    kFailed,  // see error()
  };
  Kind kind = Kind::kWait;
  base::ChunkPtr chunk{};
  // Of a chunk that is shown as it lies in L2, compressed: what it is raw.
  std::optional<l2::RawForm> compressed{};
  // Keeps the chunk, and the account of its memory.
  std::shared_ptr<const void> owner{};
};

// Where a reader's chunks come from, in order. Destroying it ends its work.
class ChunkSource {
 public:
  virtual ~ChunkSource() = default;
  // Chunk `index`; it goes up one by one, and every call may be repeated. A reader asks for its
  // chunk again for each piece of it and keeps none from one to the next: what one that stands
  // still had in its hands could not be taken back.
  virtual Taken take(std::uint64_t index) = 0;
  // It has all of chunk `index`, and asks for it no more.
  virtual void passed(std::uint64_t /*index*/) {}
  // Whether take() may yield something; else the reading's waker tells when to ask again.
  virtual bool opened() { return true; }
  // Whether the value's own digest was compared with its chunks' already.
  virtual bool verified() const { return false; }
  // Null as long as nothing has failed.
  virtual const Error* error() const { return nullptr; }
  // After kGone: what has the chunks from `index` on.
  virtual std::unique_ptr<ChunkSource> successor(std::uint64_t index) = 0;
};

// What is being read: the chunks [first, end) of one version.
struct Reading {
  std::shared_ptr<Worker> worker;
  std::shared_ptr<const Key> key;
  std::shared_ptr<const base::ValueMeta> meta;
  std::uint64_t first = 0;
  std::uint64_t end = 0;
  std::shared_ptr<Waker> waker;

  bool whole() const { return first == 0 && end == meta->chunk_count(); }
};

// The chunks that cover `range` of a value, or all of it: the bytes, absent when they are the whole
// value. kRangeInvalid when it begins past the end.
Result<std::optional<proto::Range>> cover_of(const std::optional<proto::Range>& range,
                                             const base::ValueMeta& meta);

// `cover` as of cover_of().
Reading make_reading(std::shared_ptr<Worker> worker, std::shared_ptr<const Key> key,
                     const base::ValueMeta& meta, const std::optional<proto::Range>& cover);

class StreamReader : public Reader {
 public:
  StreamReader(Reading reading, std::unique_ptr<ChunkSource> source);
  ~StreamReader() override;
  StreamReader(const StreamReader&) = delete;
  StreamReader& operator=(const StreamReader&) = delete;

  proto::Piece next(std::size_t max_bytes) override;
  void on_ready(std::function<void()> ready) override;

 private:
  proto::Piece wait();
  proto::Piece failed(const Error& error);
  proto::Piece cut(Taken taken, std::size_t max_bytes);
  // False when all chunks are here and aren't the value's.
  bool verify(proto::ChunkDigest digest);

  const Reading reading_;
  std::unique_ptr<ChunkSource> source_;  // null once all was taken
  std::uint64_t index_;                  // of the chunk that it is in
  std::size_t offset_ = 0;               // what was sent already of that
  std::optional<proto::ValueHasher> hasher_;
  std::optional<Error> error_;
};

// A value that is in memory, as of an L1 hit. Successor: L2, when the value was revoked.
std::unique_ptr<ChunkSource> source_in_memory(Reading reading, base::ValuePtr value);

}  // namespace cistern::service
