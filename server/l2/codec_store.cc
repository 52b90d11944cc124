#include "server/l2/codec_store.h"

#include <algorithm>
#include <new>
#include <utility>

#include <fmt/format.h>

#include "server/base/check.h"

namespace cistern::l2 {
namespace {

using base::Status;
using Job = CodecPool::Job;

constexpr std::string_view kClosing = "the server is shutting down";

base::Error no_memory(std::uint64_t bytes) {
  return {Status::kNoRoom, fmt::format("the system has no {} bytes of memory now", bytes)};
}

}  // namespace

// ------------------------------------------------------------------------------------------ Habit

PackingHabit::Place& PackingHabit::place_of(base::Version version) {
  Place& place = places_[version % places_.size()];
  if (place.version != version) place = {version, 0, 0};
  return place;
}

bool PackingHabit::worth_a_try(base::Version version) {
  Place& place = place_of(version);
  if (place.refusals < kRefusals) return true;
  place.passed = static_cast<std::uint8_t>((place.passed + 1) % kEvery);
  return place.passed == 0;
}

void PackingHabit::tried(base::Version version, bool refused) {
  Place& place = place_of(version);
  const unsigned refusals = refused ? place.refusals + 1u : 0u;
  place.refusals = static_cast<std::uint8_t>(std::min(refusals, kRefusals));
}

// ------------------------------------------------------------------------------------------ Store

CodecStore::CodecStore(std::unique_ptr<Store> store, CodecPool& pool, base::Loop& loop,
                       base::WorkerMetrics& metrics)
    : pool_(pool), loop_(loop), metrics_(metrics), store_(std::move(store)) {}

CodecStore::~CodecStore() {
  for (const auto& [id, read] : reads_) {
    if (read.job != nullptr) pool_.cancel(read.job);
  }
  for (const auto& [id, write] : writes_) pool_.cancel(write.job);
  pool_.wait_for(this);
}

void CodecStore::close(std::function<void()> closed) {
  const auto refuse = [this]<typename T>(Callback<T> done) {
    loop_.post([done = std::move(done)] {
      done(base::fail(Status::kShuttingDown, std::string(kClosing)));
    });
  };
  for (auto& [id, write] : std::exchange(writes_, {})) {
    pool_.cancel(write.job);
    refuse(std::move(write.done));
  }
  for (auto each = reads_.begin(); each != reads_.end();) {
    Read& read = each->second;
    if (read.job == nullptr) {  // the store's to end
      ++each;
      continue;
    }
    pool_.cancel(read.job);
    refuse(std::move(read.done));
    each = reads_.erase(each);
  }
  store_->close(std::move(closed));
}

// ------------------------------------------------------------------------------------------ Reads

Store::ReadId CodecStore::read_chunk(const std::string& key, const base::ValueMeta& meta,
                                     std::uint64_t index, Form form, Callback<StoredChunk> done) {
  const ReadId id = ++last_id_;
  Read& read = reads_[id];
  read.index = index;
  read.done = std::move(done);
  read.of_store = store_->read_chunk(
      key, meta, index, Form::kStored,
      [this, id, form](Result<StoredChunk> chunk) { arrived(id, std::move(chunk), form); });
  return id;
}

void CodecStore::cancel_read(ReadId id) {
  const auto found = reads_.find(id);
  if (found == reads_.end()) return;
  const Read read = std::move(found->second);
  reads_.erase(found);
  if (read.job != nullptr) {
    pool_.cancel(read.job);
  } else {
    store_->cancel_read(read.of_store);
  }
}

void CodecStore::arrived(ReadId id, Result<StoredChunk> chunk, Form form) {
  if (!chunk || form == Form::kStored || chunk->codec == Codec::kRaw) {
    return finish(id, std::move(chunk));
  }
  reads_[id].frame_bytes = chunk->bytes->size();
  if (chunk->raw_bytes <= kDecodeInlineBytes) return unpack_here(id, std::move(*chunk));
  unpack(id, std::move(*chunk));
}

void CodecStore::finish(ReadId id, Result<StoredChunk> chunk) {
  const auto found = reads_.find(id);
  if (found == reads_.end()) return;
  const Callback<StoredChunk> done = std::move(found->second.done);
  reads_.erase(found);
  done(std::move(chunk));
}

base::Error CodecStore::faulty(const Read& read, codec::Fault fault) {
  metrics_.count_decode_fault(fault);
  metrics_.l2_corrupt_chunks.add();
  return base::lost(base::Loss::kChunkCodec, fmt::format("chunk {} {}", read.index, text(fault)))
      .value();
}

void CodecStore::unpack_here(ReadId id, StoredChunk chunk) {
  Read& read = reads_[id];
  const base::Bytes frame = chunk.bytes->bytes();
  if (const auto fault = codec::check_frame(frame, chunk.raw_bytes)) {
    return finish(id, tl::unexpected(faulty(read, *fault)));
  }
  std::shared_ptr<base::Chunk> raw;
  try {
    raw = base::Chunk::allocate(chunk.raw_bytes);
  } catch (const std::bad_alloc&) {
    return finish(id, tl::unexpected(no_memory(chunk.raw_bytes)));
  }
  if (const auto fault = decoder_.decode(frame, raw->space(), chunk.raw_digest)) {
    return finish(id, tl::unexpected(faulty(read, *fault)));
  }
  raw->seal(chunk.raw_bytes, chunk.raw_digest);
  finish_unpacked(id, StoredChunk::raw(std::move(raw)));
}

void CodecStore::unpack(ReadId id, StoredChunk chunk) {
  if (!pool_.could_decode(chunk.raw_bytes)) {
    return finish(
        id, base::fail(Status::kTransferTooLarge,
                       fmt::format("chunk {} has {} bytes and is compressed; of memory.limit at "
                                   "most {} are for decoding: raise memory.limit, or lower the "
                                   "storage.chunk_bytes of the value's writer",
                                   reads_[id].index, chunk.raw_bytes, pool_.memory().decoding)));
  }
  Read& read = reads_[id];
  read.job = std::make_shared<Job>();
  read.job->kind = CodecPool::Kind::kDecode;
  read.job->chunk = std::move(chunk);
  read.job->owner = this;
  read.job->loop = &loop_;
  read.job->done = [this, id] { on_unpacked(id); };
  if (pool_.submit(read.job)) return;
  finish(id,
         base::fail(Status::kL2Busy, fmt::format("{} chunks wait to be decoded already; raise "
                                                 "storage.compression.threads, or try again later",
                                                 CodecPool::kMaxQueued)));
}

void CodecStore::on_unpacked(ReadId id) {
  const Read& read = reads_.at(id);
  const std::shared_ptr<Job> job = read.job;
  switch (job->outcome) {
    case Job::Outcome::kFault:
      return finish(id, tl::unexpected(faulty(read, job->fault)));
    case Job::Outcome::kNoMemory:
      return finish(id, tl::unexpected(no_memory(job->chunk.raw_bytes)));
    case Job::Outcome::kDone:
    case Job::Outcome::kRefused:
      break;
  }
  finish_unpacked(id, std::move(job->chunk));
}

void CodecStore::finish_unpacked(ReadId id, StoredChunk chunk) {
  metrics_.codec_unpacked.add();
  metrics_.codec_unpacked_from.add(reads_[id].frame_bytes);
  metrics_.codec_unpacked_to.add(chunk.raw_bytes);
  finish(id, std::move(chunk));
}

// ----------------------------------------------------------------------------------------- Writes

bool CodecStore::wants_packing(base::Version version, const StoredChunk& chunk) {
  const CodecOptions& options = pool_.options();
  if (options.packing == Packing::kNone || chunk.raw_bytes < options.min_bytes) return false;
  return options.packing == Packing::kZstd || habit_.worth_a_try(version);
}

void CodecStore::write_chunk(const std::string& key, base::Version version, std::uint64_t index,
                             StoredChunk chunk, Callback<void> done) {
  if (chunk.codec != Codec::kRaw) {
    metrics_.codec_given.add();
    return store_->write_chunk(key, version, index, std::move(chunk), std::move(done));
  }
  if (!wants_packing(version, chunk)) {
    metrics_.codec_untried.add();
    return store_->write_chunk(key, version, index, std::move(chunk), std::move(done));
  }
  const std::uint64_t id = ++last_id_;
  const auto job = std::make_shared<Job>();
  job->kind = CodecPool::Kind::kEncode;
  job->sample = pool_.options().packing == Packing::kAuto;
  job->chunk = std::move(chunk);
  job->owner = this;
  job->loop = &loop_;
  job->done = [this, id] { packed(id); };
  if (!pool_.submit(job)) {
    metrics_.codec_crowded.add();
    return store_->write_chunk(key, version, index, std::move(job->chunk), std::move(done));
  }
  writes_.emplace(id, Write{job, key, version, index, std::move(done)});
}

void CodecStore::packed(std::uint64_t id) {
  const auto found = writes_.find(id);
  CHECK(found != writes_.end());
  Write write = std::move(found->second);
  writes_.erase(found);
  const StoredChunk& chunk = write.job->chunk;
  if (write.job->outcome == Job::Outcome::kDone) {
    habit_.tried(write.version, false);
    metrics_.codec_packed.add();
    metrics_.codec_packed_from.add(chunk.raw_bytes);
    metrics_.codec_packed_to.add(chunk.bytes->size());
  } else {
    habit_.tried(write.version, true);
    metrics_.codec_refused.add();
  }
  // The job, and with it the frame's memory, until the store has it.
  store_->write_chunk(write.key, write.version, write.index, std::move(write.job->chunk),
                      [job = write.job, done = std::move(write.done)](const Result<void>& result) {
                        job->room.release();
                        done(result);
                      });
}

}  // namespace cistern::l2
