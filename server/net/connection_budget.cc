#include "server/net/connection_budget.h"

#include <algorithm>
#include <utility>

#include "server/base/check.h"

namespace cistern::net {
namespace {

constexpr std::uint64_t kStepBytes = 32 * proto::kKiB;

}  // namespace

// ---------------------------------------------------------------------------------------- Account

ConnectionAccount::Place::Place(ConnectionAccount& account, base::Reservation granted)
    : account_(&account), granted_(std::move(granted)) {}

ConnectionAccount::Place::Place(Place&& other) noexcept
    : account_(std::exchange(other.account_, nullptr)), granted_(std::move(other.granted_)) {}

ConnectionAccount::Place::~Place() {
  if (account_ == nullptr) return;
  granted_.release();
  account_->admitted_bytes_ -= kConnectionBytes;
}

std::optional<ConnectionAccount::Place> ConnectionAccount::admit() {
  const std::uint64_t all = ledger_.budgets().connections;
  const std::uint64_t before = admitted_bytes_.fetch_add(kConnectionBytes);
  if (before + kConnectionBytes <= all - all / 4) {
    base::Reservation granted = ledger_.try_reserve(base::Account::kConnections, kConnectionBytes);
    if (granted) return Place(*this, std::move(granted));
  }
  admitted_bytes_ -= kConnectionBytes;
  return std::nullopt;
}

bool ConnectionAccount::is_open(std::uint64_t bytes, Need need) const {
  const std::uint64_t all = ledger_.budgets().connections;
  const std::uint64_t used = ledger_.used(base::Account::kConnections) + bytes;
  const std::uint64_t grown = used - std::min<std::uint64_t>(used, admitted_bytes_);
  const std::uint64_t growth = all / 4;
  switch (need) {
    case Need::kFaster:
      return used <= all / 2 && grown <= growth - growth / 4;
    case Need::kMore:
      return used <= all / 2 || grown <= growth - growth / 16;
    case Need::kUnavoidable:
      return true;
  }
  return false;
}

// ------------------------------------------------------------------------------------- Connection

ConnectionBudget::ConnectionBudget(ConnectionAccount::Place place) : place_(std::move(place)) {
  CHECK(place_.granted_.bytes() >= kConnectionBytes);
}

bool ConnectionBudget::take(std::uint64_t bytes, Need need) {
  const std::uint64_t free = place_.granted_.bytes() - used_;
  if (bytes > free) {
    const auto grow = [&](std::uint64_t more) {
      return place_.account_->is_open(more, need) && place_.granted_.try_grow(more);
    };
    if (!grow(std::max(kStepBytes, bytes - free)) && !grow(bytes - free)) return false;
  }
  used_ += bytes;
  return true;
}

bool ConnectionBudget::take(std::uint64_t bytes) { return take(bytes, Need::kMore); }

void ConnectionBudget::give(std::uint64_t bytes) {
  CHECK(bytes <= used_);
  used_ -= bytes;
}

bool ConnectionBudget::take_if_plenty(std::uint64_t bytes) {
  return place_.account_->is_open(bytes, Need::kFaster) && take(bytes);
}

bool ConnectionBudget::cover_frames(std::uint64_t bytes, Need need) {
  if (bytes <= kFramesBytes + more_frames_bytes_) return true;
  const std::uint64_t more = bytes - kFramesBytes - more_frames_bytes_;
  if (!take(more, need)) return false;
  more_frames_bytes_ += more;
  return true;
}

void ConnectionBudget::uncover_frames(std::uint64_t bytes) {
  const std::uint64_t more = bytes > kFramesBytes ? bytes - kFramesBytes : 0;
  if (more >= more_frames_bytes_) return;
  give(more_frames_bytes_ - more);
  more_frames_bytes_ = more;
}

bool ConnectionBudget::is_short_of(std::uint64_t bytes) const {
  return !place_.account_->is_open(bytes, Need::kMore);
}

void ConnectionBudget::trim() {
  const std::uint64_t kept = std::max(used_, kConnectionBytes);
  if (place_.granted_.bytes() > kept) place_.granted_.shrink_to(kept);
}

}  // namespace cistern::net
