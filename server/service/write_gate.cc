#include "server/service/write_gate.h"

#include <list>
#include <utility>

#include "server/base/check.h"

namespace cistern::service {
namespace {

struct KeyView {
  std::string_view text;
  std::uint64_t hash;
};
struct OwnedKey {
  std::string text;
  std::uint64_t hash;
};
struct KeyHash {
  using is_transparent = void;
  std::size_t operator()(const OwnedKey& key) const { return key.hash; }
  std::size_t operator()(const KeyView& key) const { return key.hash; }
};
struct KeyEqual {
  using is_transparent = void;
  bool operator()(const OwnedKey& a, const OwnedKey& b) const { return a.text == b.text; }
  bool operator()(const KeyView& a, const OwnedKey& b) const { return a.text == b.text; }
  bool operator()(const OwnedKey& a, const KeyView& b) const { return a.text == b.text; }
};

}  // namespace

struct WriteGate::Entry {
  const OwnedKey* key = nullptr;   // in the map's node
  std::uint64_t writes_begun = 0;  // and other changes of L1
  bool running = false;            // a turn is held or granted
  std::list<Waiter*> queue;        // of those who wait; empty unless running
  std::uint64_t tokens = 0;
  std::weak_ptr<Flight> flight;  // has a token

  // A write, or another change of L1: THE RULE's "begins".
  void begin_change() {
    ++writes_begun;
    flight.reset();
  }

  bool unused() const { return !running && tokens == 0; }
};

struct WriteGate::Shard {
  mutable std::mutex mutex;
  std::unordered_map<OwnedKey, Entry, KeyHash, KeyEqual> entries;
  AbsentKeys absent;

  Entry* find(base::Bytes key, std::uint64_t hash) {
    const auto found = entries.find(KeyView{proto::as_text(key), hash});
    return found == entries.end() ? nullptr : &found->second;
  }
  Entry& find_or_add(base::Bytes key, std::uint64_t hash) {
    if (Entry* const entry = find(key, hash)) return *entry;
    const auto added = entries.try_emplace(OwnedKey{std::string(proto::as_text(key)), hash}).first;
    added->second.key = &added->first;
    return added->second;
  }
  void drop_if_unused(Entry& entry) {
    if (!entry.unused()) return;
    const auto found = entries.find(KeyView{entry.key->text, entry.key->hash});
    CHECK(found != entries.end());
    entries.erase(found);
  }
  void release(Entry& entry);
};

// As the ledger's tickets: the queue holds plain pointers that leave by themselves, the posted task
// a weak reference, so that a waiter is never destroyed on another thread than its own.
class WriteGate::Waiter {
 public:
  Waiter(Shard& shard, Entry& entry, base::Loop& loop, Granted granted)
      : shard_(shard), entry_(entry), loop_(loop), granted_(std::move(granted)) {}
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;

  ~Waiter() {
    std::unique_lock lock(shard_.mutex);
    if (state_ == State::kWaiting) entry_.queue.erase(place_);
    if (state_ != State::kGranted) return;
    lock.unlock();
    shard_.release(entry_);
  }

  void run() {
    {
      const std::lock_guard lock(shard_.mutex);
      CHECK(state_ == State::kGranted);
      state_ = State::kDelivered;
    }
    const Granted granted = std::move(granted_);
    granted(Turn(&shard_, &entry_));
  }

 private:
  friend class WriteGate;
  friend struct WriteGate::Shard;
  enum class State : std::uint8_t { kWaiting, kGranted, kDelivered };

  Shard& shard_;
  Entry& entry_;
  base::Loop& loop_;
  Granted granted_;  // its loop's thread only; all below under the shard's mutex
  State state_ = State::kWaiting;
  std::list<Waiter*>::iterator place_;
  std::weak_ptr<Waiter> self_;
};

void WriteGate::Shard::release(Entry& entry) {
  base::Loop* loop = nullptr;
  std::weak_ptr<Waiter> next;
  {
    const std::lock_guard lock(mutex);
    CHECK(entry.running);
    if (entry.queue.empty()) {
      entry.running = false;
      drop_if_unused(entry);
      return;
    }
    Waiter& waiter = *entry.queue.front();
    entry.queue.pop_front();
    waiter.state_ = Waiter::State::kGranted;
    loop = &waiter.loop_;
    next = waiter.self_;
  }
  loop->post([next = std::move(next)] {
    if (const auto waiter = next.lock()) waiter->run();
  });
}

// ------------------------------------------------------------------------------- Turn, MissToken

WriteGate::Turn::Turn(Turn&& other) noexcept
    : shard_(std::exchange(other.shard_, nullptr)), entry_(std::exchange(other.entry_, nullptr)) {}

WriteGate::Turn& WriteGate::Turn::operator=(Turn&& other) noexcept {
  if (this != &other) {
    release();
    shard_ = std::exchange(other.shard_, nullptr);
    entry_ = std::exchange(other.entry_, nullptr);
  }
  return *this;
}

void WriteGate::Turn::release() {
  if (Shard* const shard = std::exchange(shard_, nullptr)) {
    shard->release(*std::exchange(entry_, nullptr));
  }
}

WriteGate::MissToken::MissToken(MissToken&& other) noexcept
    : shard_(std::exchange(other.shard_, nullptr)),
      entry_(std::exchange(other.entry_, nullptr)),
      writes_begun_(other.writes_begun_),
      write_was_pending_(other.write_was_pending_) {}

WriteGate::MissToken& WriteGate::MissToken::operator=(MissToken&& other) noexcept {
  if (this != &other) {
    release();
    shard_ = std::exchange(other.shard_, nullptr);
    entry_ = std::exchange(other.entry_, nullptr);
    writes_begun_ = other.writes_begun_;
    write_was_pending_ = other.write_was_pending_;
  }
  return *this;
}

void WriteGate::MissToken::release() {
  if (shard_ == nullptr) return;
  Shard& shard = *std::exchange(shard_, nullptr);
  Entry& entry = *std::exchange(entry_, nullptr);
  const std::lock_guard lock(shard.mutex);
  CHECK(entry.tokens > 0);
  --entry.tokens;
  shard.drop_if_unused(entry);
}

// -------------------------------------------------------------------------------------- WriteGate

WriteGate::WriteGate(base::Duration negative_ttl)
    : negative_ttl_(negative_ttl), shards_(std::make_unique<std::array<Shard, kShards>>()) {
  if (negative_ttl_ <= base::Duration{0}) return;
  for (Shard& shard : *shards_) shard.absent.resize(kAbsentKeys / kShards);
}

WriteGate::~WriteGate() {
  for (const Shard& shard : *shards_) CHECK(shard.entries.empty());
}

WriteGate::Shard& WriteGate::shard_of(std::uint64_t hash) const {
  // The low bits place the key in the map.
  return (*shards_)[(hash >> 32) % kShards];
}

std::shared_ptr<WriteGate::Waiter> WriteGate::enter(base::Bytes key, std::uint64_t hash,
                                                    base::Loop& loop, Granted granted) {
  Shard& shard = shard_of(hash);
  std::unique_lock lock(shard.mutex);
  shard.absent.forget(key, hash);
  Entry& entry = shard.find_or_add(key, hash);
  entry.begin_change();
  if (!entry.running) {
    entry.running = true;
    lock.unlock();
    granted(Turn(&shard, &entry));
    return nullptr;
  }
  auto waiter = std::make_shared<Waiter>(shard, entry, loop, std::move(granted));
  waiter->self_ = waiter;
  waiter->place_ = entry.queue.insert(entry.queue.end(), waiter.get());
  return waiter;
}

WriteGate::Boarding WriteGate::board(
    base::Bytes key, std::uint64_t hash, base::TimePoint now, const std::function<bool()>& in_l1,
    const std::function<bool(base::TimePoint)>& trusts,
    const std::function<std::shared_ptr<Flight>(MissToken)>& make) {
  Shard& shard = shard_of(hash);
  const std::lock_guard lock(shard.mutex);
  if (Entry* const entry = shard.find(key, hash)) {
    if (auto flight = entry->flight.lock()) return {Boarding::Kind::kJoin, std::move(flight)};
  }
  if (in_l1()) return {Boarding::Kind::kInL1, nullptr};
  if (const auto until = shard.absent.until(key, hash); until && now < *until) {
    if (trusts(*until - negative_ttl_)) return {Boarding::Kind::kAbsent, nullptr};
  }
  Entry& entry = shard.find_or_add(key, hash);
  MissToken token;
  take_token(token, shard, entry);
  std::shared_ptr<Flight> flight = make(std::move(token));
  entry.flight = flight;
  return {Boarding::Kind::kBegin, std::move(flight)};
}

void WriteGate::retire(const Flight& flight, base::Bytes key, std::uint64_t hash, bool outdated) {
  std::shared_ptr<Flight> current;  // let go of after the lock, which its end would take again
  Shard& shard = shard_of(hash);
  const std::lock_guard lock(shard.mutex);
  Entry* const entry = shard.find(key, hash);
  if (entry == nullptr) return;
  current = entry->flight.lock();
  if (current.get() != &flight) return;
  if (outdated) {
    entry->begin_change();
  } else {
    entry->flight.reset();
  }
}

void WriteGate::take_token(MissToken& token, Shard& shard, Entry& entry) {
  ++entry.tokens;
  token.shard_ = &shard;
  token.entry_ = &entry;
  token.writes_begun_ = entry.writes_begun;
  token.write_was_pending_ = entry.running;
}

WriteGate::MissToken WriteGate::watch(base::Bytes key, std::uint64_t hash) {
  Shard& shard = shard_of(hash);
  const std::lock_guard lock(shard.mutex);
  MissToken token;
  take_token(token, shard, shard.find_or_add(key, hash));
  return token;
}

bool WriteGate::may_publish(const MissToken& token) const {
  const std::unique_lock<std::mutex> lock = lock_of(token);
  return allowed_locked(token);
}

void WriteGate::remember_absent(const MissToken& token, base::TimePoint asked_at) {
  const std::unique_lock<std::mutex> lock = lock_of(token);
  if (!allowed_locked(token)) return;
  const OwnedKey& key = *token.entry_->key;
  token.shard_->absent.remember(proto::as_bytes(key.text), key.hash, asked_at + negative_ttl_);
}

std::unique_lock<std::mutex> WriteGate::lock_of(const MissToken& token) {
  CHECK(token.shard_ != nullptr);
  return std::unique_lock(token.shard_->mutex);
}

bool WriteGate::allowed_locked(const MissToken& token) {
  return !token.write_was_pending_ && token.entry_->writes_begun == token.writes_begun_;
}

void WriteGate::note_change_locked(const MissToken& token) { token.entry_->begin_change(); }

std::unique_lock<std::mutex> WriteGate::lock_for_change(base::Bytes key, std::uint64_t hash) {
  Shard& shard = shard_of(hash);
  std::unique_lock lock(shard.mutex);
  shard.absent.forget(key, hash);
  if (Entry* const entry = shard.find(key, hash)) entry->begin_change();
  return lock;
}

std::size_t WriteGate::entries() const {
  std::size_t count = 0;
  for (const Shard& shard : *shards_) {
    const std::lock_guard lock(shard.mutex);
    count += shard.entries.size();
  }
  return count;
}

}  // namespace cistern::service
