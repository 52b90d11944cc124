#include "server/base/reason_table.h"

#include <algorithm>
#include <array>
#include <bit>

#include "server/base/check.h"

namespace cistern::base {
namespace {

struct ReasonInfo {
  std::string_view name, text;
};
constexpr auto kReasons = std::to_array<ReasonInfo>({
#define CISTERN_REASON(enumerator, name, text) {name, text},
#include "server/base/reasons.def"
#undef CISTERN_REASON
});

constexpr std::uint64_t kFewestSlots = 64;
constexpr std::uint64_t kMostSlots = 2048;

}  // namespace

std::string_view name(Reason reason) { return kReasons[static_cast<std::size_t>(reason)].name; }
std::string_view text(Reason reason) { return kReasons[static_cast<std::size_t>(reason)].text; }

ReasonTable::ReasonTable(std::size_t slot_count) : slots_(slot_count) {
  CHECK(std::has_single_bit(slot_count));
}

std::size_t ReasonTable::slots_for(std::uint64_t budget_bytes) {
  return static_cast<std::size_t>(
      std::bit_floor(std::clamp(budget_bytes / 1000 / sizeof(Slot), kFewestSlots, kMostSlots)));
}

void ReasonTable::note(std::uint32_t tag, const Event& event) {
  static_assert(static_cast<unsigned>(Status::kInternal) <= 0xFF);
  slots_[tag & (slots_.size() - 1)] = {
      .at_ns = event.at.time_since_epoch().count(),
      .size = event.size,
      .version_or_limit = event.limit != 0 ? event.limit : event.version,
      .tag = tag,
      .reason = event.reason,
      .status = static_cast<std::uint8_t>(event.status),
      .used = true,
      .has_limit = event.limit != 0,
  };
}

ReasonTable::Memory ReasonTable::recall(std::uint32_t tag) const {
  const Slot& slot = slots_[tag & (slots_.size() - 1)];
  if (!slot.used) return {};
  const TimePoint at{Duration(slot.at_ns)};
  if (slot.tag != tag) return {.last = std::nullopt, .since = at};
  return {.last = Event{.reason = slot.reason,
                        .at = at,
                        .size = slot.size,
                        .version = slot.has_limit ? 0 : slot.version_or_limit,
                        .limit = slot.has_limit ? slot.version_or_limit : 0,
                        .status = static_cast<Status>(slot.status)},
          .since = std::nullopt};
}

}  // namespace cistern::base
