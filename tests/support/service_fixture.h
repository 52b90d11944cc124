// A vocabulary for tests of the service: two workers over one L1, with a second tier in this
// process or none, clients that send and read when the test says so, and time in the test's hands.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "server/service/fill.h"
#include "server/service/proof.h"
#include "server/service/service.h"
#include "server/service/write_gate.h"
#include "tests/support/manual_loop.h"
#include "tests/support/memory_store.h"

namespace cistern::testing {

using base::Status;
using proto::kKiB;
using proto::kMiB;

inline constexpr std::uint32_t kChunk = 64 * kKiB;

inline std::string text_of(std::uint64_t seed, std::size_t size) {
  std::string text(size, '\0');
  for (char& c : text) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    c = static_cast<char>(seed >> 56);
  }
  return text;
}

inline proto::ValueDigest digest_of(std::string_view text, std::uint32_t chunk_bytes = kChunk) {
  proto::ValueHasher hasher;
  for (std::size_t at = 0; at < text.size(); at += chunk_bytes) {
    hasher.add(proto::chunk_digest(proto::as_bytes(text.substr(at, chunk_bytes))));
  }
  return hasher.finish(chunk_bytes, text.size());
}

// A client's GET. Bytes that it pulled are "on their way to the socket" until sent().
struct Getter : service::GetSink {
  std::string bytes;
  std::optional<proto::Error> error;
  std::optional<base::ValueMeta> meta;
  std::optional<proto::Range> cover;
  std::uint32_t flags = 0;
  bool small = false, ended = false, ready = false;
  std::optional<base::Duration> age;  // of a degraded answer
  std::unique_ptr<service::Reader> reader;
  service::OperationPtr operation;
  std::vector<std::shared_ptr<const void>> owners;
  std::function<void()> on_outcome;  // within the sink's call

  void on_small(const l1::SmallView& view, std::uint32_t the_flags) override {
    small = ended = true;
    flags = the_flags;
    bytes = proto::as_text(view.bytes);
    meta.emplace();
    meta->size = view.size;
    meta->version = view.version;
    meta->expires_at_ms = view.expires_at_ms;
    meta->metadata = proto::as_text(view.metadata);
    EXPECT_EQ(view.digest, proto::chunk_digest(view.bytes));
    if (on_outcome) on_outcome();
  }
  void on_value(const base::ValueMeta& the_meta, std::optional<proto::Range> the_cover,
                std::uint32_t the_flags, std::unique_ptr<service::Reader> the_reader) override {
    meta = the_meta;
    cover = the_cover;
    flags = the_flags;
    reader = std::move(the_reader);
    reader->on_ready([this] { ready = true; });
    if (on_outcome) on_outcome();
  }
  void on_degraded(base::Duration the_age) override { age = the_age; }
  void on_failed(const proto::Error& the_error) override {
    error = the_error;
    if (on_outcome) on_outcome();
  }

  bool answered() const { return ended || error || reader; }
  Status status() const { return error ? error->status : Status::kOk; }

  // Takes up to `most` bytes, as far as they are there.
  void pull(std::size_t most = ~std::size_t{0}, std::size_t frame_bytes = 48 * kKiB) {
    while (reader && !ended && !error && most > 0) {
      proto::Piece piece = reader->next(std::min(most, frame_bytes));
      switch (piece.kind) {
        case proto::Piece::Kind::kWait:
          return;
        case proto::Piece::Kind::kBytes:
          bytes.append(reinterpret_cast<const char*>(piece.bytes.data), piece.bytes.size);
          owners.push_back(std::move(piece.bytes.owner));
          most -= piece.bytes.size;
          break;
        case proto::Piece::Kind::kEnd:
          ended = true;
          EXPECT_EQ(piece.end.size, meta->size);
          if (!cover) {
            EXPECT_EQ(piece.end.digest, digest_of(bytes, meta->chunk_bytes));
          }
          break;
        case proto::Piece::Kind::kFailed:
          error = piece.error;
          break;
      }
    }
  }
  void sent() { owners.clear(); }
  void leave() {
    operation.reset();
    reader.reset();
    sent();
  }
};

// A client's PUT.
struct Putter : service::PutSink {
  std::string text;
  std::uint64_t credit = 0;
  std::size_t sent = 0;
  bool ended = false;
  std::optional<proto::Stored> stored;
  std::optional<proto::Error> error;
  std::unique_ptr<service::Upload> upload;
  service::OperationPtr operation;
  std::function<void()> on_outcome;

  void on_credit(std::uint32_t bytes) override { credit += bytes; }
  void on_stored(const proto::Stored& the_stored) override {
    stored = the_stored;
    if (on_outcome) on_outcome();
  }
  void on_failed(const proto::Error& the_error) override {
    error = the_error;
    if (on_outcome) on_outcome();
  }
  bool answered() const { return stored || error; }
  Status status() const { return error ? error->status : Status::kOk; }

  // Sends what there is credit for; false when nothing was.
  bool send(std::size_t most = ~std::size_t{0}, bool spoil = false) {
    bool any = false;
    while (!error && sent < text.size() && credit > 0 && most > 0) {
      const std::size_t chunk_end =
          std::min<std::size_t>((sent / kChunk + 1) * kChunk, text.size());
      const std::size_t size = std::min<std::size_t>({chunk_end - sent, credit, most, 48 * kKiB});
      credit -= size;
      most -= size;
      any = true;
      const base::MutableBytes target = upload->target(size);
      if (target.size() != size) return any;
      std::copy_n(proto::as_bytes(text).begin() + static_cast<std::ptrdiff_t>(sent), size,
                  target.begin());
      sent += size;
      std::optional<proto::ChunkDigest> end;
      if (sent == chunk_end) {
        const std::size_t begin = (sent - 1) / kChunk * kChunk;
        end = proto::chunk_digest(proto::as_bytes(text).subspan(begin, sent - begin));
        if (spoil) *end ^= 1;
      }
      upload->done(size, end);
    }
    return any;
  }
  void end() {
    if (!std::exchange(ended, true)) upload->end({digest_of(text), text.size()});
  }
  void leave() {
    operation.reset();
    upload.reset();
  }
};

struct ServiceSetup {
  bool with_l2 = true;
  std::uint64_t l1_bytes = 8 * kMiB;
  std::uint64_t transfer_bytes = 4 * kMiB;
  std::uint64_t held_bytes = 2 * kMiB;
  std::uint64_t l2_buffer_bytes = kMiB;
  std::uint64_t max_value_bytes = 64 * kMiB;
  std::uint32_t chunk_bytes = kChunk;
  base::Duration max_age{0};
  base::Duration negative_ttl{0};
  double ttl_jitter = 0;
  bool miss_on_failure = false;
  bool l1_only_on_failure = false;
  service::FreshnessOptions freshness{};
  // Of the second tier's word on other daemons' writes; none without.
  std::size_t mark_slots = 0;
};

class Workers {
 public:
  explicit Workers(const ServiceSetup& setup = {})
      : ledger_({.limit = 0,
                 .l1 = setup.l1_bytes,
                 .transfers = setup.transfer_bytes,
                 .held = setup.held_bytes,
                 .connections = 0,
                 .l2_buffers = setup.l2_buffer_bytes}),
        cache_({.budget_bytes = setup.l1_bytes, .max_age = setup.max_age, .shards = 1}, ledger_),
        invalidations_(setup.mark_slots == 0
                           ? nullptr
                           : std::make_unique<l2::Invalidations>(setup.mark_slots)),
        shared_(options(setup), cache_, ledger_, invalidations_.get()) {
    for (std::size_t i = 0; i < kWorkers; ++i) {
      if (setup.with_l2) {
        stores_[i] = std::make_unique<MemoryStore>(l2_, loops_[i], shared_.options.provisional_ttl);
      }
      services_[i] =
          std::make_unique<service::Service>(shared_, loops_[i], stores_[i].get(), metrics_[i]);
    }
  }
  // At the end of every test nothing is reserved, and no key is remembered, for anybody.
  ~Workers() {
    settle();
    EXPECT_EQ(ledger_.transferring(), 0u);
    EXPECT_EQ(ledger_.used(base::Account::kHeld), 0u);
    EXPECT_EQ(ledger_.used(base::Account::kL2Buffers), 0u);
    EXPECT_EQ(ledger_.waiting(), 0u);
    EXPECT_EQ(cache_.stats().reserved_bytes, 0u);
    EXPECT_EQ(shared_.gate->entries(), 0u);
    EXPECT_EQ(shared_.passing->size(), 0u);
    EXPECT_EQ(shared_.proofs->size(), 0u);
    const l1::Stats stats = cache_.stats();
    std::uint64_t removed = 0;
    for (const std::uint64_t each : stats.removed) removed += each;
    EXPECT_EQ(stats.inserted_by_put + stats.inserted_by_fill, stats.items + removed);
  }

  static service::Options options(const ServiceSetup& setup) {
    service::Options options;
    options.max_value_bytes = setup.max_value_bytes;
    options.chunk_bytes = setup.chunk_bytes;
    options.max_idle = std::chrono::hours(24);
    options.provisional_ttl = std::chrono::minutes(10);
    options.replace_grace = std::chrono::minutes(1);
    options.prefetch_chunks = 4;
    options.negative_ttl = setup.negative_ttl;
    options.ttl_jitter = setup.ttl_jitter;
    options.miss_on_failure = setup.miss_on_failure;
    options.l1_only_on_failure = setup.l1_only_on_failure;
    options.freshness = setup.freshness;
    return options;
  }

  // Until nothing is left to do, but on a loop that stands still.
  void settle() {
    for (std::size_t ran = 1; ran > 0;) {
      ran = 0;
      for (std::size_t i = 0; i < kWorkers; ++i) ran += still_[i] ? 0 : loops_[i].run_posted();
    }
  }
  // Time passes, on all of them.
  void advance(base::Duration duration) {
    settle();
    for (std::size_t i = 0; i < kWorkers; ++i) {
      if (still_[i]) {
        loops_[i].skip(duration);
      } else {
        loops_[i].advance(duration);
      }
    }
    settle();
  }
  void stand_still(std::size_t worker, bool still) { still_[worker] = still; }

  ManualLoop& loop(std::size_t worker = 0) { return loops_[worker]; }
  MemoryL2& l2() { return l2_; }
  l2::Invalidations& invalidations() { return *invalidations_; }
  MemoryStore& store(std::size_t worker = 0) { return *stores_[worker]; }
  service::Service& service(std::size_t worker = 0) { return *services_[worker]; }
  service::Shared& shared() { return shared_; }
  base::Ledger& ledger() { return ledger_; }
  l1::Cache& cache() { return cache_; }
  base::WorkerMetrics& metrics(std::size_t worker = 0) { return metrics_[worker]; }

  // ---- Requests. Each runs as far as it can without the store's and the client's next step.
  std::unique_ptr<Getter> get(const std::string& key, proto::GetRequest request = {},
                              std::size_t worker = 0) {
    auto getter = std::make_unique<Getter>();
    request.key = proto::as_bytes(key);
    getter->operation = service(worker).get(request, *getter);
    return getter;
  }
  // GET to its end.
  std::unique_ptr<Getter> read(const std::string& key, proto::GetRequest request = {},
                               std::size_t worker = 0) {
    auto getter = get(key, request, worker);
    finish(*getter);
    return getter;
  }
  void finish(Getter& getter) {
    for (int turn = 0; turn < 10000 && !getter.ended && !getter.error; ++turn) {
      settle();
      getter.pull();
      getter.sent();
    }
  }

  std::unique_ptr<Putter> open(const std::string& key, std::string text,
                               proto::PutRequest request = {}, bool size_known = true,
                               std::size_t worker = 0) {
    auto putter = std::make_unique<Putter>();
    request.key = proto::as_bytes(key);
    request.size = size_known ? text.size() : proto::kUnknownSize;
    putter->text = std::move(text);
    putter->upload = service(worker).open_put(request, *putter);
    return putter;
  }
  // Sends as much as there is credit for, and the end after all of it; the outcome may be yet to
  // come.
  void send_all(Putter& putter) {
    for (int turn = 0; turn < 10000 && !putter.answered(); ++turn) {
      settle();
      if (putter.answered() || (!putter.send() && putter.sent == putter.text.size())) break;
    }
    if (!putter.answered() && putter.upload && putter.sent == putter.text.size()) putter.end();
  }
  std::unique_ptr<Putter> stream(const std::string& key, std::string text,
                                 const proto::PutRequest& request = {}, bool size_known = true,
                                 std::size_t worker = 0) {
    auto putter = open(key, std::move(text), request, size_known, worker);
    send_all(*putter);
    settle();
    return putter;
  }
  std::unique_ptr<Putter> put_inline(const std::string& key, std::string text,
                                     proto::PutRequest request = {}, std::size_t worker = 0) {
    auto putter = std::make_unique<Putter>();
    putter->text = std::move(text);
    request.key = proto::as_bytes(key);
    request.size = putter->text.size();
    request.is_inline = true;
    request.inline_bytes = proto::as_bytes(putter->text);
    request.inline_digest = digest_of(putter->text, shared_.options.chunk_bytes);
    putter->operation = service(worker).put_inline(request, *putter);
    return putter;
  }
  // By whichever way the size calls for; waits.
  std::unique_ptr<Putter> put(const std::string& key, const std::string& text,
                              const proto::PutRequest& request = {}, std::size_t worker = 0) {
    if (text.size() > proto::kMaxInlineBytes) return stream(key, text, request, true, worker);
    auto putter = put_inline(key, text, request, worker);
    settle();
    return putter;
  }
  Status remove(const std::string& key, std::optional<std::uint64_t> if_version = {},
                std::size_t worker = 0) {
    Status status = Status::kInternal;
    const auto operation = service(worker).remove(
        {proto::as_bytes(key), if_version}, [&](const proto::Result<proto::Done>& done) {
          status = done ? Status::kOk : done.error().status;
        });
    settle();
    return status;
  }
  proto::Result<proto::Done> touch(const std::string& key, std::uint64_t ttl_ms,
                                   std::optional<std::uint64_t> if_version = {}) {
    proto::Result<proto::Done> result = base::fail(Status::kInternal, "unanswered");
    const auto operation =
        service().touch({proto::as_bytes(key), ttl_ms, if_version},
                        [&](const proto::Result<proto::Done>& done) { result = done; });
    settle();
    return result;
  }
  nlohmann::json explain(const std::string& key, std::size_t worker = 0) {
    std::string json;
    const auto operation = service(worker).explain(
        {proto::as_bytes(key), {}},
        [&](const proto::Result<std::string>& result) { json = result.value(); });
    settle();
    EXPECT_LE(json.size(), proto::kMaxExplanationBytes);
    return nlohmann::json::parse(json);
  }
  // Leaves what L2 has, and nothing in L1.
  void forget_in_l1(const std::string& key) {
    const base::Bytes bytes = proto::as_bytes(key);
    cache_.erase(bytes, base::hash_key(bytes), {}, l1::Removal::kEvicted, loops_[0].now());
  }
  bool in_l1(const std::string& key) const {
    const base::Bytes bytes = proto::as_bytes(key);
    return cache_.peek(bytes, base::hash_key(bytes), loops_[0].now()).has_value();
  }

 private:
  static constexpr std::size_t kWorkers = 2;

  // Both run on the test's thread.
  std::array<ManualLoop, kWorkers> loops_;
  std::array<bool, kWorkers> still_{};
  base::Ledger ledger_;
  l1::Cache cache_;
  const std::unique_ptr<l2::Invalidations> invalidations_;
  service::Shared shared_;
  MemoryL2 l2_;
  std::array<base::WorkerMetrics, kWorkers> metrics_;
  std::array<std::unique_ptr<MemoryStore>, kWorkers> stores_;
  std::array<std::unique_ptr<service::Service>, kWorkers> services_;
};

}  // namespace cistern::testing
