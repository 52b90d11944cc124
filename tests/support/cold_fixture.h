// A value in L2 that L1 doesn't have, and crowds that ask for it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/support/service_fixture.h"

namespace cistern::testing {

inline constexpr std::size_t kLarge = 8 * kChunk + 17;  // 9 chunks
// More than L1 holds.
inline constexpr std::size_t kHuge = 12 * kMiB + 5;  // 193 chunks
inline constexpr std::size_t kHugeChunks = 193;

struct Cold : Workers {
  Cold(std::size_t size, const ServiceSetup& setup = {}) : Workers(setup), text(text_of(1, size)) {
    EXPECT_TRUE(put("k", text)->stored);
    forget_in_l1("k");
  }
  std::size_t reads() { return store(0).count(Step::kRead) + store(1).count(Step::kRead); }
  std::size_t questions() {
    return store(0).count(Step::kManifest) + store(1).count(Step::kManifest);
  }
  std::vector<std::unique_ptr<Getter>> crowd(std::size_t count) {
    std::vector<std::unique_ptr<Getter>> all;
    for (std::size_t i = 0; i < count; ++i) all.push_back(get("k", {}, i % 2));
    return all;
  }
  // Round and round, a chunk each.
  void finish_all(std::vector<std::unique_ptr<Getter>>& all) {
    for (int turn = 0; turn < 5000; ++turn) {
      settle();
      bool more = false;
      for (const auto& each : all) {
        each->pull(kChunk);
        each->sent();
        more = more || (!each->ended && !each->error);
      }
      if (!more) return;
    }
    ADD_FAILURE() << "they don't end";
  }
  const std::string text;
};

}  // namespace cistern::testing
