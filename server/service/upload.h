// A streamed PUT: receives chunks, verifies and stores them, and commits.
//
// Memory is taken before credit is granted for it, chunk by chunk. It is L1's room when the size is
// known and the value will be kept, or when there is no L2; else the ledger's, waited for once.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "server/service/edit.h"
#include "server/service/put.h"

namespace cistern::service {

class UploadCore : public std::enable_shared_from_this<UploadCore> {
 public:
  UploadCore(std::shared_ptr<Worker> worker, const proto::PutRequest& request, PutSink& sink);
  UploadCore(const UploadCore&) = delete;
  UploadCore& operator=(const UploadCore&) = delete;

  void start();
  void leave();
  MutableBytes target(std::size_t bytes);
  void done(std::size_t bytes, std::optional<proto::ChunkDigest> chunk_end);
  void end(const proto::End& end);
  // Whether the sink was called for the last time.
  bool answered() const { return sink_ == nullptr; }

 private:
  enum class State : std::uint8_t {
    kAdmission,  // waits for memory, or begins
    kReceiving,
    kFlushing,    // all bytes are here; chunks are still being written to L2
    kCommitting,  // runs on by itself
    kRefusing,    // too large: the older value is being removed
    kOver,
  };
  // Where the memory of the chunks is accounted.
  enum class Memory : std::uint8_t {
    kWindow,   // the ledger; a chunk's share comes back when L2 has it
    kRoom,     // L1's room, reserved whole
    kGrowing,  // L1's room, made larger chunk by chunk: unknown size, no L2
  };

  // Admission.
  void start_kept();
  void start_with(l1::Room room);
  void start_growing();
  void wait_for_window();
  void receive();
  // Credit.
  void grant();
  bool grant_next();
  bool take_memory(std::uint64_t index, std::uint64_t bytes);
  bool take_share(std::uint64_t index, std::uint64_t bytes);
  void keep_growing(std::uint64_t bytes);
  bool grow_room(std::uint64_t value_bytes);
  std::uint64_t next_credit() const;
  void overflow();
  // Chunks.
  void finish_chunk(proto::ChunkDigest sent);
  void store_chunk(base::ChunkPtr chunk);
  void write(std::uint64_t index, base::ChunkPtr chunk);
  void written(std::uint64_t index, const Result<void>& result);
  void renew();
  // The end.
  void commit();
  void commit_in_l1();
  void commit_through_l2();
  base::ValuePtr take_kept();
  void finish(const Result<proto::Stored>& result);
  void refuse(Error error);
  void fail(const Error& error);
  void stop_receiving();
  void drop();
  void release_memory();
  void abandon_chunks();

  bool size_known() const { return declared_ != proto::kUnknownSize; }
  bool small_so_far() const;
  proto::Stored stored(std::uint32_t flags) const;

  const std::shared_ptr<Worker> worker_;
  l2::Store* store_;  // null without L2, and of what goes to L1 alone
  std::optional<Error> l1_only_because_;
  const Key key_;
  const base::Condition condition_;
  const std::uint64_t declared_;
  PutSink* sink_;         // null once it was answered, or has left
  base::ValueMeta meta_;  // its size is what has arrived, until the end
  State state_ = State::kAdmission;

  Memory memory_ = Memory::kWindow;
  std::shared_ptr<base::Ledger::Ticket> ticket_;
  base::Reservation spare_;
  std::uint64_t minimum_bytes_ = 0;  // of the window
  std::uint64_t minimum_chunks_ = 2;
  std::deque<std::pair<std::uint64_t, base::Reservation>> shares_;  // by index of chunk
  l1::Room room_;
  bool keep_ = false;  // for L1

  std::uint64_t credited_bytes_ = 0;  // for which there is memory
  std::uint64_t credited_chunks_ = 0;
  std::uint64_t released_chunks_ = 0;  // of them, whose buffer is free again
  // One byte of credit without memory was granted, so that a writer that has more says so; why that
  // can't be stored.
  std::optional<Error> past_credit_;

  std::shared_ptr<base::Chunk> chunk_;  // being filled
  std::size_t filled_ = 0;
  proto::ChunkHasher chunk_hasher_;
  proto::ValueHasher value_hasher_;
  std::uint64_t chunk_count_ = 0;          // complete ones
  std::vector<base::ChunkPtr> kept_;       // for L1
  std::vector<base::ChunkPtr> held_back_;  // may yet be inline in the manifest
  std::uint64_t writes_in_flight_ = 0;
  bool any_written_ = false;
  base::Loop::TimerId renewal_ = base::Loop::TimerId::kNone;
  Worker::Job job_;
};

}  // namespace cistern::service
