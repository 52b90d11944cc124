#include <nlohmann/json.hpp>

#include "server/admin/endpoint.h"

namespace cistern::admin {
namespace {

using Json = nlohmann::ordered_json;

// `degraded`: what is wrong and no reason to be called otherwise.
Health answer(const Json& reasons, const Json& degraded = Json::array()) {
  Json body = {{"ok", reasons.empty()}};
  if (!reasons.empty()) body["reasons"] = reasons;
  if (!degraded.empty()) body["degraded"] = degraded;
  return {reasons.empty() ? 200 : 503,
          body.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n"};
}

Json reason(std::string_view what, std::string_view text) {
  return {{"reason", what}, {"text", text}};
}

}  // namespace

Health health(const Sources& sources) {
  Json reasons = Json::array();
  const base::Duration silence = sources.loop_silence();
  // Before the threads run there is nothing that could be stuck.
  if (sources.state != State::kStarting && silence > kLoopPatience) {
    const auto whole = std::chrono::duration_cast<std::chrono::seconds>(silence).count();
    reasons.push_back(reason(
        "loop_stuck", "a worker has not turned its loop for " + std::to_string(whole) + " s"));
  }
  return answer(reasons);
}

Health readiness(const Sources& sources) {
  Json reasons = Json::array();
  Json degraded = Json::array();
  const State state = sources.state;
  if (state == State::kStarting) reasons.push_back(reason("starting", "not yet serving"));
  if (state == State::kDraining) reasons.push_back(reason("draining", "shutting down"));
  if (sources.has_l2 && state == State::kServing) {
    if (const base::Result<void> l2 = sources.l2_ready(); !l2) {
      Json& to = sources.serves_without_l2 ? degraded : reasons;
      to.push_back(reason("l2_unreachable", l2.error().message));
    }
  }
  if (sources.l2_servers && state == State::kServing) {
    for (const l2::ServerState& server : sources.l2_servers()) {
      if (server.is_up || server.why.empty()) continue;
      degraded.push_back(reason("l2_server_unreachable", server.why));
    }
  }
  return answer(reasons, degraded);
}

}  // namespace cistern::admin
