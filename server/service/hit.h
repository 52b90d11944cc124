// Answers from L1.
#pragma once

#include <memory>

#include "server/service/worker.h"

namespace cistern::service {

// What may be served of what L1 has, where L2 may have something else by now.
enum class Demand : std::uint8_t {
  kTrusted,  // within l1.max_staleness, and nothing has happened to it since
  kInBound,  // within l1.max_staleness
  kAny,      // within that, or past it as l2.on_stale says; L2 could not be asked
};

struct Hit {
  enum class Kind : std::uint8_t { kAnswered, kAbsent, kDoubtful };
  Kind kind = Kind::kAbsent;
  base::Version version = 0;  // of a doubtful one, which is to be proven
};

// `cause`: of Demand::kAny, why L2 could not be asked. Then it is never doubtful.
Hit answer_from_l1(const std::shared_ptr<Worker>& worker, const proto::GetRequest& request,
                   std::uint64_t hash, Demand demand, GetSink& sink, const Error* cause = nullptr);

// What is to be done with an entry that was proven at `proven_at`.
struct Judgement {
  enum class Kind : std::uint8_t { kServe, kServeDegraded, kDoubtful, kRefuse };
  Kind kind = Kind::kServe;
  bool soon = false;   // it is to be proven ahead of time
  bool alone = false;  // L1 alone has it: what L2 has, if anything, is older (l1_only.h)
  Duration age{0};
};
Judgement judge(const Worker& worker, Bytes key, std::uint64_t hash, base::TimePoint proven_at,
                Demand demand);
// Counts what is past the bound.
void count_stale(Worker& worker, const Judgement& judgement);

}  // namespace cistern::service
