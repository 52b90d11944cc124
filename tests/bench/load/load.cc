#include "tests/bench/load/load.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <limits>
#include <stdexcept>

#include <nlohmann/json.hpp>

namespace cistern::bench {
namespace {

constexpr std::int64_t kNsPerSecond = 1'000'000'000;
constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();
// Without any event for so long a run is over, and what is open has failed.
constexpr std::int64_t kStallNs = 30 * kNsPerSecond;
constexpr std::size_t kEvents = 256;
constexpr std::size_t kBufferBytes = 256 * proto::kKiB;
constexpr unsigned kMaxFailures = 10;
constexpr unsigned kFillDepth = 128;
// A slow reader reads about so often in a second.
constexpr std::uint64_t kSlowReads = 50;
constexpr std::uint64_t kMinSlowBytes = 1024;

SystemOptions system_options(const Config& config) {
  SystemOptions options;
  options.first_key = config.first_key;
  options.keys = config.keys;
  options.has_gets = config.put_share < 1;
  options.has_puts = config.put_share > 0;
  options.ttl_ms = config.ttl_ms;
  return options;
}

std::unique_ptr<System> make_system(const Config& config, const Corpus& corpus) {
  const SystemOptions options = system_options(config);
  if (config.system == "cistern") return make_cistern(corpus, options);
  if (config.system == "redis") return make_redis(corpus, options);
  return make_memcached(corpus, options);
}

}  // namespace

Load::Load(const Config& config)
    : config_(config),
      corpus_(config_.key_prefix, config_.value),
      buffer_(kBufferBytes),
      system_(make_system(config_, corpus_)),
      shared_{config_, corpus_, *system_, totals_, buffer_},
      plan_(config_),
      epoll_(epoll_create1(EPOLL_CLOEXEC)) {
  if (!epoll_.is_open()) throw std::runtime_error("epoll_create1 failed");
  is_batched_ = corpus_.max_bytes() <= kSmallValueBytes;
  for (unsigned i = 0; i < config_.connections; ++i) {
    links_.push_back(std::make_unique<Link>(shared_));
  }
  open_all();
}

void Load::open_all() {
  plan_.stop();
  active_ = links_.size();
  for (std::size_t i = 0; i < links_.size(); ++i) {
    if (!links_[i]->connection.is_connected()) connect(i, true);
  }
  const std::int64_t deadline = now_ns() + kStallNs;
  const auto is_open = [](const auto& link) { return link->connection.is_open(); };
  while (!std::all_of(links_.begin(), links_.end(), is_open)) {
    if (now_ns() >= deadline) {
      throw std::runtime_error(
          proto::to_string(config_.endpoint) + ": no answer to the opening of " +
          "a connection within 30 s; is it a server of " + config_.system + "?");
    }
    turn(deadline);
    if (!totals_.first_error.empty()) throw std::runtime_error(totals_.first_error);
  }
}

void Load::connect(std::size_t index, bool waits) {
  Link& link = *links_[index];
  link.connection.connect(waits);
  link.interest = EPOLLIN;
  link.resumes_ns = 0;
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = index;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, link.connection.fd(), &event) != 0) {
    throw std::runtime_error(std::string("epoll_ctl failed: ") + std::strerror(errno));
  }
  if (waits) send(index);
}

nlohmann::json Load::fill(KeyIndex first, KeyIndex last) {
  open_all();
  plan_.begin_fill(first, last);
  is_filling_ = true;
  // One connection keeps the order; small values need no more, since they go in large batches.
  const nlohmann::json result =
      is_batched_ ? drive(0, kFillDepth, 1) : drive(0, config_.depth, config_.connections);
  is_filling_ = false;
  return result;
}

nlohmann::json Load::run(double seconds) {
  open_all();
  plan_.begin_run();
  return drive(config_.operations == 0 ? seconds : 0, config_.depth, config_.connections);
}

// `seconds` 0: until the plan has nothing more.
nlohmann::json Load::drive(double seconds, unsigned depth, unsigned links) {
  totals_ = Totals();
  depth_ = std::min(depth, links_[0]->connection.max_open());
  active_ = links;
  issued_ = 0;
  for (auto& link : links_) link->failures = 0;
  const bool is_open_loop = config_.rate > 0 && !is_filling_;
  const std::int64_t cpu_began = cpu_ns();
  began_ns_ = now_ns();
  const std::int64_t deadline =
      seconds > 0 ? began_ns_ + static_cast<std::int64_t>(seconds * 1e9) : kNever;
  try {
    if (is_open_loop) dispatch(began_ns_);
    for (std::size_t i = 0; i < active_ && !is_open_loop; ++i) refill(i);
    wait_for_end(deadline, is_open_loop);
  } catch (...) {
    abandon();
    throw;
  }
  if (reads_slowly()) abandon();
  plan_.stop();
  const std::int64_t elapsed = now_ns() - began_ns_;
  const std::int64_t cpu = cpu_ns() - cpu_began;
  return report(totals_, static_cast<double>(elapsed) / 1e9, static_cast<double>(cpu) / 1e9);
}

// What is open at the deadline is waited for, since a part of a large value counts for nothing; but
// for a slow reader, who would take minutes.
void Load::wait_for_end(std::int64_t deadline_ns, bool is_open_loop) {
  std::uint64_t bytes = 0;
  std::int64_t moved_ns = began_ns_;
  for (;;) {
    const std::int64_t now = now_ns();
    if (now >= deadline_ns) plan_.stop();
    if (plan_.is_stopped() && (reads_slowly() || !has_open())) return;
    if (!is_open_loop && !has_open()) return;
    if (totals_.bytes_in + totals_.bytes_out != bytes) {
      bytes = totals_.bytes_in + totals_.bytes_out;
      moved_ns = now;
    } else if (now - moved_ns > kStallNs && has_open()) {
      for (auto& link : links_) link->connection.fail_open("no answer within 30 s");
      return abandon();
    }
    turn(now < deadline_ns ? std::min(deadline_ns, now + kStallNs) : now + kStallNs);
  }
}

void Load::abandon() {
  for (auto& link : links_) {
    link->connection.forget_open();
    link->connection.close();
  }
}

std::int64_t Load::next_wakeup(std::int64_t deadline_ns) const {
  std::int64_t next = deadline_ns;
  // What is due and has no room waits for an event, not for a time.
  if (config_.rate > 0 && !is_filling_ && !plan_.is_stopped() && has_room_) {
    next = std::min(next, due_ns(issued_));
  }
  if (reads_slowly()) {
    for (const auto& link : links_) {
      if (link->resumes_ns != 0) next = std::min(next, link->resumes_ns);
    }
  }
  return next;
}

void Load::turn(std::int64_t deadline_ns) {
  std::array<epoll_event, kEvents> events;
  const std::int64_t wait = std::max<std::int64_t>(0, next_wakeup(deadline_ns) - now_ns());
  const timespec timeout{wait / kNsPerSecond, wait % kNsPerSecond};
  const int count =
      epoll_pwait2(epoll_.get(), events.data(), static_cast<int>(kEvents), &timeout, nullptr);
  if (count < 0 && errno != EINTR) {
    throw std::runtime_error(std::string("epoll_pwait2 failed: ") + std::strerror(errno));
  }
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<std::size_t>(i)];
    on_event(static_cast<std::size_t>(event.data.u64), event.events);
  }
  if (reads_slowly()) resume_slow(now_ns());
  // What comes due after the end isn't sent, however late this turn is.
  if (config_.rate > 0 && !is_filling_) dispatch(std::min(now_ns(), deadline_ns));
}

void Load::on_event(std::size_t index, std::uint32_t events) {
  Link& link = *links_[index];
  Connection& connection = link.connection;
  if (!connection.is_connected()) return;  // closed by an earlier event of the same turn
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
    const std::uint64_t rate = config_.read_bytes_per_second;
    const std::size_t at_most =
        rate == 0 ? kBufferBytes : std::max<std::size_t>(kMinSlowBytes, rate / kSlowReads);
    const std::uint64_t before = connection.received_bytes();
    if (!connection.receive(at_most)) return on_lost(index, connection.why());
    if (rate != 0) {
      const std::uint64_t got = connection.received_bytes() - before;
      link.resumes_ns = now_ns() + static_cast<std::int64_t>(got * 1'000'000'000 / rate);
    }
  }
  if (config_.is_churn && !is_filling_ && connection.open_requests() == 0) {
    connection.close();
    if (plan_.is_stopped()) return;
  }
  if (config_.rate > 0 && !is_filling_) return send(index);
  refill(index);
}

void Load::refill(std::size_t index) {
  Connection& connection = links_[index]->connection;
  if (index < active_ && !(is_batched_ && connection.open_requests() > 0)) {
    batch_.clear();
    std::vector<KeyIndex>& missed = connection.missed();
    while (connection.open_requests() + batch_.size() < depth_) {
      std::optional<Operation> next;
      if (!missed.empty()) {
        next = Operation{missed.back(), true};
        missed.pop_back();
      } else {
        next = plan_.next(static_cast<unsigned>(index));
      }
      if (!next) break;
      connection.prefetch(*next);
      batch_.push_back(*next);
    }
    if (!batch_.empty()) {
      const std::int64_t now = now_ns();
      if (!connection.is_connected()) connect(index, false);
      for (const Operation& operation : batch_) connection.issue(operation, now);
    }
  }
  if (connection.is_connected()) send(index);
}

std::int64_t Load::due_ns(std::uint64_t number) const {
  return began_ns_ + static_cast<std::int64_t>(static_cast<double>(number) * 1e9 / config_.rate);
}

void Load::dispatch(std::int64_t now) {
  has_room_ = true;
  while (!plan_.is_stopped() && due_ns(issued_) <= now) {
    std::size_t tried = 0;
    do {
      last_link_ = (last_link_ + 1) % links_.size();
    } while (links_[last_link_]->connection.open_requests() >= depth_ && ++tried < links_.size());
    Connection& connection = links_[last_link_]->connection;
    has_room_ = connection.open_requests() < depth_;
    if (!has_room_) return;
    std::optional<Operation> next = plan_.next(static_cast<unsigned>(last_link_));
    if (!next) return plan_.stop();
    const std::int64_t intended = due_ns(issued_);
    ++issued_;
    if (!connection.is_connected()) connect(last_link_, false);
    connection.issue(*next, intended);
    send(last_link_);
  }
}

void Load::resume_slow(std::int64_t now) {
  for (std::size_t i = 0; i < links_.size(); ++i) {
    Link& link = *links_[i];
    if (link.resumes_ns == 0 || link.resumes_ns > now) continue;
    link.resumes_ns = 0;
    if (link.connection.is_connected()) watch(i);
  }
}

void Load::send(std::size_t index) {
  Connection& connection = links_[index]->connection;
  if (connection.has_unsent() && !connection.flush()) return on_lost(index, connection.why());
  watch(index);
}

void Load::watch(std::size_t index) {
  Link& link = *links_[index];
  std::uint32_t wanted = link.resumes_ns == 0 ? static_cast<std::uint32_t>(EPOLLIN) : 0u;
  if (link.connection.has_unsent()) wanted |= EPOLLOUT;
  if (wanted == link.interest) return;
  link.interest = wanted;
  epoll_event event{};
  event.events = wanted;
  event.data.u64 = index;
  epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, link.connection.fd(), &event);
}

void Load::on_lost(std::size_t index, const std::string& why) {
  Link& link = *links_[index];
  if (link.connection.open_requests() > 0) {
    link.connection.fail_open(why);
  } else {
    totals_.fail(why);
  }
  link.connection.close();
  // Others may go on; one that keeps failing is given up, and so is the run once all are.
  if (plan_.is_stopped() || ++link.failures > kMaxFailures) return;
  refill(index);
}

}  // namespace cistern::bench
