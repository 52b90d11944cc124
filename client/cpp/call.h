// The requests that are one frame each way: DELETE, STAT, TOUCH, PING, STATS, EXPLAIN. Internal.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include <cistern/types.h>

#include "client/cpp/channel.h"
#include "client/cpp/request.h"

namespace cistern::detail {

// What the server said; only what belongs to the kind of call is set.
struct Answer {
  bool found = true;
  ValueInfo info{};
  Touched touched{};
  std::string text{};
  std::chrono::nanoseconds round_trip{0};
};

class Call : public Request {
 public:
  enum class Kind : std::uint8_t { kRemove, kStat, kTouch, kPing, kStats, kExplain };
  struct Arguments {
    Kind kind = Kind::kPing;
    std::string key{};
    std::optional<Version> if_version{};
    std::chrono::milliseconds ttl{0};
    Timeout timeout{};
  };

  // Starts the call; `done` is called once.
  static void start(Channel& channel, Arguments arguments, Callback<Answer> done);

  // Private in all but name; for make_shared.
  Call(Arguments arguments, Callback<Answer> done);

  proto::Result<std::uint32_t> send(Connection& connection) override;
  bool may_repeat(bool left) const override;
  void on_done(const proto::Done& done) override;
  void on_info(const proto::Info& info) override;
  void on_pong() override;
  void on_stats(std::string_view json) override;
  void on_explanation(std::string_view json) override;
  void on_failed(const proto::Error& error) override;

 private:
  void end(proto::Result<Answer> answer);

  const Arguments arguments_;
  Callback<Answer> done_;
  TimePoint pinged_at_{};
};

}  // namespace cistern::detail
