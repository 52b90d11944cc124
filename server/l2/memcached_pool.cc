#include "server/l2/memcached_pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include <fmt/format.h>

#include "server/base/check.h"
#include "server/base/log.h"

namespace cistern::l2 {
namespace {

using base::Status;
using std::chrono::steady_clock;

// Reads that leave together: small ones spare round trips, large ones have no more than a reader
// keeps under way.
constexpr std::size_t kSmallBatch = 64;
constexpr std::size_t kLargeBatch = 4;
constexpr std::size_t kRenewedSlots = 4096;
// A server that doesn't fit is looked at again after this: it may have been started anew.
constexpr base::Duration kUnfitPause = std::chrono::seconds(2);

base::Error closed() { return {Status::kShuttingDown, "the second tier is being closed"}; }

}  // namespace

MemcachedPool::MemcachedPool(MemcachedOptions options)
    : options_(std::move(options)),
      ketama_(options_.servers, options_.is_weighted),
      renewed_(kRenewedSlots) {
  CHECK(options_.pool_threads >= options_.servers.size());
  for (const MemcachedAddress& address : options_.servers) {
    auto server = std::make_unique<Server>();
    server->address = address;
    server->label = display(address);
    servers_.push_back(std::move(server));
  }
  idle_threads_ = options_.pool_threads;
}

void MemcachedPool::start() {
  // Signals are the main thread's.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  for (unsigned i = 0; i < options_.pool_threads; ++i) {
    threads_.emplace_back([this, i] { work(i); });
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

MemcachedPool::~MemcachedPool() {
  std::vector<JobPtr> dropped;
  {
    const std::lock_guard lock(mutex_);
    is_ending_ = true;
    for (const auto& server : servers_) {
      for (JobPtr& job : server->queue) dropped.push_back(std::move(job));
      server->queue.clear();
    }
  }
  changed_.notify_all();
  for (const JobPtr& job : dropped) {
    if (job->begin()) job->refuse(closed());
  }
  for (std::thread& thread : threads_) thread.join();
}

base::Result<void> MemcachedPool::submit(std::size_t index, JobPtr job) {
  Server& server = *servers_[index];
  {
    const std::lock_guard lock(mutex_);
    if (is_ending_) return tl::unexpected(closed());
    if (server.health == Health::kDown || server.health == Health::kUnfit) {
      ++server.refused;
      return tl::unexpected(server.why);
    }
    if (server.queue.size() >= options_.max_queued) {
      return base::fail(Status::kL2Busy,
                        fmt::format("memcached at {}: {} operations wait for it already",
                                    server.label, server.queue.size()));
    }
    server.queue.push_back(std::move(job));
  }
  changed_.notify_one();
  return {};
}

base::Result<void> MemcachedPool::usable() const {
  const std::lock_guard lock(mutex_);
  if (is_ending_) return tl::unexpected(closed());
  for (const auto& server : servers_) {
    if (server->health == Health::kNew || server->health == Health::kUp) return {};
  }
  if (servers_.size() == 1) return tl::unexpected(servers_.front()->why);
  return base::fail(Status::kL2Unavailable,
                    fmt::format("none of the {} memcached servers can be used; {}", servers_.size(),
                                servers_.front()->why.message));
}

base::Result<void> MemcachedPool::fit() const {
  if (auto any = usable(); !any) return any;
  const std::lock_guard lock(mutex_);
  for (const auto& server : servers_) {
    if (server->health == Health::kUnfit) return tl::unexpected(server->why);
  }
  return {};
}

std::vector<ServerState> MemcachedPool::states() const {
  std::vector<ServerState> states;
  const std::lock_guard lock(mutex_);
  for (const auto& server : servers_) {
    const bool is_up = server->health == Health::kUp;
    states.push_back({server->label, is_up, is_up ? "" : server->why.message, server->queue.size(),
                      server->failures, server->refused});
  }
  return states;
}

bool MemcachedPool::take_renewal(base::Version version, base::TimePoint now) {
  const std::lock_guard lock(mutex_);
  Renewed& slot = renewed_[version % renewed_.size()];
  if (slot.version == version && now - slot.at < options_.max_idle / 4) return false;
  slot = {version, now};
  return true;
}

// -- the threads ---------------------------------------------------------------------------------

void MemcachedPool::work(unsigned thread) {
  ::pthread_setname_np(::pthread_self(), fmt::format("memcached-{}", thread).c_str());
  std::vector<std::unique_ptr<MemcachedLink>> links(servers_.size());
  std::unique_lock lock(mutex_);
  for (;;) {
    const Turn turn = next_turn(lock);
    if (turn.server == nullptr) return;
    Server& server = *turn.server;
    ++server.threads;
    --idle_threads_;
    lock.unlock();
    auto& link = links[turn.index];
    if (!link) link = std::make_unique<MemcachedLink>(options_, server.address, server.clock);
    if (turn.is_probe) {
      probe(server, *link);
    } else {
      execute(server, *link, turn.jobs);
    }
    lock.lock();
    --server.threads;
    ++idle_threads_;
    // What was kept back for want of a thread may be possible now.
    changed_.notify_one();
  }
}

MemcachedPool::Turn MemcachedPool::next_turn(std::unique_lock<std::mutex>& lock) {
  for (;;) {
    if (is_ending_) return {};
    const base::TimePoint now = steady_clock::now();
    Turn turn;
    if (find_turn(now, turn)) return turn;
    std::optional<base::TimePoint> next;
    for (const auto& server : servers_) {
      if (server->health == Health::kUp || server->is_probed) continue;
      next = std::min(next.value_or(server->next_probe), server->next_probe);
    }
    if (next) {
      changed_.wait_until(lock, *next);
    } else {
      changed_.wait(lock);
    }
  }
}

bool MemcachedPool::find_turn(base::TimePoint now, Turn& turn) {
  for (std::size_t i = 1; i <= servers_.size(); ++i) {
    const std::size_t index = (last_server_ + i) % servers_.size();
    Server& server = *servers_[index];
    if (!may_take(server)) continue;
    if (server.health != Health::kUp) {
      if (server.is_probed || now < server.next_probe) continue;
      server.is_probed = true;
      turn.is_probe = true;
    } else {
      turn.jobs = take_jobs(server);
      if (turn.jobs.empty()) continue;
    }
    turn.server = &server;
    turn.index = index;
    last_server_ = index;
    return true;
  }
  return false;
}

bool MemcachedPool::may_take(const Server& server) const {
  if (server.threads == 0) return true;
  const auto without = std::ranges::count_if(
      servers_, [](const std::unique_ptr<Server>& other) { return other->threads == 0; });
  return idle_threads_ > static_cast<unsigned>(without);
}

std::vector<MemcachedPool::JobPtr> MemcachedPool::take_jobs(Server& server) {
  std::vector<JobPtr> jobs;
  while (!server.queue.empty()) {
    const MemcachedJob& next = *server.queue.front();
    if (!jobs.empty()) {
      const bool is_large = jobs.front()->most_bytes > kMaxManifestBytes;
      if (next.name.empty() || (next.most_bytes > kMaxManifestBytes) != is_large ||
          jobs.size() >= (is_large ? kLargeBatch : kSmallBatch)) {
        break;
      }
    }
    JobPtr job = std::move(server.queue.front());
    server.queue.pop_front();
    if (!job->begin()) continue;  // given up
    const bool is_alone = job->name.empty();
    jobs.push_back(std::move(job));
    if (is_alone) break;
  }
  return jobs;
}

void MemcachedPool::probe(Server& server, MemcachedLink& link) {
  const auto item_bytes = link.greet();
  static_cast<void>(link.take_trouble());
  base::Error why;
  Health health = Health::kUp;
  if (!item_bytes) {
    health = Health::kDown;
    why = item_bytes.error();
  } else if (*item_bytes < options_.item_max_bytes) {
    health = Health::kUnfit;
    why = {
        Status::kL2Unavailable,
        fmt::format("memcached at {}: its largest item (-I) has {} bytes, less than "
                    "l2.memcached.item_max_bytes ({}); start it with -I {} or lower "
                    "l2.memcached.item_max_bytes and storage.chunk_bytes. It is not used",
                    server.label, *item_bytes, options_.item_max_bytes, options_.item_max_bytes)};
  }
  if (health != Health::kUp) return went_down(server, health, why);
  {
    const std::lock_guard lock(mutex_);
    server.is_probed = false;
    server.health = Health::kUp;
    server.backoff.reset();
  }
  base::log::info("connected to memcached", {{"server", server.label}});
  changed_.notify_all();
}

void MemcachedPool::went_down(Server& server, Health health, const base::Error& why) {
  std::deque<JobPtr> waiting;
  bool is_news = false;
  {
    const std::lock_guard lock(mutex_);
    is_news = server.health != health;
    if (server.health == Health::kUp || server.health == Health::kNew) ++server.failures;
    server.is_probed = false;
    server.health = health;
    server.why = {Status::kL2Unavailable, why.message};
    server.next_probe =
        steady_clock::now() + (health == Health::kUnfit ? kUnfitPause : server.backoff.next());
    waiting = std::exchange(server.queue, {});
    server.refused += waiting.size();
  }
  if (is_news && health == Health::kUnfit) {
    base::log::error("a memcached server does not fit the configuration",
                     {{"server", server.label}, {"why", why.message}});
  } else if (is_news) {
    base::log::warn(
        "a memcached server cannot be reached; its values are out of reach until it "
        "is back",
        {{"server", server.label}, {"why", why.message}});
  }
  for (const JobPtr& job : waiting) {
    if (job->begin()) job->refuse(why);
  }
  changed_.notify_all();
}

void MemcachedPool::execute(Server& server, MemcachedLink& link, const std::vector<JobPtr>& jobs) {
  if (jobs.front()->name.empty()) {
    jobs.front()->run(link);
  } else {
    execute_reads(link, jobs);
  }
  const auto trouble = link.take_trouble();
  if (!trouble) return;
  {
    const std::lock_guard lock(mutex_);
    if (server.health != Health::kUp) return;  // another thread has seen it, too
  }
  went_down(server, Health::kDown, *trouble);
}

void MemcachedPool::execute_reads(MemcachedLink& link, const std::vector<JobPtr>& jobs) {
  std::vector<std::string> names;
  std::vector<bool> answered(jobs.size(), false);
  std::size_t most_bytes = 0;
  for (const JobPtr& job : jobs) {
    names.push_back(job->name);
    most_bytes = std::max(most_bytes, job->most_bytes);
  }
  const auto read =
      link.read(names, most_bytes, [&](std::size_t i, const MemcachedLink::Item* item) {
        answered[i] = true;
        const bool too_large = item == nullptr || item->bytes.size() > jobs[i]->most_bytes;
        jobs[i]->on_read(too_large ? nullptr : item, too_large);
      });
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    if (answered[i]) continue;
    if (read) {
      jobs[i]->on_read(nullptr, false);
    } else {
      jobs[i]->refuse(read.error());
    }
  }
}

}  // namespace cistern::l2
