#include "server/net/connection_budget.h"

#include <algorithm>

#include "server/base/check.h"

namespace cistern::net {
namespace {

constexpr std::uint64_t kStepBytes = 32 * proto::kKiB;

}  // namespace

ConnectionBudget::ConnectionBudget(base::Ledger& ledger, base::Reservation granted)
    : ledger_(ledger), granted_(std::move(granted)) {
  CHECK(granted_.bytes() >= kConnectionBytes);
}

bool ConnectionBudget::take(std::uint64_t bytes) {
  const std::uint64_t free = granted_.bytes() - used_;
  if (bytes > free && !granted_.try_grow(std::max(kStepBytes, bytes - free)) &&
      !granted_.try_grow(bytes - free)) {
    return false;
  }
  used_ += bytes;
  return true;
}

void ConnectionBudget::give(std::uint64_t bytes) {
  CHECK(bytes <= used_);
  used_ -= bytes;
}

bool ConnectionBudget::take_if_plenty(std::uint64_t bytes) {
  const std::uint64_t half = ledger_.budgets().connections / 2;
  if (ledger_.used(base::Account::kConnections) + bytes > half) return false;
  return take(bytes);
}

void ConnectionBudget::trim() {
  const std::uint64_t kept = std::max(used_, kConnectionBytes);
  if (granted_.bytes() > kept) granted_.shrink_to(kept);
}

}  // namespace cistern::net
