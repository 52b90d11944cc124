// A whole value on its way from L2 into L1, and to the reader that missed it.
#include <algorithm>
#include <unordered_map>
#include <utility>
#include <vector>

#include "server/base/check.h"
#include "server/service/window.h"

namespace cistern::service {
namespace {

class Fill : public std::enable_shared_from_this<Fill> {
 public:
  Fill(Reading reading, l1::Room room, WriteGate::MissToken token)
      : reading_(std::move(reading)),
        worker_(*reading_.worker),
        room_(std::make_shared<l1::Room>(std::move(room))),
        token_(std::move(token)),
        chunks_(reading_.meta->chunk_count()) {}

  void start() {
    worker_.renew_idle(*reading_.key, *reading_.meta);
    pump();
  }
  Taken take(std::uint64_t index);
  void close();
  const Error* error() const { return error_ ? &*error_ : nullptr; }
  // Where the reader goes on after kGone.
  std::unique_ptr<ChunkSource> rest(std::uint64_t index) const;

 private:
  // What shows a chunk also keeps its account, until the value is L1's.
  struct Held {
    base::ChunkPtr chunk;
    std::shared_ptr<l1::Room> room;
  };

  void pump();
  void arrived(std::uint64_t index, Result<base::ChunkPtr> chunk);
  void complete();
  void publish();
  void fail(Error error);
  void drop_reads();

  const Reading reading_;
  Worker& worker_;
  std::shared_ptr<l1::Room> room_;
  WriteGate::MissToken token_;
  std::vector<base::ChunkPtr> chunks_;                          // null: not yet arrived
  std::unordered_map<std::uint64_t, l2::Store::ReadId> reads_;  // by index
  std::uint64_t next_fetch_ = 0;
  std::uint64_t arrived_ = 0;
  unsigned width_ = 1;    // reads in flight at most
  bool gone_ = false;     // no chunks here any more
  base::ValuePtr value_;  // when it was published
  std::optional<Error> error_;
};

void Fill::pump() {
  while (next_fetch_ < reading_.end && reads_.size() < width_) {
    const std::uint64_t index = next_fetch_++;
    reads_[index] =
        worker_.store->read_chunk(reading_.key->text, *reading_.meta, index,
                                  [weak = weak_from_this(), index](Result<base::ChunkPtr> chunk) {
                                    if (const auto self = weak.lock())
                                      self->arrived(index, std::move(chunk));
                                  });
  }
}

void Fill::arrived(std::uint64_t index, Result<base::ChunkPtr> chunk) {
  if (reads_.erase(index) == 0) return;
  if (!chunk) {
    fail(chunk.error());
  } else {
    chunks_[index] = std::move(*chunk);
    ++arrived_;
    width_ = wider(width_, worker_.options);
    pump();
    if (arrived_ == reading_.end) complete();
  }
  reading_.waker->wake();
}

void Fill::complete() {
  const base::ValueMeta& meta = *reading_.meta;
  proto::ValueHasher hasher;
  for (const base::ChunkPtr& chunk : chunks_) hasher.add(chunk->digest());
  if (hasher.finish(meta.chunk_bytes, meta.size) != meta.digest) {
    return fail(
        {Status::kValueLost, "the chunks in the second tier do not have the value's digest"});
  }
  publish();
  token_.release();
}

void Fill::publish() {
  const auto value = std::make_shared<base::ChunkedValue>(*reading_.meta, chunks_);
  const Key& key = *reading_.key;
  bool stored = false;
  const bool tried = worker_.gate.publish_if_allowed(token_, [&] {
    const l1::NewEntry entry{
        .meta = &value->meta(), .small = {}, .small_digest = 0, .large = value};
    stored =
        worker_.cache.insert(key.bytes(), key.hash, entry, std::move(*room_), {}, l1::Source::kFill,
                             worker_.stay(value->expires_at_ms()), worker_.loop.now(),
                             worker_.loop.unix_ms()) == l1::Cache::Outcome::kStored;
  });
  if (!tried) return;  // its reader finishes what it began, from what is here
  if (stored) value_ = value;
  // Otherwise the room is lost, too, and the reader goes on from L2.
  gone_ = true;
  chunks_.clear();
}

std::unique_ptr<ChunkSource> Fill::rest(std::uint64_t index) const {
  Reading rest = reading_;
  rest.first = index;
  return value_ != nullptr ? source_in_memory(std::move(rest), value_)
                           : source_in_l2(std::move(rest));
}

Taken Fill::take(std::uint64_t index) {
  if (error_) return {.kind = Taken::Kind::kFailed};
  if (gone_) return {.kind = Taken::Kind::kGone};
  if (chunks_[index] == nullptr) return {};
  return {.kind = Taken::Kind::kChunk,
          .chunk = chunks_[index],
          .owner = std::make_shared<Held>(Held{chunks_[index], room_})};
}

void Fill::fail(Error error) {
  if (error.status == Status::kValueLost) {
    worker_.value_lost(*reading_.key, reading_.meta->version);
  }
  error_ = std::move(error);
  close();
}

void Fill::close() {
  for (const auto& [index, read] : reads_) worker_.store->cancel_read(read);
  reads_.clear();
  chunks_.clear();
  room_.reset();
  token_.release();
}

class FillSource : public ChunkSource {
 public:
  explicit FillSource(std::shared_ptr<Fill> fill) : fill_(std::move(fill)) {}
  FillSource(const FillSource&) = delete;
  FillSource& operator=(const FillSource&) = delete;
  ~FillSource() override { fill_->close(); }

  Taken take(std::uint64_t index) override { return fill_->take(index); }
  bool keeps_chunks() const override { return true; }
  const Error* error() const override { return fill_->error(); }
  std::unique_ptr<ChunkSource> successor(std::uint64_t index) override {
    return fill_->rest(index);
  }

 private:
  const std::shared_ptr<Fill> fill_;
};

}  // namespace

std::unique_ptr<ChunkSource> source_for_l1(Reading reading, l1::Room room,
                                           WriteGate::MissToken token) {
  CHECK(reading.whole());
  auto fill = std::make_shared<Fill>(std::move(reading), std::move(room), std::move(token));
  fill->start();
  return std::make_unique<FillSource>(std::move(fill));
}

}  // namespace cistern::service
