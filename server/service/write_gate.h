// The order of writes of one key, what its misses share, and the rule by which a miss may publish
// what it has read.
//
// With an L2 a write of a key (PUT, DELETE, TOUCH) holds the key's turn from before its commit
// until L1 is published, or two PUTs could commit in one order and publish in the other. Turns of
// one key are granted first come first served, across all workers; no lock is held meanwhile.
//
// Every change of L1 runs under the gate's lock of its key, in change() or publish_if_allowed(),
// and so never beside another one of that key. Without an L2 that is all: a write is one change,
// and no turn is taken.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "server/base/loop.h"
#include "server/base/types.h"
#include "server/service/absent_keys.h"

namespace cistern::service {

class Flight;

class WriteGate {
  struct Entry;
  struct Shard;

 public:
  // The right to write one key. Given up when it goes out of scope. Movable; any thread.
  class Turn {
   public:
    Turn() = default;
    Turn(Turn&& other) noexcept;
    Turn& operator=(Turn&& other) noexcept;
    ~Turn() { release(); }
    explicit operator bool() const { return shard_ != nullptr; }
    void release();

   private:
    friend class WriteGate;
    Turn(Shard* shard, Entry* entry) : shard_(shard), entry_(entry) {}
    Shard* shard_ = nullptr;
    Entry* entry_ = nullptr;
  };

  // Taken for a flight of misses before it asks L2; says later whether what it has read may be
  // published.
  // Movable; any thread.
  class MissToken {
   public:
    MissToken() = default;
    MissToken(MissToken&& other) noexcept;
    MissToken& operator=(MissToken&& other) noexcept;
    ~MissToken() { release(); }
    void release();

   private:
    friend class WriteGate;
    Shard* shard_ = nullptr;
    Entry* entry_ = nullptr;
    std::uint64_t writes_begun_ = 0;
    bool write_was_pending_ = false;
  };

  // A place in the queue. Destroying it leaves the queue; a turn that was granted and not yet
  // delivered passes to the next. To be destroyed on its loop's thread.
  class Waiter;
  using Granted = std::function<void(Turn)>;

  // `negative_ttl`: how long a key that L2 doesn't have is remembered; 0: not at all.
  explicit WriteGate(base::Duration negative_ttl = {});
  ~WriteGate();
  WriteGate(const WriteGate&) = delete;
  WriteGate& operator=(const WriteGate&) = delete;

  // `hash` is base::hash_key(key), in every call.

  // Begins a write. When no other write of the key is pending `granted` runs within this call and
  // null is returned; else it runs later, on `loop`. The loop's thread only; `loop` must live as
  // long as any thread uses the gate.
  std::shared_ptr<Waiter> enter(base::Bytes key, std::uint64_t hash, base::Loop& loop,
                                Granted granted);

  // What a GET that L1 could not answer does next.
  struct Boarding {
    enum class Kind : std::uint8_t {
      kInL1,    // looks into L1 again: it has just been published there
      kAbsent,  // L2 said a short while ago that it doesn't have the key
      kJoin,    // joins `flight`; when that refuses, calls retire() and asks again
      kBegin,   // joins `flight`, which is new, and begins it
    };
    Kind kind = Kind::kInL1;
    std::shared_ptr<Flight> flight{};
  };
  // The flight of the key, or a new one, made by `make` with its token; both under the key's lock,
  // so that there is one at a time. `in_l1` says whether L1 has the key now, `trusts` whether what
  // L2 said to a question of that time still holds. None of them may call the gate.
  Boarding board(base::Bytes key, std::uint64_t hash, base::TimePoint now,
                 const std::function<bool()>& in_l1,
                 const std::function<bool(base::TimePoint asked_at)>& trusts,
                 const std::function<std::shared_ptr<Flight>(MissToken)>& make);
  // Nobody is led to this flight any more. `outdated`: and what it has read is not published, since
  // another daemon may have written the key; a newer flight is about to find out.
  void retire(const Flight& flight, base::Bytes key, std::uint64_t hash, bool outdated);

  // For who asks L2 whether what L1 has is still current, before it asks.
  MissToken watch(base::Bytes key, std::uint64_t hash);

  // THE RULE. What a miss has read from L2 is published only if no write of its key was pending
  // (queued or running) when its token was taken, and neither a write nor another
  // change of L1's entry has begun since: else the miss may have read what was there before the
  // write, and would put it in the place of what the write has published. A write "begins" when it
  // joins the queue. An entry whose key has a token stays in the gate, so that none of this can be
  // forgotten meanwhile.
  //
  // And what follows from it:
  // - A write that begins, and every change of L1's entry (publication, removal, invalidation),
  //   detaches the key's flight: nobody is led to it any more. Who has joined it finishes what it
  //   began, one version and whole. Since a write changes L1's entry, or removes it, after its
  //   commit and before it is acknowledged, who asks after that finds no flight that began before.
  // - A flight that begins while a write is pending may be joined meanwhile and is never
  //   published; the write's change detaches it.
  // - That L2 doesn't have a key is remembered by the same rule, and forgotten by every write that
  //   begins and every change.
  // - A flight that was asked before an invalidation of its key arrived (freshness.h), or too long
  //   ago, is retired by who asks after that, as by a write.
  // - A value that has expired is joined by nobody, and L1 serves nothing that has (flight.cc,
  //   cache.h).
  bool may_publish(const MissToken& token) const;

  // `publish` runs under the gate's lock of the key, so that no write can begin between the check
  // and the publication; it must not call the gate. Returns whether it ran.
  template <typename Publish>
  bool publish_if_allowed(const MissToken& token, Publish&& publish) {
    const std::unique_lock<std::mutex> lock = lock_of(token);
    if (!allowed_locked(token)) return false;
    publish();
    note_change_locked(token);
    return true;
  }

  // L2 has said that it doesn't have the key, to a question of `asked_at`; remembered if the rule
  // allows.
  void remember_absent(const MissToken& token, base::TimePoint asked_at);

  // Any other change of L1: what a write publishes or removes, and an entry that is dropped because
  // its copy in L2 is lost or in doubt. Counts as a write for tokens. `apply` runs under the key's
  // lock and must not call the gate.
  template <typename Apply>
  void change(base::Bytes key, std::uint64_t hash, Apply&& apply) {
    const std::unique_lock<std::mutex> lock = lock_for_change(key, hash);
    apply();
  }

  // Keys of which something is known now: none when nobody writes or misses.
  std::size_t entries() const;

 private:
  static constexpr std::size_t kShards = 64;

  Shard& shard_of(std::uint64_t hash) const;
  static void take_token(MissToken& token, Shard& shard, Entry& entry);
  static std::unique_lock<std::mutex> lock_of(const MissToken& token);
  static bool allowed_locked(const MissToken& token);
  static void note_change_locked(const MissToken& token);
  std::unique_lock<std::mutex> lock_for_change(base::Bytes key, std::uint64_t hash);

  const base::Duration negative_ttl_;
  const std::unique_ptr<std::array<Shard, kShards>> shards_;
};

}  // namespace cistern::service
