#include "tests/support/history.h"

#include <algorithm>
#include <map>
#include <unordered_map>

#include <fmt/format.h>

namespace cistern::testing {
namespace {

// For any instant: when the first of the writes that began after it was acknowledged.
class FirstAck {
 public:
  explicit FirstAck(std::vector<Write> writes) : writes_(std::move(writes)) {
    std::sort(writes_.begin(), writes_.end(),
              [](const Write& a, const Write& b) { return a.began < b.began; });
    earliest_.assign(writes_.size() + 1, kNever);
    for (std::size_t i = writes_.size(); i-- > 0;) {
      earliest_[i] = std::min(earliest_[i + 1], writes_[i].acked);
    }
  }

  Instant of_those_begun_after(Instant when) const {
    const auto first = std::upper_bound(writes_.begin(), writes_.end(), when,
                                        [](Instant t, const Write& w) { return t < w.began; });
    return earliest_[static_cast<std::size_t>(first - writes_.begin())];
  }

 private:
  std::vector<Write> writes_;
  std::vector<Instant> earliest_;
};

}  // namespace

std::vector<std::string> violations(const History& history) {
  std::vector<std::string> found;
  const FirstAck first_ack(history.writes);
  std::map<unsigned, std::vector<Write>> of_place;
  for (const Write& write : history.writes) of_place[write.place].push_back(write);
  std::map<unsigned, FirstAck> first_ack_of;
  for (auto& [place, writes] : of_place) first_ack_of.emplace(place, std::move(writes));
  std::unordered_map<std::uint64_t, const Write*> by_id;
  for (const Write& write : history.writes) by_id[write.id] = &write;

  // Whether a read that began then may still see what a write, acknowledged at `acked`, left.
  const auto may_see = [&](Instant acked, const Read& read) {
    if (acked == kNever) return true;
    const auto here = first_ack_of.find(read.place);
    return first_ack.of_those_begun_after(acked) >= read.began - history.staleness &&
           (here == first_ack_of.end() || here->second.of_those_begun_after(acked) >= read.began);
  };
  for (const Read& read : history.reads) {
    if (!read.id) {
      bool allowed =
          history.absent_is_allowed || may_see(std::numeric_limits<Instant>::min(), read);
      for (const Write& write : history.writes) {
        if (allowed) break;
        allowed = write.removes && write.began <= read.ended && may_see(write.acked, read);
      }
      if (!allowed) {
        found.push_back(fmt::format("a read of [{}, {}] found nothing, though a value was there",
                                    read.began, read.ended));
      }
      continue;
    }
    const auto write = by_id.find(*read.id);
    if (write == by_id.end() || write->second->removes) {
      found.push_back(fmt::format("a read of [{}, {}] found {}, which was never written",
                                  read.began, read.ended, *read.id));
    } else if (write->second->began > read.ended) {
      found.push_back(fmt::format("a read of [{}, {}] found {}, which was written later",
                                  read.began, read.ended, *read.id));
    } else if (!may_see(write->second->acked, read)) {
      found.push_back(fmt::format(
          "a read of [{}, {}] through {} found {} of [{}, {}] through {}, though a later write was "
          "acknowledged at {}",
          read.began, read.ended, read.place, *read.id, write->second->began, write->second->acked,
          write->second->place, first_ack.of_those_begun_after(write->second->acked)));
    }
  }
  return found;
}

}  // namespace cistern::testing
