// The event loop as the daemon's logic sees it: net implements it over Asio, tests by hand.
#pragma once

#include <cstdint>
#include <functional>

#include "server/base/types.h"

namespace cistern::base {

using Task = std::function<void()>;

class Loop {
 public:
  enum class TimerId : std::uint64_t { kNone = 0 };

  virtual ~Loop() = default;

  // Any thread. The task runs later on the loop's own thread, never inside this call, in the order
  // of posting. A task posted after the loop has stopped is destroyed without being run.
  virtual void post(Task task) = 0;

  // The loop's thread only, as all below. The task runs once, no earlier than `delay` from now.
  virtual TimerId after(Duration delay, Task task) = 0;
  // Afterwards the task doesn't run. Unknown, past and kNone are ignored.
  virtual void cancel(TimerId timer) = 0;

  // Monotonic, cached for one turn of the loop at most.
  virtual TimePoint now() const = 0;
  // Wall clock, cached in the same way, for what is compared across processes: expires_at and
  // nothing else.
  virtual std::uint64_t unix_ms() const = 0;
};

}  // namespace cistern::base
