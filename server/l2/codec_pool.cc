#include "server/l2/codec_pool.h"

#include <pthread.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <new>
#include <string>
#include <utility>

#include "server/base/check.h"
#include "server/base/fresh_memory.h"

namespace cistern::l2 {
namespace {

using base::Chunk;

constexpr int kNice = 5;
// What `auto` wants to be saved of the whole chunk, at least: a 16th. Less isn't worth decoding it.
constexpr std::size_t kLeastSaving = 16;
constexpr std::uint64_t kMostEncoding = 32 * proto::kMiB;

std::size_t at(CodecPool::Kind kind) { return static_cast<std::size_t>(kind); }
CodecPool::Kind other(CodecPool::Kind kind) {
  return kind == CodecPool::Kind::kEncode ? CodecPool::Kind::kDecode : CodecPool::Kind::kEncode;
}

// What its result may take.
std::uint64_t need_of(const CodecPool::Job& job) {
  return Chunk::allocated_for(job.chunk.raw_bytes);
}

}  // namespace

CodecMemory codec_memory(const CodecOptions& options, unsigned workers, std::uint64_t limit_bytes) {
  const std::uint64_t chunks = options.threads * Chunk::allocated_for(options.chunk_bytes);
  const std::uint64_t share = limit_bytes / 64;
  const std::uint64_t decoder = codec::Decoder().memory_bytes();
  CodecMemory memory;
  memory.contexts = (options.threads + workers) * decoder;
  memory.decoding = std::max<std::uint64_t>(
      chunks, std::min<std::uint64_t>(share, Chunk::allocated_for(proto::kMaxChunkBytes)));
  if (options.packing == Packing::kNone) return memory;
  memory.contexts +=
      options.threads * codec::Encoder::memory_for(options.level, options.chunk_bytes);
  memory.encoding = std::max(chunks, std::min(share, kMostEncoding));
  return memory;
}

// ------------------------------------------------------------------------------------------- Room

CodecPool::Room::Room(Room&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)),
      kind_(other.kind_),
      held_(std::move(other.held_)) {}

CodecPool::Room& CodecPool::Room::operator=(Room&& other) noexcept {
  if (this != &other) {
    release();
    pool_ = std::exchange(other.pool_, nullptr);
    kind_ = other.kind_;
    held_ = std::move(other.held_);
  }
  return *this;
}

void CodecPool::Room::release() {
  if (pool_ == nullptr) return;
  shrink_to(0);
  held_.release();
  pool_ = nullptr;
}

void CodecPool::Room::shrink_to(std::uint64_t bytes) {
  const std::uint64_t back = held_.bytes() - bytes;
  // The ledger's first: what the pool believes to be free must be.
  held_.shrink_to(bytes);
  pool_->give_back(kind_, back);
}

CodecPool::Room CodecPool::take_room(const Job& job) {
  const std::uint64_t need = need_of(job);
  std::uint64_t& used = used_[at(job.kind)];
  const std::uint64_t budget = job.kind == Kind::kEncode ? memory_.encoding : memory_.decoding;
  if (need > budget - used) return {};
  base::Reservation held = ledger_.try_reserve(base::Account::kCodec, need);
  CHECK(held);  // the account's budget is the sum of these
  used += need;
  return {this, job.kind, std::move(held)};
}

void CodecPool::give_back(Kind kind, std::uint64_t bytes) {
  if (bytes == 0) return;
  {
    const std::lock_guard lock(mutex_);
    used_[at(kind)] -= bytes;
  }
  work_.notify_one();
}

bool CodecPool::could_decode(std::uint64_t raw_bytes) const {
  return Chunk::allocated_for(raw_bytes) <= memory_.decoding;
}

// ------------------------------------------------------------------------------------------- Pool

CodecPool::Thread::Thread(const CodecOptions& options) {
  if (options.packing != Packing::kNone) encoder.emplace(options.level);
}

CodecPool::CodecPool(const CodecOptions& options, const CodecMemory& memory, base::Ledger& ledger)
    : options_(options),
      memory_(memory),
      ledger_(ledger),
      contexts_(ledger.try_reserve(base::Account::kCodec, memory.contexts)) {
  CHECK(contexts_ && ledger.budgets().codec >= memory.total());
  CHECK(options.threads > 0);
  for (unsigned i = 0; i < options.threads; ++i) {
    threads_.push_back(std::make_unique<Thread>(options));
  }
  for (unsigned i = 0; i < options.threads; ++i) {
    Thread& thread = *threads_[i];
    thread.thread = std::thread([this, &thread, i] { run(thread, i); });
  }
}

CodecPool::~CodecPool() {
  {
    const std::lock_guard lock(mutex_);
    CHECK(std::ranges::all_of(queues_, [](const auto& queue) { return queue.empty(); }));
    stopping_ = true;
  }
  work_.notify_all();
  for (const auto& thread : threads_) thread->thread.join();
}

bool CodecPool::submit(const JobPtr& job) {
  const bool never = job->kind == Kind::kEncode && need_of(*job) > memory_.encoding;
  {
    const std::lock_guard lock(mutex_);
    std::list<JobPtr>& queue = queues_[at(job->kind)];
    if (never || queue.size() >= kMaxQueued) return false;
    job->place_ = queue.insert(queue.end(), job);
    job->queued_ = true;
  }
  work_.notify_one();
  return true;
}

void CodecPool::cancel(const JobPtr& job) {
  job->cancelled_ = true;
  const std::lock_guard lock(mutex_);
  if (std::exchange(job->queued_, false)) queues_[at(job->kind)].erase(job->place_);
}

void CodecPool::wait_for(const void* owner) {
  std::unique_lock lock(mutex_);
  over_.wait(lock, [&] {
    return std::ranges::none_of(threads_,
                                [owner](const auto& thread) { return thread->owner == owner; });
  });
}

CodecPool::Stats CodecPool::stats() const {
  Stats stats;
  {
    const std::lock_guard lock(mutex_);
    for (std::size_t kind = 0; kind < kKinds; ++kind) stats.queued[kind] = queues_[kind].size();
  }
  for (const auto& thread : threads_) {
    stats.context_bytes += thread->context_bytes.load(std::memory_order_relaxed);
    for (std::size_t kind = 0; kind < kKinds; ++kind) {
      stats.busy[kind] += base::Duration(thread->busy_ns[kind].load(std::memory_order_relaxed));
    }
  }
  return stats;
}

// ---------------------------------------------------------------------------------------- Threads

// With the lock. Each kind waits for its own memory alone.
CodecPool::JobPtr CodecPool::next() {
  for (const Kind kind : {turn_, other(turn_)}) {
    std::list<JobPtr>& queue = queues_[at(kind)];
    if (queue.empty()) continue;
    Room room = take_room(*queue.front());
    if (room.bytes() == 0) continue;
    JobPtr job = std::move(queue.front());
    queue.pop_front();
    job->queued_ = false;
    job->room = std::move(room);
    turn_ = other(kind);
    return job;
  }
  return nullptr;
}

void CodecPool::run(Thread& self, unsigned index) {
  ::pthread_setname_np(::pthread_self(), ("codec-" + std::to_string(index)).c_str());
  ::setpriority(PRIO_PROCESS, 0, kNice);  // on Linux, of this thread
  std::unique_lock lock(mutex_);
  for (;;) {
    JobPtr job = next();
    if (job == nullptr) {
      if (stopping_) return;
      work_.wait(lock);
      continue;
    }
    self.owner = job->owner;
    lock.unlock();
    const auto began = std::chrono::steady_clock::now();
    if (job->kind == Kind::kEncode) {
      encode(*job, *self.encoder);
    } else {
      decode(*job, self.decoder);
    }
    self.busy_ns[at(job->kind)].fetch_add((std::chrono::steady_clock::now() - began).count(),
                                          std::memory_order_relaxed);
    self.context_bytes.store(
        self.decoder.memory_bytes() + (self.encoder ? self.encoder->memory_bytes() : 0),
        std::memory_order_relaxed);
    base::Loop& loop = *job->loop;
    loop.post([job = std::move(job)] {
      if (!job->cancelled_) job->done();
    });
    lock.lock();
    self.owner = nullptr;
    over_.notify_all();
  }
}

void CodecPool::encode(Job& job, codec::Encoder& encoder) const {
  const base::Bytes raw = job.chunk.bytes->bytes();
  job.outcome = Job::Outcome::kRefused;
  if (job.sample && raw.size() >= codec::kSampleFromBytes && !encoder.promises(raw)) {
    return job.room.release();
  }
  const std::size_t most = raw.size() - (job.sample ? raw.size() / kLeastSaving : 1);
  try {
    const std::shared_ptr<Chunk> frame = Chunk::allocate(most);
    const std::size_t size = encoder.encode(raw, frame->space());
    if (size == 0) return job.room.release();
    frame->seal(size, proto::chunk_digest(frame->space().first(size)));
    job.room.shrink_to(frame->allocated_bytes());
    job.chunk.codec = Codec::kZstd;
    job.chunk.bytes = frame;
    job.outcome = Job::Outcome::kDone;
  } catch (const std::bad_alloc&) {
    job.outcome = Job::Outcome::kNoMemory;
    job.room.release();
  }
}

void CodecPool::decode(Job& job, codec::Decoder& decoder) const {
  if (const auto fault = codec::check_frame(job.chunk.bytes->bytes(), job.chunk.raw_bytes)) {
    job.outcome = Job::Outcome::kFault;
    job.fault = *fault;
    return job.room.release();
  }
  try {
    const std::shared_ptr<Chunk> raw = Chunk::allocate(job.chunk.raw_bytes);
    base::populate_fresh(raw->space());
    if (const auto fault =
            decoder.decode(job.chunk.bytes->bytes(), raw->space(), job.chunk.raw_digest)) {
      job.outcome = Job::Outcome::kFault;
      job.fault = *fault;
      return job.room.release();
    }
    raw->seal(job.chunk.raw_bytes, job.chunk.raw_digest);
    job.chunk.codec = Codec::kRaw;
    job.chunk.bytes = raw;  // the frame goes, and its place in the reader's account is this one's
  } catch (const std::bad_alloc&) {
    job.outcome = Job::Outcome::kNoMemory;
  }
  job.room.release();
}

}  // namespace cistern::l2
