#include "client/cpp/request.h"

#include <fmt/format.h>

namespace cistern::detail {
namespace {

std::string readable(std::chrono::milliseconds time) {
  if (time.count() % 1000 == 0) return fmt::format("{} s", time.count() / 1000);
  return fmt::format("{} ms", time.count());
}

// now + time without an overflow, however long a caller is willing to wait.
TimePoint later(std::chrono::milliseconds time) {
  const TimePoint now = Clock::now();
  const auto most = std::chrono::duration_cast<std::chrono::milliseconds>(TimePoint::max() - now);
  return time >= most ? TimePoint::max() : now + time;
}

}  // namespace

void Patience::set_overall(std::optional<std::chrono::milliseconds> timeout) {
  if (!timeout) return;
  overall_length_ = *timeout;
  overall_ = later(*timeout);
}

void Patience::wait(std::chrono::milliseconds at_most, std::string_view for_what) {
  wait_length_ = at_most;
  for_what_ = for_what;
  wait_until_ = later(at_most);
}

void Patience::moved() {
  if (wait_until_ != TimePoint::max()) wait_until_ = later(wait_length_);
}

proto::Error Patience::error(TimePoint now) const {
  if (overall_ <= now) {
    return {proto::Status::kDeadline,
            fmt::format("the call did not end within its timeout of {}; try again, or allow more",
                        readable(overall_length_))};
  }
  return {proto::Status::kDeadline, fmt::format("{} within {}; the daemon is overloaded, stuck or "
                                                "out of reach: try again",
                                                for_what_, readable(wait_length_))};
}

}  // namespace cistern::detail
