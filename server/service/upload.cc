#include "server/service/upload.h"

#include <algorithm>
#include <new>
#include <utility>

#include <fmt/format.h>

#include "server/base/check.h"
#include "server/base/fresh_memory.h"
#include "server/base/rng.h"
#include "server/service/room.h"

namespace cistern::service {
namespace {

// Chunk buffers of one upload while writing to L2 is slower than receiving; more than the minimum
// only as far as the ledger has room.
constexpr std::uint64_t kMaxChunksInHand = 4;
constexpr std::uint64_t kSmallestStepBytes = 4 * proto::kKiB;

class StreamedUpload : public Upload {
 public:
  explicit StreamedUpload(std::shared_ptr<UploadCore> core) : core_(std::move(core)) {}
  StreamedUpload(const StreamedUpload&) = delete;
  StreamedUpload& operator=(const StreamedUpload&) = delete;
  ~StreamedUpload() override { core_->leave(); }

  // The core stays when the sink destroys this in the middle of a call.
  MutableBytes target(std::size_t bytes) override {
    const std::shared_ptr<UploadCore> core = core_;
    return core->target(bytes);
  }
  void done(std::size_t bytes, std::optional<proto::ChunkDigest> chunk_end) override {
    const std::shared_ptr<UploadCore> core = core_;
    core->done(bytes, chunk_end);
  }
  void end(const proto::End& end) override {
    const std::shared_ptr<UploadCore> core = core_;
    core->end(end);
  }

 private:
  const std::shared_ptr<UploadCore> core_;
};

}  // namespace

std::unique_ptr<Upload> open_put(const std::shared_ptr<Worker>& worker,
                                 const proto::PutRequest& request, PutSink& sink) {
  if (const std::optional<Error> error = check_put(request)) {
    answer_failed(*worker, sink, *error);
    return nullptr;
  }
  const auto core = std::make_shared<UploadCore>(worker, request, sink);
  core->start();
  if (core->answered()) return nullptr;
  return std::make_unique<StreamedUpload>(core);
}

UploadCore::UploadCore(std::shared_ptr<Worker> worker, const proto::PutRequest& request,
                       PutSink& sink)
    : worker_(std::move(worker)),
      store_(worker_->store),
      key_(request.key),
      condition_(condition_of(request)),
      declared_(request.size),
      sink_(&sink) {
  meta_.version = base::random_version();
  meta_.expires_at_ms = worker_->expires_at(request.ttl_ms);
  meta_.chunk_bytes = worker_->options.chunk_bytes;
  meta_.metadata = proto::as_text(request.metadata);
}

// -------------------------------------------------------------------------------------- Admission

void UploadCore::start() {
  if (size_known()) {
    if (std::optional<Error> error =
            check_size(*worker_, declared_, key_.text.size(), meta_.metadata.size())) {
      return refuse(std::move(*error));
    }
  }
  if (store_ != nullptr) {
    if (const Result<void> available = store_->available(); !available) {
      const std::uint64_t least = size_known() ? declared_ : 0;
      const bool fits = worker_->cache.could_hold(
          cost_in_l1(*worker_, least, key_.text.size(), meta_.metadata.size()));
      if (!fits || !may_stay_in_l1(*worker_, condition_, available.error())) {
        return fail(available.error());
      }
      l1_only_because_ = available.error();
      store_ = nullptr;
    }
  }
  if (store_ != nullptr) {
    // Chunks that may yet be inline are kept in hand, and others must still fit beside them.
    minimum_chunks_ += (l2::kInlineBytes - 1) / meta_.chunk_bytes;
  }
  const bool inline_in_l2 = store_ != nullptr && declared_ <= l2::kInlineBytes;
  const bool small = l1::Cache::is_small(key_.text.size(), meta_.metadata.size(), declared_);
  if (size_known() && !inline_in_l2 && !small) return start_kept();
  if (!size_known() && store_ == nullptr) return start_growing();
  keep_ = !size_known();  // as long as it's no more than its share of L1
  wait_for_window();
}

void UploadCore::start_kept() {
  const std::uint64_t cost =
      cost_in_l1(*worker_, declared_, key_.text.size(), meta_.metadata.size());
  make_room(worker_, key_, cost, weak_from_this(), [this](l1::Room room) {
    if (state_ == State::kAdmission) start_with(std::move(room));
  });
}

void UploadCore::start_with(l1::Room room) {
  if (room) {
    room_ = std::move(room);
    memory_ = Memory::kRoom;
    keep_ = true;
    return receive();
  }
  if (store_ == nullptr) return fail(no_room_in_l1(declared_));
  wait_for_window();  // past L1
}

void UploadCore::start_growing() {
  memory_ = Memory::kGrowing;
  keep_ = true;
  receive();
}

void UploadCore::wait_for_window() {
  if (declared_ == 0) return receive();
  base::ValueMeta window = meta_;
  window.size = std::min(declared_, worker_->options.max_value_bytes);
  std::uint64_t bytes = 0;
  const std::uint64_t chunks = std::min(minimum_chunks_, window.chunk_count());
  for (std::uint64_t index = 0; index < chunks; ++index) {
    bytes += base::Chunk::allocated_for(window.size_of_chunk(index));
  }
  ticket_ = worker_->ledger.wait(base::Account::kUploads, bytes, worker_->loop,
                                 [weak = weak_from_this()](base::Reservation granted) {
                                   const auto self = weak.lock();
                                   if (!self || self->state_ != State::kAdmission) return;
                                   self->ticket_.reset();
                                   self->minimum_bytes_ = granted.bytes();
                                   self->spare_ = std::move(granted);
                                   self->receive();
                                 });
  if (ticket_ == nullptr) fail(worker_->never_fits(bytes));
}

void UploadCore::receive() {
  state_ = State::kReceiving;
  grant();
}

// ----------------------------------------------------------------------------------------- Credit

// Bytes to grant next, within a chunk: 0 when all of the value, or all that may be, was granted.
std::uint64_t UploadCore::next_credit() const {
  const std::uint64_t limit = std::min(declared_, worker_->options.max_value_bytes);
  const std::uint64_t in_chunk = credited_bytes_ % meta_.chunk_bytes;
  return std::min<std::uint64_t>(meta_.chunk_bytes - in_chunk, limit - credited_bytes_);
}

void UploadCore::grant() {
  if (state_ != State::kReceiving || past_credit_) return;
  const std::uint64_t before = credited_bytes_;
  while (grant_next()) {
  }
  // With nothing to wait for, whether there is more to come has to show by itself.
  const bool at_limit = !size_known() && next_credit() == 0;
  const bool at_room = memory_ == Memory::kGrowing && credited_bytes_ == meta_.size;
  std::uint64_t granted = credited_bytes_ - before;
  if (at_limit || at_room) {
    past_credit_ =
        check_size(*worker_, credited_bytes_ + 1, key_.text.size(), meta_.metadata.size());
    if (!past_credit_) past_credit_ = no_room_in_l1(credited_bytes_ + 1);
    ++granted;
  }
  if (granted > 0 && sink_ != nullptr) sink_->on_credit(static_cast<std::uint32_t>(granted));
}

bool UploadCore::grant_next() {
  std::uint64_t bytes = next_credit();
  if (bytes == 0) return false;
  bool taken = take_memory(credited_chunks_, bytes);
  // The last of L1's room in smaller steps.
  while (!taken && memory_ == Memory::kGrowing && bytes > kSmallestStepBytes &&
         credited_bytes_ == meta_.size) {
    bytes = std::max<std::uint64_t>(kSmallestStepBytes, bytes / 2);
    taken = take_memory(credited_chunks_, bytes);
  }
  if (!taken) return false;
  ++credited_chunks_;
  credited_bytes_ += bytes;
  return true;
}

bool UploadCore::take_memory(std::uint64_t index, std::uint64_t bytes) {
  const std::uint64_t window =
      std::max<std::uint64_t>(worker_->options.stream_window_bytes, 2ull * meta_.chunk_bytes);
  const std::uint64_t unspent = credited_bytes_ - meta_.size;
  if (unspent + bytes > window) return false;
  if (memory_ == Memory::kGrowing) return grow_room(credited_bytes_ + bytes);
  const std::uint64_t in_hand = credited_chunks_ - released_chunks_;
  if (in_hand >= std::max({minimum_chunks_, kMaxChunksInHand, window / meta_.chunk_bytes})) {
    return false;
  }
  if (in_hand >= minimum_chunks_ && writes_in_flight_ == 0) return false;
  if (memory_ == Memory::kRoom) return true;
  if (!take_share(index, bytes)) return false;
  if (keep_) keep_growing(credited_bytes_ + bytes);
  return true;
}

bool UploadCore::take_share(std::uint64_t index, std::uint64_t bytes) {
  const std::uint64_t need = base::Chunk::allocated_for(bytes);
  if (spare_.bytes() < need && !spare_.try_grow(need - spare_.bytes())) return false;
  shares_.emplace_back(index, spare_.split(need));
  return true;
}

// Beside an L2 a value of unknown size is kept up to an eighth of L1: what isn't, isn't missed.
void UploadCore::keep_growing(std::uint64_t value_bytes) {
  const std::uint64_t cost =
      cost_in_l1(*worker_, value_bytes, key_.text.size(), meta_.metadata.size());
  if (worker_->cache.could_hold(8 * cost) && grow_room(value_bytes)) return;
  keep_ = false;
  kept_.clear();
  room_ = {};
}

bool UploadCore::grow_room(std::uint64_t value_bytes) {
  const std::uint64_t cost =
      cost_in_l1(*worker_, value_bytes, key_.text.size(), meta_.metadata.size());
  const base::TimePoint now = worker_->loop.now();
  if (!worker_->cache.could_hold(cost)) return false;
  if (!room_) {
    room_ = worker_->cache.reserve(key_.bytes(), key_.hash, cost, now);
    return static_cast<bool>(room_);
  }
  if (cost <= room_.bytes()) return true;
  return worker_->cache.grow(room_, key_.bytes(), key_.hash, cost - room_.bytes(), now);
}

// The writer has used the byte that shows that it has more.
void UploadCore::overflow() {
  Error error = std::move(*past_credit_);
  if (error.status == Status::kValueTooLarge) {
    refuse(std::move(error));
  } else {
    fail(error);
  }
}

// ----------------------------------------------------------------------------------------- Chunks

MutableBytes UploadCore::target(std::size_t bytes) {
  if (state_ != State::kReceiving) return {};
  if (bytes > credited_bytes_ - meta_.size) {
    if (past_credit_) {
      overflow();
    } else {
      fail({Status::kBadRequest, "more bytes than credit was granted for"});
    }
    return {};
  }
  if (chunk_ == nullptr) {
    const std::uint64_t limit = std::min(declared_, worker_->options.max_value_bytes);
    const auto capacity = std::min<std::uint64_t>(meta_.chunk_bytes, limit - meta_.size);
    try {
      chunk_ = base::Chunk::allocate(static_cast<std::size_t>(capacity));
    } catch (const std::bad_alloc&) {
      fail({Status::kNoRoom, fmt::format("the system has no {} bytes of memory now", capacity)});
      return {};
    }
    filled_ = 0;
  }
  if (bytes > chunk_->space().size() - filled_) {
    fail({Status::kBadRequest, "bytes that cross the end of a chunk"});
    return {};
  }
  const MutableBytes target = chunk_->space().subspan(filled_, bytes);
  // The frame's beginning was read already, and is copied.
  base::populate_fresh(target.first(std::min(target.size(), proto::kScratchBytes)));
  return target;
}

void UploadCore::done(std::size_t bytes, std::optional<proto::ChunkDigest> chunk_end) {
  if (state_ != State::kReceiving) return;
  CHECK(chunk_ != nullptr && bytes <= chunk_->space().size() - filled_);
  chunk_hasher_.add(chunk_->space().subspan(filled_, bytes));
  filled_ += bytes;
  meta_.size += bytes;
  if (chunk_end) finish_chunk(*chunk_end);
  if (memory_ == Memory::kGrowing) grant();
}

void UploadCore::finish_chunk(proto::ChunkDigest sent) {
  const proto::ChunkDigest digest = chunk_hasher_.finish();
  if (digest != sent) {
    return fail({Status::kDigestMismatch,
                 fmt::format("chunk {} arrived with the digest {:016x}, not {:016x}", chunk_count_,
                             digest, sent)});
  }
  try {
    chunk_->seal(filled_, digest);
  } catch (const std::bad_alloc&) {
    return fail({Status::kNoRoom, "the system has no memory now"});
  }
  value_hasher_.add(digest);
  ++chunk_count_;
  filled_ = 0;
  store_chunk(std::exchange(chunk_, nullptr));
  grant();
}

// Whether the value may still turn out to be inline in L2.
bool UploadCore::small_so_far() const {
  return meta_.size <= l2::kInlineBytes && (!size_known() || declared_ <= l2::kInlineBytes);
}

void UploadCore::store_chunk(base::ChunkPtr chunk) {
  if (store_ == nullptr) {
    kept_.push_back(std::move(chunk));
    ++released_chunks_;
    return;
  }
  if (keep_) kept_.push_back(chunk);
  held_back_.push_back(std::move(chunk));
  if (small_so_far()) return;
  std::uint64_t index = chunk_count_ - held_back_.size();
  std::vector<base::ChunkPtr> ready;
  ready.swap(held_back_);
  for (base::ChunkPtr& each : ready) write(index++, std::move(each));
}

void UploadCore::write(std::uint64_t index, base::ChunkPtr chunk) {
  ++writes_in_flight_;
  if (!std::exchange(any_written_, true)) renew();
  store_->write_chunk(key_.text, meta_.version, index, l2::StoredChunk::raw(std::move(chunk)),
                      [self = shared_from_this(), index](const Result<void>& result) {
                        self->written(index, result);
                      });
}

void UploadCore::written(std::uint64_t index, const Result<void>& result) {
  --writes_in_flight_;
  ++released_chunks_;
  const auto share = std::find_if(shares_.begin(), shares_.end(),
                                  [index](const auto& each) { return each.first == index; });
  if (share != shares_.end()) {
    if (state_ == State::kReceiving) spare_.merge(std::move(share->second));
    shares_.erase(share);
    std::uint64_t total = spare_.bytes();
    for (const auto& each : shares_) total += each.second.bytes();
    // What was taken beyond the minimum is for others as soon as they wait.
    if (total > minimum_bytes_ && worker_->ledger.waiting() > 0) {
      spare_.shrink_to(spare_.bytes() - std::min(spare_.bytes(), total - minimum_bytes_));
    }
  }
  if (state_ == State::kOver || state_ == State::kRefusing) {
    if (writes_in_flight_ == 0) abandon_chunks();
    release_memory();
    return;
  }
  if (!result) return fail(result.error());
  if (state_ == State::kFlushing && writes_in_flight_ == 0) return commit();
  grant();
}

void UploadCore::renew() {
  const Duration ttl = worker_->options.provisional_ttl;
  renewal_ = worker_->loop.after(ttl / 3, [weak = weak_from_this(), ttl] {
    const auto self = weak.lock();
    if (!self || self->state_ == State::kOver || self->state_ == State::kRefusing) return;
    self->worker_->upkeep.expire({self->key_.text, self->meta_.version, self->chunk_count_}, 0, ttl,
                                 true);
    self->renew();
  });
}

// ------------------------------------------------------------------------------------ Other ends

void UploadCore::leave() {
  sink_ = nullptr;
  chunk_.reset();
  if (state_ == State::kFlushing || state_ == State::kCommitting) return;
  if (state_ != State::kRefusing) state_ = State::kOver;
  drop();
}

void UploadCore::refuse(Error error) {
  state_ = State::kRefusing;
  drop();
  refuse_for_size(worker_, key_, condition_, std::move(error),
                  [self = shared_from_this()](const Error& why) { self->fail(why); });
}

void UploadCore::fail(const Error& error) {
  if (state_ == State::kOver) return;
  state_ = State::kOver;
  drop();
  job_.end();
  if (PutSink* const sink = std::exchange(sink_, nullptr)) {
    // One of unknown size that is too large has at least the byte that is past the limit.
    const bool too_large = error.status == Status::kValueTooLarge;
    const std::uint64_t arrived = too_large ? credited_bytes_ + 1 : meta_.size;
    answer_rejected(*worker_, *sink, key_, size_known() ? declared_ : arrived, error);
  }
}

// Of an upload that will not be committed. The chunk that is being filled stays until the handle
// goes: a socket may be writing to it.
void UploadCore::drop() {
  ticket_.reset();
  worker_->loop.cancel(std::exchange(renewal_, base::Loop::TimerId::kNone));
  kept_.clear();
  held_back_.clear();
  if (writes_in_flight_ == 0) abandon_chunks();
  release_memory();
}

// All but that of chunks that are still being written, or filled.
void UploadCore::release_memory() {
  spare_.release();
  if (chunk_ != nullptr) return;
  std::erase_if(shares_, [this](const auto& share) {
    return writes_in_flight_ == 0 || share.first >= chunk_count_;
  });
  if (writes_in_flight_ == 0) room_ = {};
}

void UploadCore::abandon_chunks() {
  if (!std::exchange(any_written_, false)) return;
  worker_->upkeep.expire({key_.text, meta_.version, chunk_count_}, 0, std::chrono::milliseconds(1),
                         false);
}

}  // namespace cistern::service
