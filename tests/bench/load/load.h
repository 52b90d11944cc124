// The load on one server: one epoll loop over all connections.
//
// Closed loop, small values: a connection sends `depth` requests in one system call and the next
// ones once all of them were answered, so that batches stay whole whatever the server's replies are
// cut into. Closed loop, large values: an answer is followed by the next request. Open loop (a
// rate): requests are due at even intervals, go to the next connection that has room, and their
// latency begins when they were due, also if none had.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "tests/bench/load/connection.h"
#include "tests/bench/load/runner.h"

namespace cistern::bench {

class Load final : public Runner {
 public:
  // Connects. Throws std::runtime_error when the server can't be reached or doesn't answer.
  explicit Load(const Config& config);
  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;

  nlohmann::json fill(KeyIndex first, KeyIndex last) override;
  nlohmann::json run(double seconds) override;

 private:
  struct Link {  // a connection, and what the loop knows of it
    explicit Link(Connection::Shared& shared) : connection(shared) {}
    Connection connection;
    std::uint32_t interest = 0;
    std::int64_t resumes_ns = 0;  // a slow reader reads again then; 0: it may read now
    unsigned failures = 0;        // to reach the server, in a row
  };

  void open_all();
  nlohmann::json drive(double seconds, unsigned depth, unsigned links);
  void turn(std::int64_t deadline_ns);
  void on_event(std::size_t index, std::uint32_t events);
  // Issues what a closed loop has room for, and sends it.
  void refill(std::size_t index);
  // Issues what is due of an open loop.
  void dispatch(std::int64_t now);
  void resume_slow(std::int64_t now);
  void send(std::size_t index);
  void watch(std::size_t index);
  void connect(std::size_t index, bool waits);
  void on_lost(std::size_t index, const std::string& why);
  bool has_open() const { return shared_.open > 0; }
  void wait_for_end(std::int64_t deadline_ns, bool is_open_loop);
  bool reads_slowly() const { return config_.read_bytes_per_second > 0; }
  std::int64_t due_ns(std::uint64_t number) const;
  // When the loop has to look again though nothing arrives; far away: never.
  std::int64_t next_wakeup(std::int64_t deadline_ns) const;
  void abandon();

  Config config_;
  Corpus corpus_;
  Totals totals_;
  std::vector<std::byte> buffer_;
  std::unique_ptr<System> system_;
  Connection::Shared shared_;
  Plan plan_;
  Fd epoll_;
  std::vector<std::unique_ptr<Link>> links_;
  std::vector<Operation> batch_;
  unsigned depth_ = 1;
  std::size_t active_ = 1;  // so many links, the first ones, take part in what runs
  bool is_batched_ = true;
  bool is_filling_ = false;
  // An open loop's: when it began, how many were issued, and who had the last one.
  std::int64_t began_ns_ = 0;
  std::uint64_t issued_ = 0;
  std::size_t last_link_ = 0;
  bool has_room_ = true;  // on some connection, for what is due
};

}  // namespace cistern::bench
