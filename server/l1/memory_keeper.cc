#include "server/l1/memory_keeper.h"

#include <algorithm>
#include <utility>

#include "server/base/chunk.h"
#include "server/base/log.h"

namespace cistern::l1 {
namespace {

constexpr std::chrono::milliseconds kSamplePeriod{100};
// Each about 0.1 ms: some 800 of the smallest entries, or a chunk to be unmapped.
constexpr std::uint64_t kEvictedAtOnce = 128 * proto::kKiB;
constexpr std::uint64_t kUnmappedAtOnce = proto::kMiB;

}  // namespace

MemoryKeeper::MemoryKeeper(Cache& cache, base::Ledger& ledger, base::MemoryProbe probe)
    : cache_(cache),
      ledger_(ledger),
      probe_(std::move(probe)),
      governor_(ledger.budgets().limit, ledger.budgets().l1) {}

void MemoryKeeper::run(base::Loop& loop) {
  loop.post([this, &loop] { on_timer(loop); });
}

void MemoryKeeper::measure_base() {
  const std::uint64_t used = probe_.used_bytes().value_or(0);
  const std::uint64_t planned = ledger_.budget(base::Account::kBase);
  used_.store(used, std::memory_order_relaxed);
  ledger_.set_base(used);
  if (used <= planned) return;
  base::log::warn("base_larger_than_planned",
                  {{"used_bytes", used},
                   {"planned_bytes", planned},
                   {"source", probe_.source()},
                   {"text",
                    "more memory is in use before the first value than was set aside for "
                    "the program; L1 will give way if memory.limit comes near"}});
}

void MemoryKeeper::sample(TimePoint now) {
  const auto used = probe_.used_bytes();
  if (!used) return;
  used_.store(*used, std::memory_order_relaxed);
  const auto orders =
      governor_.update({*used, base::Chunk::spare_bytes(), cache_.used_bytes(), now});
  cache_.set_ceiling(orders.l1_ceiling_bytes);
  // What L1 lets go of becomes spare first.
  const std::uint64_t in_l1 = cache_.used_bytes();
  spares_to_go_ = orders.release_spare_bytes + in_l1 - std::min(in_l1, orders.l1_ceiling_bytes);
  if (!orders.shrunk) return;
  shrinks_.fetch_add(1, std::memory_order_relaxed);
  static base::log::Limit limit(1);
  base::log::warn(limit, "memory_near_limit",
                  {{"used_bytes", *used},
                   {"limit_bytes", ledger_.budgets().limit},
                   {"source", probe_.source()},
                   {"l1_ceiling_bytes", orders.l1_ceiling_bytes}});
}

bool MemoryKeeper::step(TimePoint now) {
  if (spares_to_go_ > 0) {
    const std::uint64_t gone =
        base::Chunk::release_spares(std::min(spares_to_go_, kUnmappedAtOnce));
    spares_to_go_ -= std::min(gone, spares_to_go_);
    if (gone > 0) return true;
  }
  return cache_.shrink(kEvictedAtOnce, now) ||
         (spares_to_go_ > 0 && base::Chunk::spare_bytes() > 0);
}

void MemoryKeeper::on_timer(base::Loop& loop) {
  sample(loop.now());
  if (!std::exchange(turning_, true)) on_turn(loop);
  loop.after(kSamplePeriod, [this, &loop] { on_timer(loop); });
}

void MemoryKeeper::on_turn(base::Loop& loop) {
  turning_ = step(loop.now());
  if (turning_) loop.post([this, &loop] { on_turn(loop); });
}

}  // namespace cistern::l1
