// A store whose chunks are compressed on the way in, by policy, and decoded on the way out.
//
// It stands above the real store of one worker. What the policy refuses is stored raw, and so is
// what finds the pool crowded: compression is never a reason to fail a write. A read that wants raw
// bytes gets them decoded and verified against their own digest; a frame that is not exactly what
// its envelope says is a lost chunk. Values that are inline in their manifest are never compressed.
//
// What a chunk waits for the pool comes before the store's own deadline.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <unordered_map>

#include "server/base/metrics.h"
#include "server/l2/codec_pool.h"

namespace cistern::l2 {

// Which chunks are worth a try, for `auto`: after four refusals in a row only every 16th chunk of
// the same value. By version; two values that share a place cost a few tries.
class PackingHabit {
 public:
  // Of the next chunk of this value. Once for each.
  bool worth_a_try(base::Version version);
  void tried(base::Version version, bool refused);

  static constexpr unsigned kRefusals = 4;
  static constexpr unsigned kEvery = 16;

 private:
  struct Place {
    base::Version version = 0;
    std::uint8_t refusals = 0;
    std::uint8_t passed = 0;
  };
  Place& place_of(base::Version version);
  std::array<Place, 512> places_;
};

class CodecStore final : public Store {
 public:
  // `pool`, `loop` and `metrics` outlive it.
  CodecStore(std::unique_ptr<Store> store, CodecPool& pool, base::Loop& loop,
             base::WorkerMetrics& metrics);
  ~CodecStore() override;

  base::Result<void> available() const override { return store_->available(); }
  base::Result<void> ready() const override { return store_->ready(); }
  void get_manifest(std::string key, Callback<std::optional<Manifest>> done) override {
    store_->get_manifest(std::move(key), std::move(done));
  }
  void get_stamp(std::string key, Callback<std::optional<Stamp>> done) override {
    store_->get_stamp(std::move(key), std::move(done));
  }
  ReadId read_chunk(const std::string& key, const base::ValueMeta& meta, std::uint64_t index,
                    Form form, Callback<StoredChunk> done) override;
  void cancel_read(ReadId id) override;
  void write_chunk(const std::string& key, base::Version version, std::uint64_t index,
                   StoredChunk chunk, Callback<void> done) override;
  void expire_chunks(const ChunkSet& set, std::uint64_t first, std::uint64_t last,
                     base::Duration ttl, bool only_longer, Callback<std::uint64_t> done) override {
    store_->expire_chunks(set, first, last, ttl, only_longer, std::move(done));
  }
  void commit(std::string key, const base::Condition& condition, const Manifest& manifest,
              Callback<CommitResult> done) override {
    store_->commit(std::move(key), condition, manifest, std::move(done));
  }
  void remove(std::string key, const base::Condition& condition,
              Callback<CommitResult> done) override {
    store_->remove(std::move(key), condition, std::move(done));
  }
  void discard(std::string key, base::Version version) override {
    store_->discard(std::move(key), version);
  }
  void close(std::function<void()> closed) override;

 private:
  struct Read {
    ReadId of_store = 0;
    CodecPool::JobPtr job;  // once the frame is here
    std::uint64_t index = 0;
    std::uint64_t frame_bytes = 0;
    Callback<StoredChunk> done;
  };
  struct Write {
    CodecPool::JobPtr job;
    std::string key;
    base::Version version = 0;
    std::uint64_t index = 0;
    Callback<void> done;
  };

  void arrived(ReadId id, Result<StoredChunk> chunk, Form form);
  void unpack(ReadId id, StoredChunk chunk);
  void unpack_here(ReadId id, StoredChunk chunk);
  void on_unpacked(ReadId id);
  void finish_unpacked(ReadId id, StoredChunk chunk);
  void finish(ReadId id, Result<StoredChunk> chunk);
  base::Error faulty(const Read& read, codec::Fault fault);
  bool wants_packing(base::Version version, const StoredChunk& chunk);
  void packed(std::uint64_t id);

  CodecPool& pool_;
  base::Loop& loop_;
  base::WorkerMetrics& metrics_;
  codec::Decoder decoder_;  // for chunks of at most kDecodeInlineBytes
  PackingHabit habit_;
  std::uint64_t last_id_ = 0;
  std::unordered_map<ReadId, Read> reads_;
  std::unordered_map<std::uint64_t, Write> writes_;  // those that the pool has
  const std::unique_ptr<Store> store_;               // goes first: it may call back as it goes
};

}  // namespace cistern::l2
