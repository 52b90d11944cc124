#include "server/service/window.h"

#include <algorithm>
#include <deque>
#include <utility>

#include "server/base/check.h"

namespace cistern::service {
namespace {

class Window : public std::enable_shared_from_this<Window> {
 public:
  explicit Window(Reading reading)
      : reading_(std::move(reading)), worker_(*reading_.worker), next_fetch_(reading_.first) {}

  void open(base::Reservation granted);
  void wait_for_admission();
  Taken take(std::uint64_t index);
  void close();
  const Error* error() const { return error_ ? &*error_ : nullptr; }

 private:
  struct Slot {
    std::uint64_t index;
    l2::Store::ReadId read = 0;
    base::ChunkPtr chunk{};
    base::Reservation share{};
  };
  // A chunk in a reader's hands or on its way to the socket.
  struct Held {
    base::ChunkPtr chunk;
    base::Reservation share;
    std::shared_ptr<Window> window;
    Held(base::ChunkPtr the_chunk, base::Reservation the_share, std::shared_ptr<Window> the_window)
        : chunk(std::move(the_chunk)), share(std::move(the_share)), window(std::move(the_window)) {}
    Held(const Held&) = delete;
    Held& operator=(const Held&) = delete;
    ~Held() {
      chunk.reset();
      window->given_back(std::move(share));
    }
  };

  void pump();
  bool fetch();
  void arrived(std::uint64_t index, Result<base::ChunkPtr> chunk);
  void given_back(base::Reservation share);
  void fail(Error error);
  void drop_reads();
  void renew();

  const Reading reading_;
  Worker& worker_;
  std::shared_ptr<base::Ledger::Ticket> ticket_;
  base::Reservation spare_;          // of the window, and in no slot
  std::uint64_t minimum_bytes_ = 0;  // granted at the admission; kept while there is more to read
  std::uint64_t out_bytes_ = 0;      // in slots and in Held
  std::deque<Slot> slots_;           // fetched and not yet taken, in order
  std::uint64_t next_fetch_;
  unsigned width_ = 1;  // slots at most
  proto::ValueHasher hasher_;
  base::Loop::TimerId timer_ = base::Loop::TimerId::kNone;
  bool closed_ = false;
  std::optional<Error> error_;
};

void Window::wait_for_admission() {
  Error why;
  ticket_ = admit(
      worker_, window_bytes(*reading_.meta, reading_.first, reading_.end),
      [weak = weak_from_this()](base::Reservation granted) {
        const auto self = weak.lock();
        if (!self || self->closed_) return;
        self->ticket_.reset();
        self->open(std::move(granted));
      },
      why);
  if (ticket_ == nullptr) error_ = std::move(why);
}

void Window::open(base::Reservation granted) {
  minimum_bytes_ = granted.bytes();
  spare_ = std::move(granted);
  worker_.renew_idle(*reading_.key, *reading_.meta);
  renew();
  pump();
}

void Window::pump() {
  if (closed_ || error_) return;
  while (next_fetch_ < reading_.end && slots_.size() < width_ && fetch()) {
  }
}

bool Window::fetch() {
  const std::uint64_t need = base::Chunk::allocated_for(reading_.meta->size_of_chunk(next_fetch_));
  if (spare_.bytes() < need && !spare_.try_grow(need - spare_.bytes())) return false;
  Slot& slot = slots_.emplace_back(Slot{.index = next_fetch_});
  slot.share = spare_.split(need);
  out_bytes_ += need;
  slot.read = worker_.store->read_chunk(
      reading_.key->text, *reading_.meta, next_fetch_,
      [weak = weak_from_this(), index = next_fetch_](Result<base::ChunkPtr> chunk) {
        if (const auto self = weak.lock()) self->arrived(index, std::move(chunk));
      });
  if (++next_fetch_ == reading_.end) spare_.shrink_to(0);
  return true;
}

void Window::arrived(std::uint64_t index, Result<base::ChunkPtr> chunk) {
  if (closed_ || error_) return;
  const auto slot = std::find_if(slots_.begin(), slots_.end(),
                                 [index](const Slot& each) { return each.index == index; });
  CHECK(slot != slots_.end());
  slot->read = 0;
  if (!chunk) {
    fail(chunk.error());
  } else {
    slot->chunk = std::move(*chunk);
    width_ = wider(width_, worker_.options);
    pump();
  }
  reading_.waker->wake();
}

Taken Window::take(std::uint64_t index) {
  if (error_) return {.kind = Taken::Kind::kFailed};
  if (slots_.empty() || slots_.front().chunk == nullptr) return {};
  Slot slot = std::move(slots_.front());
  slots_.pop_front();
  CHECK(slot.index == index);
  if (reading_.whole()) {
    hasher_.add(slot.chunk->digest());
    // The last bytes of a value that isn't what its writer wrote don't leave the daemon.
    if (index + 1 == reading_.end &&
        hasher_.finish(reading_.meta->chunk_bytes, reading_.meta->size) != reading_.meta->digest) {
      out_bytes_ -= slot.share.bytes();
      fail({Status::kValueLost, "the chunks in the second tier do not have the value's digest"});
      return {.kind = Taken::Kind::kFailed};
    }
  }
  pump();
  base::ChunkPtr chunk = slot.chunk;
  return {.kind = Taken::Kind::kChunk,
          .chunk = std::move(chunk),
          .owner = std::make_shared<Held>(std::move(slot.chunk), std::move(slot.share),
                                          shared_from_this())};
}

void Window::given_back(base::Reservation share) {
  out_bytes_ -= share.bytes();
  if (closed_ || error_ || next_fetch_ == reading_.end) return;  // the share goes to the ledger
  spare_.merge(std::move(share));
  // What was taken beyond the minimum is for others as soon as they wait.
  const std::uint64_t total = spare_.bytes() + out_bytes_;
  if (total > minimum_bytes_ && worker_.ledger.waiting() > 0) {
    spare_.shrink_to(spare_.bytes() - std::min(spare_.bytes(), total - minimum_bytes_));
  }
  // Later: this is the destructor of a segment's owner.
  worker_.loop.post([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->pump();
  });
}

void Window::fail(Error error) {
  if (error.status == Status::kValueLost) {
    worker_.value_lost(*reading_.key, reading_.meta->version);
  }
  error_ = std::move(error);
  drop_reads();
}

void Window::drop_reads() {
  for (Slot& slot : slots_) {
    if (slot.read != 0) worker_.store->cancel_read(slot.read);
    out_bytes_ -= slot.share.bytes();
  }
  slots_.clear();
  spare_.release();
  worker_.loop.cancel(std::exchange(timer_, base::Loop::TimerId::kNone));
}

void Window::close() {
  closed_ = true;
  ticket_.reset();
  drop_reads();
}

// The value may be replaced while it is read, and its chunks released after a grace: whoever still
// reads them renews that.
void Window::renew() {
  const Duration grace = worker_.options.replace_grace;
  timer_ = worker_.loop.after(grace / 3, [weak = weak_from_this(), grace] {
    const auto self = weak.lock();
    if (!self || self->closed_ || self->error_) return;
    const Reading& reading = self->reading_;
    const std::uint64_t from = self->slots_.empty() ? self->next_fetch_ : self->slots_[0].index;
    if (from == reading.end) return;
    self->worker_.upkeep.expire({reading.key->text, reading.meta->version, reading.end}, from,
                                grace, true);
    self->renew();
  });
}

class WindowSource : public ChunkSource {
 public:
  explicit WindowSource(std::shared_ptr<Window> window) : window_(std::move(window)) {}
  WindowSource(const WindowSource&) = delete;
  WindowSource& operator=(const WindowSource&) = delete;
  ~WindowSource() override { window_->close(); }

  Taken take(std::uint64_t index) override { return window_->take(index); }
  bool keeps_chunks() const override { return false; }
  const Error* error() const override { return window_->error(); }
  std::unique_ptr<ChunkSource> successor(std::uint64_t) override {
    CHECK(false);
    return nullptr;
  }

 private:
  const std::shared_ptr<Window> window_;
};

class FailedSource : public ChunkSource {
 public:
  explicit FailedSource(Error error) : error_(std::move(error)) {}
  Taken take(std::uint64_t) override { return {.kind = Taken::Kind::kFailed}; }
  bool keeps_chunks() const override { return false; }
  const Error* error() const override { return &error_; }
  std::unique_ptr<ChunkSource> successor(std::uint64_t) override {
    CHECK(false);
    return nullptr;
  }

 private:
  const Error error_;
};

}  // namespace

std::uint64_t window_bytes(const base::ValueMeta& meta, std::uint64_t first, std::uint64_t end) {
  std::uint64_t bytes = 0;
  for (std::uint64_t index = first; index < std::min(end, first + 2); ++index) {
    bytes += base::Chunk::allocated_for(meta.size_of_chunk(index));
  }
  return bytes;
}

std::shared_ptr<base::Ledger::Ticket> admit(Worker& worker, std::uint64_t bytes,
                                            base::Ledger::Granted granted, Error& why) {
  auto ticket = worker.ledger.wait(base::Account::kReaders, bytes, worker.loop, std::move(granted));
  if (ticket == nullptr) why = worker.never_fits(bytes);
  return ticket;
}

std::unique_ptr<ChunkSource> source_in_l2(Reading reading, base::Reservation window) {
  // Values up to kInlineBytes are in their manifest.
  if (reading.worker->store == nullptr || reading.meta->size <= l2::kInlineBytes) {
    return std::make_unique<FailedSource>(
        Error{Status::kEvicted, "the value left memory while it was being read slowly"});
  }
  auto core = std::make_shared<Window>(std::move(reading));
  if (window) {
    core->open(std::move(window));
  } else {
    core->wait_for_admission();
  }
  return std::make_unique<WindowSource>(std::move(core));
}

}  // namespace cistern::service
