// One transfer of a value's chunks from L2 that any number of readers follow, each at its own pace.
//
// A fill belongs to nobody: it runs on the loop of the worker where it began, readers on any worker
// follow it, and whoever came first may leave. There are two kinds:
//
//   kept     reads the whole value into a room of L1, at L2's pace and not at its readers': the
//            room is a part of L1's budget that nobody else can use meanwhile. When all is there
//            and verified it is published, if THE RULE (write_gate.h) allows; from then on its
//            readers have it in memory as any other reader of L1. One that may not be published,
//            or finds no place, is held for them as an evicted value is, or they go on from L2.
//   passing  shows a window of the value, which moves with its readers. The one that is furthest
//            sets the pace. When it waits and the window can't grow, the fill waits for the others
//            for Options::fill_patience, then lets go of those who lag: they go on together in
//            another passing fill that is about where they are, or in a new one, where each has its
//            place from that moment on, so that none of them runs away from the others. A stalled
//            one gives its window back while others wait for memory, and is admitted anew when it
//            is asked again.
//
// A fill that nobody follows is dropped, unless it is kept, may be published and has at most
// Options::fill_finish_percent of the value to go.
//
// What a chunk takes is charged once, however many readers show it: until it is let go of by the
// window and by the last segment that is on its way to a socket.
#pragma once

#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "server/service/stream_reader.h"

namespace cistern::service {

class Flight;

class Fill : public std::enable_shared_from_this<Fill> {
 public:
  // A reader's place. Made, moved and destroyed by its reader's thread; between attach() and
  // leave() its fields are the fill's.
  struct Follower {
    base::Loop* loop = nullptr;
    std::shared_ptr<Waker> waker;
    std::uint64_t position = 0;  // the chunk that it is in: it has finished with those before
    std::uint64_t next = 0;      // the first that it has not taken; position or the one after
    std::uint64_t end = 0;
    bool waiting = false;
    bool let_go = false;
    bool is_stand_in = false;  // its reader has not come yet
    // Of one that was let go of: its place elsewhere, until it comes for it.
    std::unique_ptr<ChunkSource> stand_in;
    const Reading* reading = nullptr;
    std::list<Follower*>::iterator place;
  };

  struct Kept {
    l1::Room room;
    base::TimePoint asked_at;  // when L2 was asked for the manifest
  };
  // `worker`'s loop, as are begin() and all that is not said to be for any thread. `flight` is what
  // leads new readers here; it has the token by which a kept one is published. With Form::kStored,
  // which is for one that isn't kept, compressed chunks are shown as they lie in L2.
  Fill(Worker& worker, std::shared_ptr<const Key> key, std::shared_ptr<const base::ValueMeta> meta,
       std::shared_ptr<Flight> flight, std::optional<Kept> kept, std::uint64_t first,
       l2::Form form = l2::Form::kRaw);
  ~Fill();
  Fill(const Fill&) = delete;
  Fill& operator=(const Fill&) = delete;

  // Once. A passing one waits for its admission, at once or when somebody asks for a chunk.
  enum class Admission : std::uint8_t { kNow, kOnDemand };
  void begin(Admission admission = Admission::kNow);
  bool keeps() const { return keeps_; }

  // ---- Any thread; a follower's calls on its own loop.

  // False when the fill is over, or doesn't have the follower's position soon: within its window,
  // or for a stand-in, which has time, within what that may grow to.
  bool attach(Follower& follower);
  void leave(Follower& follower);
  // As ChunkSource::take() and passed().
  Taken take(Follower& follower, std::uint64_t index);
  void passed(Follower& follower, std::uint64_t index);
  // Whether take() may yield something: false before the admission of a passing one, which wakes
  // the follower.
  bool opened(Follower& follower);
  // Where a follower goes on that was let go of; null when that isn't known.
  std::unique_ptr<ChunkSource> stand_in_of(Follower& follower);
  // Null, or constant from then on.
  const Error* error() const;
  // The value that a kept one has become; null before that.
  base::ValuePtr value() const;

  const Key& key() const { return *key_; }
  const base::ValueMeta& meta() const { return *meta_; }

 private:
  struct Shown;
  struct Slot {
    std::shared_ptr<const Shown> shown{};  // null: not yet there
    base::Reservation share{};             // until then, of a passing one
  };
  // What is to be let go of once the lock is free: the end of the last share takes it again.
  using Dropped = std::vector<std::shared_ptr<const Shown>>;
  using Wakes = std::vector<std::pair<base::Loop*, std::shared_ptr<Waker>>>;

  base::Account account() const {
    return flight_began_ ? base::Account::kFills : base::Account::kReaders;
  }
  // What happens after followers have moved, come or gone. From a follower's thread.
  void prod(const base::Loop& from);
  // The owner's loop, all below but where it says that any thread may call.
  void tend();
  void fetch();
  void arrived(std::uint64_t index, Result<l2::StoredChunk> chunk);
  void fail(Error error);
  void end_if_unused();
  void close();
  void renew();
  void wake(Wakes wakes);

  // fill_kept.cc
  void complete();
  base::ValuePtr publish(std::vector<base::ChunkPtr> chunks);
  bool worth_finishing() const;

  // fill_window.cc
  void enter_queue();
  void admitted(base::Reservation granted);
  void watch();
  void on_impatient();
  void guide();
  void on_idle();
  void given_back(base::Reservation share);  // any thread

  // With the lock.
  bool over_locked() const { return over_ || error_.has_value(); }
  Slot* slot_at(std::uint64_t index);
  bool has(std::uint64_t index);
  std::uint64_t wanted_end() const;
  std::uint64_t lead() const;
  std::uint64_t last_position(bool with_let_go) const;
  bool may_fetch();
  bool take_share();
  bool starving() const;
  bool idle() const;
  void drop_passed(Dropped& dropped);
  void drop_all(Dropped& dropped);
  // What of `dropped` is still shown elsewhere, on its way to sockets, and so keeps a part of the
  // room of a kept fill.
  static std::uint64_t shown_elsewhere(const Dropped& dropped);
  bool let_go_before(std::uint64_t until, Dropped& dropped);
  void collect(Wakes& wakes);

  const std::shared_ptr<const Key> key_;
  const std::shared_ptr<const base::ValueMeta> meta_;
  base::Ledger& ledger_;
  base::Loop& loop_;
  const bool keeps_;
  const bool flight_began_;  // else a reader that goes on by itself
  const base::TimePoint asked_at_;

  mutable std::mutex mutex_;
  std::list<Follower*> followers_;
  std::deque<Slot> slots_;  // of [base_, next_fetch_)
  std::uint64_t base_;
  std::uint64_t next_fetch_;
  std::uint64_t arrived_ = 0;
  unsigned in_flight_ = 0;
  unsigned width_ = 1;  // chunks in flight, and ahead of the leading reader, at most
  const l2::Form form_;
  bool open_;  // has its memory
  bool over_ = false;
  bool prodded_ = false;        // tend() is posted
  std::uint64_t progress_ = 0;  // chunks taken
  std::shared_ptr<l1::Room> room_;
  base::Reservation spare_;          // of the window, and in no slot
  std::uint64_t minimum_bytes_ = 0;  // granted at the admission; kept while there is more to read
  std::uint64_t out_bytes_ = 0;      // in slots and shown
  base::ValuePtr value_;
  std::optional<Error> error_;

  // The owner's loop alone.
  Worker& worker_;
  std::shared_ptr<Flight> flight_;
  std::unordered_map<std::uint64_t, l2::Store::ReadId> reads_;  // by index
  std::shared_ptr<base::Ledger::Ticket> ticket_;
  base::Loop::TimerId renewal_ = base::Loop::TimerId::kNone;
  base::Loop::TimerId impatience_ = base::Loop::TimerId::kNone;
  base::Loop::TimerId idleness_ = base::Loop::TimerId::kNone;
  std::uint64_t progress_seen_ = 0;
  Worker::Work work_{};
};

// Passing fills that run, by version, for who comes to where one of them is. Any thread.
class Passing {
 public:
  // A place for this reading in one of its version, or in a new one of `owner`'s that is still to
  // be begun: two who come at once share it.
  struct Found {
    std::unique_ptr<ChunkSource> source;
    std::shared_ptr<Fill> made;  // null, or the new one
  };
  Found find_or_make(const Reading& reading, Worker& owner, bool is_stand_in = false);
  void add(const std::shared_ptr<Fill>& fill);
  void remove(const Fill& fill);
  std::size_t size() const;

 private:
  mutable std::mutex mutex_;
  std::unordered_multimap<base::Version, std::weak_ptr<Fill>> fills_;
};

// What a passing fill waits for at its admission, beginning at `first`: two chunks as allocated, or
// all when they take less.
std::uint64_t window_bytes(const base::ValueMeta& meta, std::uint64_t first, std::uint64_t end);

// How far from the beginning of a passing fill's window one may begin to follow it, and how many
// chunks the window may show to several readers, as long as transfers have plenty of memory:
// readers that share a thread take turns of half a chunk, so that the last of a crowd is some
// chunks behind the first.
inline constexpr std::uint64_t kMostShown = 16;

// A place in `fill` for this reading; null when it can't be joined.
std::unique_ptr<ChunkSource> follow(const std::shared_ptr<Fill>& fill, const Reading& reading,
                                    bool is_stand_in = false);

// The chunks of this reading from L2: from a passing fill that is about there, or a new one, which
// waits for its admission. Fails with kEvicted when there is no L2 that has the chunks by
// themselves.
std::unique_ptr<ChunkSource> source_in_l2(Reading reading);

// The same from a fill of its own, which nobody else follows, and in which compressed chunks are
// shown as they lie in L2. There is one, and the value isn't inline in it.
std::unique_ptr<ChunkSource> compressed_source_in_l2(const Reading& reading);

}  // namespace cistern::service
