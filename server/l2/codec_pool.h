// The threads that compress and decode chunks for all workers, and the memory that it takes.
//
// Their number is fixed, and so is what they may hold (CodecMemory): a job waits in the queue of
// its kind until a thread and memory are there. A frame's memory comes back when L2 has it or
// refuses it, for which L2 has deadlines; that of a chunk that is decoded when it is decoded.
// Nobody waits while holding what another one waits for. Between the two kinds the threads take
// turns. They have a lower priority than the workers, which must never wait for a core because of
// them.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "codec/zstd.h"
#include "server/base/ledger.h"
#include "server/base/loop.h"
#include "server/l2/codec_options.h"
#include "server/l2/store.h"

namespace cistern::l2 {

class CodecPool {
 public:
  enum class Kind : std::uint8_t { kEncode, kDecode };
  static constexpr std::size_t kKinds = 2;

  // Memory of one job; given back when it goes. Any thread.
  class Room {
   public:
    Room() = default;
    Room(Room&& other) noexcept;
    Room& operator=(Room&& other) noexcept;
    ~Room() { release(); }
    void release();
    void shrink_to(std::uint64_t bytes);
    std::uint64_t bytes() const { return held_.bytes(); }

   private:
    friend class CodecPool;
    Room(CodecPool* pool, Kind kind, base::Reservation held)
        : pool_(pool), kind_(kind), held_(std::move(held)) {}
    CodecPool* pool_ = nullptr;
    Kind kind_ = Kind::kEncode;
    base::Reservation held_;
  };

  // Made and read by its owner on `loop`; in between it is the pool's.
  struct Job {
    enum class Outcome : std::uint8_t {
      kDone,
      kRefused,   // kEncode: doesn't shrink enough
      kFault,     // kDecode
      kNoMemory,  // the system has none
    };
    Kind kind = Kind::kEncode;
    bool sample = false;  // of kEncode: only where samples, and the whole, shrink enough
    StoredChunk chunk;    // afterwards the result; what it was, unless kDone
    const void* owner = nullptr;
    base::Loop* loop = nullptr;
    std::function<void()> done;  // on `loop`, later, unless cancelled
    // Afterwards.
    Outcome outcome = Outcome::kDone;
    codec::Fault fault{};
    Room room;  // of kEncode: the frame's

   private:
    friend class CodecPool;
    bool cancelled_ = false;  // its loop's alone
    bool queued_ = false;
    std::list<std::shared_ptr<Job>>::iterator place_;
  };
  using JobPtr = std::shared_ptr<Job>;

  // `ledger`'s codec account has room for all of `memory`. Both outlive it.
  CodecPool(const CodecOptions& options, const CodecMemory& memory, base::Ledger& ledger);
  // No owner has a job any more.
  ~CodecPool();
  CodecPool(const CodecPool&) = delete;
  CodecPool& operator=(const CodecPool&) = delete;

  // False when too many wait already.
  bool submit(const JobPtr& job);
  // `done` isn't called any more. On the job's loop.
  void cancel(const JobPtr& job);
  // Waits until nothing of this owner's runs or is on its way to its loop; what it has must be
  // cancelled. A few milliseconds at most.
  void wait_for(const void* owner);

  const CodecOptions& options() const { return options_; }
  const CodecMemory& memory() const { return memory_; }
  // Whether a chunk of this raw size can ever be decoded.
  bool could_decode(std::uint64_t raw_bytes) const;

  struct Stats {
    std::array<std::uint64_t, kKinds> queued{};
    std::array<base::Duration, kKinds> busy{};  // of all threads together
    std::uint64_t context_bytes = 0;            // as they are
  };
  Stats stats() const;

  // Jobs of one kind that wait at most. Uploads have a few chunks each in hand, reads as many as
  // memory.limit lets be in flight.
  static constexpr std::size_t kMaxQueued = 4096;

 private:
  struct Thread {
    explicit Thread(const CodecOptions& options);
    std::optional<codec::Encoder> encoder;  // none with Packing::kNone
    codec::Decoder decoder;
    std::thread thread;
    const void* owner = nullptr;  // of the job that it has
    std::atomic<std::uint64_t> context_bytes{0};
    std::array<std::atomic<std::int64_t>, kKinds> busy_ns{};
  };

  void run(Thread& self, unsigned index);
  JobPtr next();
  Room take_room(const Job& job);
  void give_back(Kind kind, std::uint64_t bytes);
  void encode(Job& job, codec::Encoder& encoder) const;
  void decode(Job& job, codec::Decoder& decoder) const;

  const CodecOptions options_;
  const CodecMemory memory_;
  base::Ledger& ledger_;
  const base::Reservation contexts_;

  mutable std::mutex mutex_;
  std::condition_variable work_;
  std::condition_variable over_;
  std::array<std::list<JobPtr>, kKinds> queues_;
  std::array<std::uint64_t, kKinds> used_{};
  Kind turn_ = Kind::kDecode;
  bool stopping_ = false;
  std::vector<std::unique_ptr<Thread>> threads_;
};

}  // namespace cistern::l2
