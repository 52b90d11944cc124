// What was done to keys lately: a bounded memory of the reasons why they are not in memory.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "server/base/types.h"

namespace cistern::base {

enum class Reason : std::uint8_t {
#define CISTERN_REASON(enumerator, name, text) enumerator,
#include "server/base/reasons.def"
#undef CISTERN_REASON
};
inline constexpr std::size_t kReasonCount = 0
#define CISTERN_REASON(enumerator, name, text) +1
#include "server/base/reasons.def"
#undef CISTERN_REASON
    ;
std::string_view name(Reason reason);
std::string_view text(Reason reason);

struct Event {
  Reason reason = Reason::kEvicted;
  TimePoint at{};
  std::uint64_t size = 0;       // of the value in bytes; 0: it was empty, or isn't known
  Version version = 0;          // of the value that left; 0: isn't known
  std::uint64_t limit = 0;      // what `size` was held to. An event with a limit has no version
  Status status = Status::kOk;  // what the client was answered
};

// A fixed number of slots, chosen by the key's tag: a newer event of another key may overwrite an
// older one, which is then forgotten. No allocation after the start, one cache line for each call.
//
// Keys are told apart by 32 bits of their hash: of the keys that share a slot, one in
// 2^32 / slot_count() is taken for another's, so an event may, very rarely, be another key's.
//
// Not synchronised.
class ReasonTable {
 public:
  // A power of two.
  explicit ReasonTable(std::size_t slot_count);

  // As many slots as take a thousandth of `budget_bytes`, within bounds: at most 64 KiB.
  static std::size_t slots_for(std::uint64_t budget_bytes);
  std::size_t slot_count() const { return slots_.size(); }

  void note(std::uint32_t tag, const Event& event);

  struct Memory {
    std::optional<Event> last;
    // What happened before this may be forgotten. Empty: nothing later than `last` is, or nothing
    // at all if there is no last one.
    std::optional<TimePoint> since;
  };
  Memory recall(std::uint32_t tag) const;

 private:
  struct Slot {
    std::int64_t at_ns = 0;
    std::uint64_t size = 0;
    std::uint64_t version_or_limit = 0;
    std::uint32_t tag = 0;
    Reason reason = Reason::kEvicted;
    std::uint8_t status = 0;
    bool used = false;
    bool has_limit = false;
  };
  static_assert(sizeof(Slot) == 32);

  std::vector<Slot> slots_;
};

}  // namespace cistern::base
