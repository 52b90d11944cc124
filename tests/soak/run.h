// One run of the load: what all actors share, and what they report.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <semaphore>
#include <string>
#include <string_view>
#include <vector>

#include "tests/soak/truth.h"

namespace cistern::soak {

using Clock = std::chrono::steady_clock;

struct Options {
  std::string tcp_endpoint;
  std::string unix_endpoint;
  unsigned connections = 200;
  unsigned seconds = 60;
  std::uint64_t seed = 1;
  std::uint64_t max_value_bytes = std::uint64_t{1} << 30;
};

// Any thread.
class Run {
 public:
  Run(const Options& options, unsigned owners);

  const Options& options() const { return options_; }
  Keys& keys() { return keys_; }
  std::uint64_t new_id() { return ++last_id_; }
  bool is_over() const { return Clock::now() >= until_; }
  // The end, or sooner; whoever waits on purpose waits in here.
  void pause(std::chrono::milliseconds time) const;

  // How one operation ended: "OK", a status' name, or what went wrong with the connection.
  void count(std::string_view operation, std::string_view result, std::uint64_t times = 1);
  // Something that must never happen.
  void wrong(const std::string& what);
  void moved(std::uint64_t read_bytes, std::uint64_t written_bytes);

  // Few values are huge at the same time, or nothing else would move.
  bool try_begin_huge() { return huge_.try_acquire(); }
  void end_huge() { huge_.release(); }

  // A large value was stored under this key.
  void stored_large(std::size_t key);
  // One of the last of these keys; the same one for everybody who asks within two seconds if
  // `draw` is 0. Any key while there are none.
  std::size_t large_key(std::uint64_t draw);

  // What was counted so far, as JSON members.
  std::string counts() const;
  std::vector<std::string> all_wrong() const;
  std::uint64_t read_bytes() const { return read_bytes_; }
  std::uint64_t written_bytes() const { return written_bytes_; }

 private:
  const Options options_;
  const Clock::time_point began_ = Clock::now();
  const Clock::time_point until_;
  Keys keys_;
  std::atomic<std::uint64_t> last_id_{0};
  std::atomic<std::uint64_t> read_bytes_{0};
  std::atomic<std::uint64_t> written_bytes_{0};
  std::counting_semaphore<4> huge_{4};
  mutable std::mutex mutex_;
  std::map<std::string, std::map<std::string, std::uint64_t, std::less<>>, std::less<>> counts_;
  std::vector<std::string> wrong_;
  std::vector<std::size_t> large_;  // the last ones, in a ring
  std::size_t next_large_ = 0;
};

// Somebody with a connection (and a thread) of its own, who does one thing after the other.
class Actor {
 public:
  Actor(Run& run, unsigned number)
      : run_(run), number_(number), random_(run.options().seed * 1'000'003 + number) {}
  virtual ~Actor() = default;
  Actor(const Actor&) = delete;
  Actor& operator=(const Actor&) = delete;

  // Steps until the run is over.
  void run();

 protected:
  virtual void step() = 0;
  std::uint64_t below(std::uint64_t bound) { return random_() % bound; }
  bool chance(unsigned percent) { return below(100) < percent; }
  // Between 1 and `most`, every order of magnitude as likely as every other.
  std::uint64_t log_uniform(std::uint64_t least, std::uint64_t most);
  // Any key; often one that many others read now.
  std::size_t any_key() {
    return chance(25) ? run_.large_key(0) : std::size_t{below(run_.keys().count())};
  }
  // One with something to read, as far as is known.
  const std::string& large_key() { return run_.keys().name(run_.large_key(1 + below(1'000'000))); }
  const std::string& endpoint() {
    return chance(75) ? run_.options().tcp_endpoint : run_.options().unix_endpoint;
  }

  Run& run_;
  const unsigned number_;
  std::mt19937_64 random_;
};

// Reads and writes whole values and parts through the client library; owns some keys.
std::unique_ptr<Actor> library_actor(Run& run, unsigned number, unsigned owner);
// Those who misbehave, by hand.
std::unique_ptr<Actor> slow_reader(Run& run, unsigned number);
std::unique_ptr<Actor> stalled_reader(Run& run, unsigned number);
std::unique_ptr<Actor> abandoning_writer(Run& run, unsigned number);
// Batches of many tiny values, pipelined.
std::unique_ptr<Actor> tiny_actor(Run& run, unsigned number);
// Comes, asks for little or nothing, and goes.
std::unique_ptr<Actor> passer_by(Run& run, unsigned number);

}  // namespace cistern::soak
