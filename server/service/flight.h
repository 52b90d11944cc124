// What all misses of one key share: one question to L2 for the manifest, and one fill.
//
// A flight begins with the first miss, on the loop of its worker, and leads whoever asks for the
// key meanwhile to the same fill, as long as that has the value's first byte. It ends with the
// answer where there is no fill. Writes of the key, and changes of L1's entry, detach it: who asks
// afterwards begins a new one (write_gate.h).
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <optional>

#include "server/service/fill.h"

namespace cistern::service {

class Flight : public std::enable_shared_from_this<Flight> {
 public:
  // What a passenger gets: an error (kNotFound among them), an inline value, or its metadata.
  struct Landing {
    std::optional<Error> error{};
    std::shared_ptr<const l2::Manifest> manifest{};
    std::shared_ptr<const base::ValueMeta> meta{};
    // Of a value with chunks, where the passenger has a place in the flight's fill.
    std::optional<Reading> reading{};
    std::unique_ptr<ChunkSource> source{};
  };

  // Who waits for the landing. Made, and destroyed, on its loop's thread; between join() and
  // land() it is the flight's.
  class Passenger {
   public:
    Passenger(std::shared_ptr<Worker> worker, std::shared_ptr<const Key> key,
              const std::optional<proto::Range>& range, std::optional<std::uint64_t> if_changed)
        : worker_(std::move(worker)),
          key_(std::move(key)),
          range_(range),
          if_changed_(if_changed) {}
    virtual ~Passenger() = default;
    // On the passenger's loop, once, unless it has left.
    virtual void land(Landing landing) = 0;

   protected:
    const std::shared_ptr<Worker> worker_;
    const std::shared_ptr<const Key> key_;
    const std::optional<proto::Range> range_;
    const std::optional<std::uint64_t> if_changed_;

   private:
    friend class Flight;
    // What it reads of a value with this metadata; empty when it is answered without chunks.
    std::optional<Reading> reading_of(const base::ValueMeta& meta) const;
    std::weak_ptr<Passenger> self_;
    std::list<Passenger*>::iterator place_;
    bool aboard_ = false;
  };

  Flight(Worker& worker, std::shared_ptr<const Key> key, WriteGate::MissToken token);
  ~Flight();
  Flight(const Flight&) = delete;
  Flight& operator=(const Flight&) = delete;

  // Asks L2; a key that is marked (l1_only.h) is settled first. The loop of the worker that made
  // it, once.
  void begin();

  struct Boarding {
    enum class Kind : std::uint8_t {
      kRefused,  // this flight has no place for it any more
      kAboard,   // it lands later
      kLanded,   // at once, with `landing`; land() isn't called
    };
    Kind kind = Kind::kRefused;
    Landing landing{};
  };
  // Any thread, on the passenger's loop.
  Boarding join(const std::shared_ptr<Passenger>& passenger);
  void leave(Passenger& passenger);

  const WriteGate::MissToken& token() const { return token_; }

 private:
  enum class State : std::uint8_t {
    kAsking,   // L2 for the manifest
    kOpening,  // makes room in L1
    kFilling,
    kOver,
  };

  // The owner's loop, all below.
  void ask();
  bool is_over();
  void on_manifest(Result<std::optional<l2::Manifest>> manifest);
  void on_inline(l2::Manifest manifest);
  void on_chunked(const base::ValueMeta& meta);
  void open(l1::Room room);
  // The flight is over, with this for everybody.
  void land_all(const Landing& landing);
  void end_if_unused();

  bool is_past(const base::Loop& loop) const;  // with the lock
  // Takes all passengers out; with the lock. Then they are landed without it.
  struct Landed {
    std::weak_ptr<Passenger> passenger;
    base::Loop* loop;
    Landing landing;
  };
  std::vector<Landed> disembark(const Landing& landing, const std::shared_ptr<Fill>& fill);
  void deliver(std::vector<Landed> landed);

  const std::shared_ptr<const Key> key_;
  const WriteGate::MissToken token_;
  base::Loop& loop_;
  l1::Cache& cache_;

  std::mutex mutex_;
  State state_ = State::kAsking;
  std::list<Passenger*> passengers_;
  std::shared_ptr<const base::ValueMeta> meta_;  // once it is known
  std::weak_ptr<Fill> fill_;
  base::TimePoint asked_at_;  // written before the flight is filling, read while it is

  Worker& worker_;  // its loop alone, as all below
  Worker::Work work_{};
};

}  // namespace cistern::service
