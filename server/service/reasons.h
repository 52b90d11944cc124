// What this daemon remembers of keys beside what L1 does: what was refused, lost or not kept, and
// what L2 could not be asked.
#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <vector>

#include "server/base/loop.h"
#include "server/base/metrics.h"
#include "server/base/reason_table.h"
#include "server/l2/store.h"

namespace cistern::service {

// One for the process; any thread. As base::ReasonTable, in stripes with a lock each.
class Reasons {
 public:
  // At most 512 KiB, of the process' fixed base.
  explicit Reasons(std::uint64_t l1_budget_bytes);

  // `hash` is base::hash_key(key).
  void note(std::uint64_t hash, const base::Event& event);
  base::ReasonTable::Memory recall(std::uint64_t hash) const;

 private:
  struct Stripe {
    explicit Stripe(std::size_t slot_count) : table(slot_count) {}
    mutable std::mutex mutex;
    base::ReasonTable table;
  };
  static constexpr unsigned kStripeBits = 3;

  Stripe& stripe_of(std::uint64_t hash) const { return *stripes_[hash >> (64 - kStripeBits)]; }

  std::array<std::unique_ptr<Stripe>, 1u << kStripeBits> stripes_;
};

// What is to be told of a key, of what L1 remembers and what the service does: the later one; but
// where L1 dropped an entry because of what the service noted just before, that is the reason.
base::ReasonTable::Memory join(const base::ReasonTable::Memory& l1,
                               const base::ReasonTable::Memory& service);

// A store that notes what another one answers: that it can't be asked, that values are lost, that
// keys were removed, and counts the manifests that are lost. All else is passed on. What a PUT was
// refused for is noted where it is answered.
class NotingStore final : public l2::Store {
 public:
  NotingStore(l2::Store& store, Reasons& reasons, base::Loop& loop, base::WorkerMetrics& metrics)
      : store_(store), to_{reasons, loop, metrics} {}

  base::Result<void> available() const override { return store_.available(); }
  base::Result<void> ready() const override { return store_.ready(); }
  void get_manifest(std::string key, l2::Callback<std::optional<l2::Manifest>> done) override;
  void get_stamp(std::string key, l2::Callback<std::optional<l2::Stamp>> done) override {
    store_.get_stamp(std::move(key), std::move(done));
  }
  ReadId read_chunk(const std::string& key, const base::ValueMeta& meta, std::uint64_t index,
                    l2::Form form, l2::Callback<l2::StoredChunk> done) override;
  void cancel_read(ReadId id) override { store_.cancel_read(id); }
  void write_chunk(const std::string& key, base::Version version, std::uint64_t index,
                   l2::StoredChunk chunk, l2::Callback<void> done) override {
    store_.write_chunk(key, version, index, std::move(chunk), std::move(done));
  }
  void expire_chunks(const l2::ChunkSet& set, std::uint64_t first, std::uint64_t last,
                     base::Duration ttl, bool only_longer,
                     l2::Callback<std::uint64_t> done) override {
    store_.expire_chunks(set, first, last, ttl, only_longer, std::move(done));
  }
  void commit(std::string key, const base::Condition& condition, const l2::Manifest& manifest,
              l2::Callback<l2::CommitResult> done) override {
    store_.commit(std::move(key), condition, manifest, std::move(done));
  }
  void remove(std::string key, const base::Condition& condition,
              l2::Callback<l2::CommitResult> done) override;
  void discard(std::string key, base::Version version) override;
  void close(std::function<void()> closed) override { store_.close(std::move(closed)); }

  // What a callback holds of it: the store may answer when the worker, and this, are gone.
  struct To {
    Reasons& reasons;
    base::Loop& loop;
    base::WorkerMetrics& metrics;
  };

 private:
  l2::Store& store_;
  const To to_;
};

}  // namespace cistern::service
