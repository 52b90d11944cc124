#include "server/service/upkeep.h"

#include <algorithm>
#include <utility>

#include "server/base/log.h"

namespace cistern::service {
namespace {

log::Limit warnings(1);

struct Slices : std::enable_shared_from_this<Slices> {
  l2::Store& store;
  l2::ChunkSet set;
  std::uint64_t next;
  base::Duration ttl;
  bool only_longer;
  l2::Callback<std::uint64_t> done;
  std::function<bool()> wanted;
  std::uint64_t there = 0;

  Slices(l2::Store& the_store, l2::ChunkSet the_set, std::uint64_t first, base::Duration the_ttl,
         bool longer, l2::Callback<std::uint64_t> the_done, std::function<bool()> is_wanted)
      : store(the_store),
        set(std::move(the_set)),
        next(first),
        ttl(the_ttl),
        only_longer(longer),
        done(std::move(the_done)),
        wanted(std::move(is_wanted)) {}

  bool over() const { return next == set.chunk_count || (wanted && !wanted()); }
  void step() {
    const std::uint64_t first = next;
    next = std::min(set.chunk_count, first + Upkeep::kSliceChunks);
    store.expire_chunks(set, first, next, ttl, only_longer,
                        [self = shared_from_this()](base::Result<std::uint64_t> count) {
                          if (!count) return self->done(std::move(count));
                          self->there += *count;
                          if (self->over()) return self->done(self->there);
                          self->step();
                        });
  }
};

}  // namespace

void expire_all(l2::Store& store, l2::ChunkSet set, std::uint64_t first, base::Duration ttl,
                bool only_longer, l2::Callback<std::uint64_t> done, std::function<bool()> wanted) {
  std::make_shared<Slices>(store, std::move(set), first, ttl, only_longer, std::move(done),
                           std::move(wanted))
      ->step();
}

struct Upkeep::State : std::enable_shared_from_this<State> {
  struct Task {
    l2::ChunkSet set;
    std::uint64_t first;
    base::Duration ttl;
    bool only_longer;
    std::function<bool()> wanted;
  };

  l2::Store* store;
  base::WorkerMetrics& metrics;
  std::function<void()> idle;
  std::deque<Task> queue{};
  std::size_t running = 0;

  State(l2::Store* the_store, base::WorkerMetrics& the_metrics, std::function<void()> the_idle)
      : store(the_store), metrics(the_metrics), idle(std::move(the_idle)) {}

  void start() {
    while (running < kMaxRunning && !queue.empty()) {
      Task task = std::move(queue.front());
      queue.pop_front();
      if (task.wanted && !task.wanted()) continue;
      ++running;
      expire_all(
          *store, std::move(task.set), task.first, task.ttl, task.only_longer,
          [self = shared_from_this()](const base::Result<std::uint64_t>& count) {
            self->ended(count);
          },
          std::move(task.wanted));
    }
  }

  void ended(const base::Result<std::uint64_t>& count) {
    --running;
    if (!count) {
      metrics.l2_upkeep_failed.add();
      log::warn(warnings, "l2.upkeep_failed",
                {{"status", proto::name(count.error().status)}, {"error", count.error().message}});
    }
    start();
    if (running == 0 && idle) idle();
  }
};

Upkeep::Upkeep(l2::Store* store, base::WorkerMetrics& metrics, std::function<void()> idle)
    : state_(std::make_shared<State>(store, metrics, std::move(idle))) {}

Upkeep::~Upkeep() {
  state_->idle = nullptr;
  state_->queue.clear();
}

void Upkeep::expire(l2::ChunkSet set, std::uint64_t first, base::Duration ttl, bool only_longer,
                    std::function<bool()> wanted) {
  if (first >= set.chunk_count) return;
  if (state_->queue.size() >= kMaxQueued) {
    state_->metrics.l2_upkeep_dropped.add();
    log::warn(warnings, "l2.upkeep_dropped", {{"waiting", state_->queue.size()}});
    return;
  }
  state_->queue.push_back({std::move(set), first, ttl, only_longer, std::move(wanted)});
  state_->start();
}

bool Upkeep::idle() const { return state_->running == 0 && state_->queue.empty(); }

}  // namespace cistern::service
