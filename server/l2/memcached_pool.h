// The threads on which libmemcached may block: one bounded pool for the process, shared by all
// workers, with a bounded queue for each server and a connection for each (thread, server).
//
// A server that stalls holds threads until its calls time out, but never all: as long as other
// servers have none at work, one is kept free for each of them. After a failure a server is down:
// what waits for it fails at once, and so does what comes, until one thread, by itself and after a
// pause that doubles from 50 ms to 5 s, has got an answer from it. No server is ever removed, and
// no key moves to another.
//
// All functions may be called on any thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "server/l2/backoff.h"
#include "server/l2/ketama.h"
#include "server/l2/memcached_clock.h"
#include "server/l2/memcached_link.h"
#include "server/l2/memcached_options.h"
#include "server/l2/redis_connect.h"
#include "server/l2/server_state.h"

namespace cistern::l2 {

// What is to be done on one server. Exactly one of its functions is called, on a thread of the
// pool, or inside submit() or the pool's destructor for `refuse`; none if it was given up first.
class MemcachedJob {
 public:
  virtual ~MemcachedJob() = default;

  // A read of one item; neighbours in the queue leave together. Empty: run() is called.
  std::string name;
  std::size_t most_bytes = 0;
  // `item` is null where there is none; too_large: there is one with more than most_bytes.
  virtual void on_read(const MemcachedLink::Item* item, bool too_large) = 0;
  virtual void run(MemcachedLink& link) = 0;
  // It was not begun, or its read was not answered.
  virtual void refuse(const base::Error& why) = 0;

  // False: it has been given up.
  bool begin() { return move_to(State::kBegun); }
  // True: it wasn't begun, and never will be.
  bool give_up() { return move_to(State::kGivenUp); }
  // After begin(): its result isn't wanted any more.
  void forget() { is_forgotten_ = true; }
  bool is_forgotten() const { return is_forgotten_; }

 private:
  enum class State : std::uint8_t { kWaiting, kBegun, kGivenUp };
  bool move_to(State state) {
    State expected = State::kWaiting;
    return state_.compare_exchange_strong(expected, state);
  }
  std::atomic<State> state_{State::kWaiting};
  std::atomic<bool> is_forgotten_{false};
};

class MemcachedPool {
 public:
  explicit MemcachedPool(MemcachedOptions options);
  // Starts the threads, which begin to connect, and log it: after log::init(). Jobs wait until
  // then. Once. Throws std::system_error.
  void start();
  // Refuses what waits, and joins the threads, which their timeouts bound.
  ~MemcachedPool();
  MemcachedPool(const MemcachedPool&) = delete;
  MemcachedPool& operator=(const MemcachedPool&) = delete;

  const MemcachedOptions& options() const { return options_; }
  std::size_t server_of(std::string_view key) const { return ketama_.server_of(key); }
  MemcachedClock& clock(std::size_t server) { return servers_[server]->clock; }

  // kL2Unavailable while the server is down, kL2Busy when its queue is full; then nothing of the
  // job is called. While the first attempt to connect is under way, jobs wait for it.
  base::Result<void> submit(std::size_t server, std::shared_ptr<MemcachedJob> job);

  // Error: none of the servers can be used.
  base::Result<void> usable() const;
  // Error: that, or a server's largest item is smaller than l2.memcached.item_max_bytes.
  base::Result<void> fit() const;
  std::vector<ServerState> states() const;

  // Whether the manifest of this version, which has no expiry, is to be renewed now; it is taken
  // for renewed from then on. Once in a quarter of max_idle for each of those that are remembered.
  bool take_renewal(base::Version version, base::TimePoint now);

 private:
  enum class Health : std::uint8_t { kNew, kUp, kDown, kUnfit };
  using JobPtr = std::shared_ptr<MemcachedJob>;
  struct Server {
    MemcachedAddress address;
    std::string label;
    MemcachedClock clock;
    Health health = Health::kNew;
    base::Error why;             // when it is neither new nor up
    base::TimePoint next_probe;  // of one that isn't up
    bool is_probed = false;
    Backoff backoff;
    std::deque<JobPtr> queue;
    unsigned threads = 0;  // at work on it
    std::uint64_t failures = 0;
    std::uint64_t refused = 0;
  };
  // What a thread does next.
  struct Turn {
    Server* server = nullptr;  // null: the pool ends
    std::size_t index = 0;
    bool is_probe = false;
    std::vector<JobPtr> jobs;  // one, or reads
  };

  void work(unsigned thread);
  Turn next_turn(std::unique_lock<std::mutex>& lock);
  bool find_turn(base::TimePoint now, Turn& turn);
  bool may_take(const Server& server) const;
  static std::vector<JobPtr> take_jobs(Server& server);
  void probe(Server& server, MemcachedLink& link);
  void execute(Server& server, MemcachedLink& link, const std::vector<JobPtr>& jobs);
  static void execute_reads(MemcachedLink& link, const std::vector<JobPtr>& jobs);
  void went_down(Server& server, Health health, const base::Error& why);

  const MemcachedOptions options_;
  const Ketama ketama_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Server>> servers_;
  unsigned idle_threads_ = 0;
  std::size_t last_server_ = 0;  // turns go round
  bool is_ending_ = false;
  struct Renewed {
    base::Version version = 0;
    base::TimePoint at{};
  };
  std::vector<Renewed> renewed_;  // by version; a collision costs one renewal too many
  std::vector<std::thread> threads_;
};

}  // namespace cistern::l2
