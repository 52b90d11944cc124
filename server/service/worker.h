// What the operations of one worker share: the tiers, the loop, and the account of what is under
// way.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "server/service/service.h"
#include "server/service/upkeep.h"
#include "server/service/write_gate.h"

namespace cistern::service {

// A key with its hash, owned: an operation that waits outlives the request.
struct Key {
  Key(Bytes bytes, std::uint64_t hash_of_bytes)
      : text(proto::as_text(bytes)), hash(hash_of_bytes) {}
  explicit Key(Bytes bytes) : Key(bytes, base::hash_key(bytes)) {}
  Bytes bytes() const { return proto::as_bytes(text); }

  std::string text;
  std::uint64_t hash;
};

class Worker : public std::enable_shared_from_this<Worker> {
 public:
  Worker(Shared& shared_state, base::Loop& the_loop, l2::Store* the_store,
         base::WorkerMetrics& the_metrics);

  Shared& shared;
  base::Loop& loop;
  l2::Store* const plain_store;                   // null for none
  const std::unique_ptr<l2::Store> noting_store;  // the same, for all that is to be remembered
  l2::Store* const store;                         // that one; null for none
  base::WorkerMetrics& metrics;
  const Options& options;
  l1::Cache& cache;
  base::Ledger& ledger;
  WriteGate& gate;
  Upkeep upkeep;

  // Keeps drain() waiting, and `work` alive, until end_work(). On the loop; the caller must keep
  // the worker, unless it is called by what only runs on its loop.
  using Work = std::list<std::shared_ptr<void>>::iterator;
  Work begin_work(std::shared_ptr<void> work);
  void end_work(Work work);

  // The same, ended when it is destroyed.
  class Job {
   public:
    Job() = default;
    Job(Job&& other) noexcept : worker_(std::move(other.worker_)), place_(other.place_) {}
    Job& operator=(Job&& other) noexcept;
    ~Job() { end(); }
    void end();

   private:
    friend class Worker;
    std::shared_ptr<Worker> worker_;
    Work place_;
  };
  Job begin_job(std::shared_ptr<void> work);
  // The service is gone: what waits is dropped.
  void stop();

  bool draining() const { return draining_; }
  void drain(std::function<void()> idle);
  Error shutting_down() const;
  // Of a transfer that Ledger::wait() refuses.
  Error never_fits(std::uint64_t window_bytes) const;

  // When a value that is written now with this TTL expires; Unix ms, 0: never.
  std::uint64_t expires_at(std::uint64_t ttl_ms) const;
  // How long the chunks of a committed value stay in L2, from now: past its own expiry, so that a
  // reader who began before it can finish; or max_idle.
  Duration chunk_ttl(std::uint64_t expires_at_ms) const;
  // The longest stay in L1 of an entry that L2 has too. Without an expiry of its own it leaves L1
  // early enough for a read to reach L2, and renew it there, before it has lain idle for too long.
  // A random share of its time to live is taken off, up to Options::ttl_jitter; and of max_age
  // what has passed since L2 was asked, at `since`, for what is put into L1 now.
  Duration stay(std::uint64_t expires_at_ms, std::optional<base::TimePoint> since = {}) const;

  // A chunk of this version was missing or corrupt: nobody shall find the value again. Counted by
  // `why`.
  void value_lost(const Key& key, base::Version version, base::Loss why);
  // Keys that are stored in L1 alone were marked: settles them, some at a time, once L2 can be
  // asked.
  void settle_soon();
  // Whatever L1 has under `key` may be older than what L2 has.
  void invalidate(const Key& key);
  // Reads keep a value that has no expiry: raises its chunks to max_idle again, at most once for
  // every quarter of that.
  // Only while `current` says that no write of the key has begun since `meta` was read: the chunks
  // of a replaced value must not be kept for so long.
  void renew_idle(const Key& key, const base::ValueMeta& meta, std::function<bool()> current);
  // That has just been done.
  void note_renewed(base::Version version);

 private:
  void check_idle();
  void settle_some();

  struct Renewed {
    base::Version version = 0;
    base::TimePoint at{};
  };
  static constexpr std::size_t kRenewedSlots = 1024;

  std::list<std::shared_ptr<void>> jobs_;
  bool draining_ = false;
  std::function<void()> idle_;
  // By version; a collision costs one renewal too many. Empty without L2.
  std::vector<Renewed> renewed_;
  mutable std::mt19937_64 jitter_;
  bool settling_ = false;
};

// L2 is out of order: it can't be reached, doesn't answer in time, is too busy, or refuses. What
// l2.on_failure is about.
bool is_l2_failure(Status status);

// The handle of an operation: whoever destroys it leaves.
template <typename Core>
class Handle : public Operation {
 public:
  explicit Handle(std::shared_ptr<Core> core) : core_(std::move(core)) {}
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() override { core_->leave(); }

 private:
  const std::shared_ptr<Core> core_;
};

// The conditions of requests, as the tiers take them.
template <typename Request>
base::Condition condition_of(const Request& request) {
  if constexpr (requires { request.if_absent; }) {
    if (request.if_absent) return {base::Condition::Kind::kIfAbsent, 0};
  }
  if (request.if_version) return {base::Condition::Kind::kIfVersion, *request.if_version};
  return {};
}

}  // namespace cistern::service
