// What the daemon does with values: get, put, delete, stat, touch, over L1 and L2. It knows both
// tiers by their interfaces and no sockets.
//
// `Shared` is one for the process; `Service` is one for each worker and used on that worker's loop
// alone. Sinks are called on that loop, possibly from within the call that names them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "proto/messages.h"
#include "proto/outbox.h"
#include "server/base/ledger.h"
#include "server/base/loop.h"
#include "server/base/metrics.h"
#include "server/base/types.h"
#include "server/l1/cache.h"
#include "server/l2/store.h"

namespace cistern::service {

using base::Bytes;
using base::Duration;
using base::Error;
using base::MutableBytes;
using base::Result;
using base::Status;

struct Options {
  std::uint64_t max_value_bytes = 0;
  std::uint32_t chunk_bytes = 0;
  Duration default_ttl{0};       // 0: none
  Duration max_idle{0};          // l2.max_idle
  Duration provisional_ttl{0};   // l2.provisional_ttl
  Duration replace_grace{0};     // l2.replace_grace
  unsigned prefetch_chunks = 4;  // l2.prefetch_chunks
  // limits.stream_window_bytes: unspent credit of a PUT at most. Two chunks, where that is more.
  std::uint64_t stream_window_bytes = 0;
  Duration negative_ttl{0};  // l2.negative_ttl; 0: L2 is always asked
  double ttl_jitter = 0;     // l1.ttl_jitter, from 0 to 0.5
  Duration fill_patience = std::chrono::milliseconds(100);  // l1.fill_patience
  unsigned fill_finish_percent = 20;                        // l1.fill_finish_percent
  // When L2 can't be asked or told. An error, unless:
  bool miss_on_failure = false;     // l2.on_failure.get: miss
  bool l1_only_on_failure = false;  // l2.on_failure.put: l1_only
};

class L1OnlyKeys;
class Passing;
class Reasons;
class WriteGate;
class Worker;

// State that all workers share. Any thread.
class Shared {
 public:
  Shared(const Options& options, l1::Cache& cache, base::Ledger& ledger);
  ~Shared();

  const Options options;
  l1::Cache& cache;
  base::Ledger& ledger;
  const std::unique_ptr<WriteGate> gate;
  const std::unique_ptr<Passing> passing;
  const std::unique_ptr<Reasons> reasons;
  const std::unique_ptr<L1OnlyKeys> l1_only;
};

// A value on its way to one reader. Pulled: it reads ahead from L2 within a bounded window and
// takes no chunk before it is about to be asked for. Destroying it stops the reads from L2. The
// owners of its segments are let go of on the loop's thread.
class Reader {
 public:
  virtual ~Reader() = default;
  // As Outbox::Streams::next_piece. A failure that comes to light while no credit is left is
  // answered to a max_bytes of 0.
  virtual proto::Piece next(std::size_t max_bytes) = 0;
  // `ready` is called once after each kWait, on the loop, later, when it's worth asking again. It
  // may destroy the reader.
  virtual void on_ready(std::function<void()> ready) = 0;
};

struct GetSink {
  virtual ~GetSink() = default;
  // A value of at most one chunk and at most proto::kMaxInlineBytes, whole, whatever range was
  // asked for and whatever credit was granted. May run under L1's lock: encode it and return; call
  // nothing of the service here, and destroy none of its operations.
  virtual void on_small(const l1::SmallView& view, std::uint32_t flags) = 0;
  // A value to be streamed. `cover`: the whole chunks that cover the request's range, unless they
  // are the whole value.
  virtual void on_value(const base::ValueMeta& meta, std::optional<proto::Range> cover,
                        std::uint32_t flags, std::unique_ptr<Reader> reader) = 0;
  // kNotFound, kNotModified and every failure.
  virtual void on_failed(const Error& error) = 0;
};

struct PutSink {
  virtual ~PutSink() = default;
  // Memory for so many more bytes is reserved: the writer may send them.
  virtual void on_credit(std::uint32_t bytes) = 0;
  virtual void on_stored(const proto::Stored& stored) = 0;
  virtual void on_failed(const Error& error) = 0;
};

// A streamed PUT. Destroying it before end() leaves everything as it was; after end() the commit
// runs on by itself and the sink isn't called any more.
class Upload {
 public:
  virtual ~Upload() = default;
  // Memory for the next `bytes`, which are within credit and within one chunk; valid until done()
  // or until the upload is destroyed. Empty when the upload has failed meanwhile, or fails by these
  // bytes: they are to be dropped, and on_failed was or will be called.
  virtual MutableBytes target(std::size_t bytes) = 0;
  // They are there. A digest that doesn't match, or L2's refusal, comes as on_failed.
  virtual void done(std::size_t bytes, std::optional<proto::ChunkDigest> chunk_end) = 0;
  virtual void end(const proto::End& end) = 0;
};

// An operation that waits for something. Destroying it ends the wait; the sink or callback isn't
// called any more. A commit that has begun runs on.
class Operation {
 public:
  virtual ~Operation() = default;
};
// Null when the sink was already called with the outcome.
using OperationPtr = std::unique_ptr<Operation>;

class Service {
 public:
  // `store` is null for l2.kind none. All outlive the service and its operations.
  Service(Shared& shared, base::Loop& loop, l2::Store* store, base::WorkerMetrics& metrics);
  ~Service();

  // These keys are about to be read or written, one after the other: what L1 has of them is brought
  // near to the processor. Of no consequence otherwise.
  void expect(std::span<const Bytes> keys);

  // request.key and its other views need to live for the call only, here and below.
  OperationPtr get(const proto::GetRequest& request, GetSink& sink);

  // request.is_inline is false. Refuses at once what can never be stored (and then removes the
  // older value, as the contract says); otherwise credit comes when there is memory. Null when the
  // sink was already called with a failure.
  std::unique_ptr<Upload> open_put(const proto::PutRequest& request, PutSink& sink);
  // request.is_inline is true.
  OperationPtr put_inline(const proto::PutRequest& request, PutSink& sink);

  template <typename T>
  using Done = std::function<void(Result<T>)>;
  OperationPtr remove(const proto::KeyRequest& request, Done<proto::Done> done);
  OperationPtr touch(const proto::TouchRequest& request, Done<proto::Done> done);
  // Info views the metadata for the time of the callback.
  OperationPtr stat(const proto::KeyRequest& request, Done<proto::Info> done);

  // Where the key stands and why, as the JSON of PROTOCOL.md's EXPLAIN. No failure of L2's makes it
  // fail: what could not be asked is said.
  OperationPtr explain(const proto::KeyRequest& request, Done<std::string> done);

  // Whether L2 (if there is one) can be reached; for /readyz.
  Result<void> ready() const;

  // Calls `idle` when no commit and no upkeep of this worker is under way any more. New operations
  // are refused with kShuttingDown from now on.
  void drain(std::function<void()> idle);

 private:
  const std::shared_ptr<Worker> worker_;
};

}  // namespace cistern::service
