// The question to L2 whether what L1 has of a key is still what L2 has: one at a time for a key,
// for all who want to know meanwhile.
//
// The same version and expiry prove the entry as of when the question was sent. The same version
// with another expiry sets that. Anything else takes the entry out of L1: who looks again finds a
// miss.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "server/service/worker.h"

namespace cistern::service {

class Proof;

// One for the process; any thread.
class Proofs {
 public:
  Proofs();
  ~Proofs();

  // Called once, later, on the loop of who waits: empty when L1 is to be looked at again.
  using Done = std::function<void(std::optional<Error> why_not)>;
  // Destroying it ends the wait. To be destroyed on its loop's thread.
  class Waiter;

  // `version` is what L1 has. No longer than `patience`; an error at once when L2 can't be asked,
  // or has not answered others for Options::revalidate_timeout. `worker`'s loop.
  Result<std::shared_ptr<Waiter>> ask(const std::shared_ptr<Worker>& worker, const Key& key,
                                      base::Version version, Duration patience, Done done);
  // The same for nobody: a key in use that will have to be proven soon. Left out when enough of
  // these are under way.
  void ask_ahead(const std::shared_ptr<Worker>& worker, Bytes key, std::uint64_t hash,
                 base::Version version);

  std::size_t size() const;  // questions under way that may be joined

 private:
  friend class Proof;
  struct Shard {
    mutable std::mutex mutex;
    struct Place {
      const Proof* proof = nullptr;
      std::weak_ptr<Proof> owner;
    };
    std::unordered_map<std::uint64_t, Place> places;  // by the key's hash
  };
  static constexpr std::size_t kShards = 16;
  // A hot key costs one each time that a bound passes; these are small.
  static constexpr unsigned kMostAhead = 256;

  Shard& shard_of(std::uint64_t hash) { return shards_[(hash >> 32) % kShards]; }
  std::shared_ptr<Proof> join_or_make(const std::shared_ptr<Worker>& worker, const Key& key,
                                      base::Version version, bool& is_new);
  void over(const Proof& proof);

  std::array<Shard, kShards> shards_;
  std::atomic<unsigned> ahead_{0};
};

// A request's wait for the proof of what L1 has, in as many questions as it takes within
// Options::revalidate_timeout of the first.
class Doubt {
 public:
  explicit Doubt(const std::shared_ptr<Worker>& worker) : worker_(worker) {}

  // As Proofs::ask; the error is returned when there is nothing, or no time, to wait for.
  std::optional<Error> ask(const Key& key, base::Version version, Proofs::Done done);
  void leave() { waiter_.reset(); }

 private:
  const std::shared_ptr<Worker> worker_;
  std::optional<base::TimePoint> until_;
  std::shared_ptr<Proofs::Waiter> waiter_;
};

// Why what L1 has isn't served, or what a degraded answer is for, when `cause` kept L2 from being
// asked.
Error too_stale(const Freshness& freshness, Duration age, const Error& cause);

}  // namespace cistern::service
