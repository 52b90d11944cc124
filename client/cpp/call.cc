#include "client/cpp/call.h"

#include <utility>

#include "client/cpp/convert.h"

namespace cistern::detail {

void Call::start(Channel& channel, Arguments arguments, Callback<Answer> done) {
  const auto call = std::make_shared<Call>(std::move(arguments), std::move(done));
  if (call->arguments_.timeout) {
    call->patience_.set_overall(call->arguments_.timeout);
  } else {
    call->patience_.wait(channel.options().request_timeout, "the daemon did not answer");
  }
  channel.start(call);
}

Call::Call(Arguments arguments, Callback<Answer> done)
    : arguments_(std::move(arguments)), done_(std::move(done)) {}

proto::Result<std::uint32_t> Call::send(Connection& connection) {
  if (arguments_.kind == Kind::kPing) {
    pinged_at_ = Clock::now();
    return connection.wire().ping({});
  }
  if (arguments_.kind == Kind::kStats) return connection.wire().stats();
  if (auto refused = check_key(arguments_.key, connection.welcome())) {
    return tl::unexpected(*std::move(refused));
  }
  const proto::KeyRequest request{.key = proto::as_bytes(arguments_.key),
                                  .if_version = arguments_.if_version};
  if (arguments_.kind == Kind::kStat) return connection.wire().stat(request);
  if (arguments_.kind == Kind::kExplain) {
    if ((connection.welcome().features & proto::kFeatureExplain) != 0) {
      return connection.wire().explain(request);
    }
    return proto::fail(proto::Status::kUnsupported,
                       "this daemon cannot explain keys; a later version of it can");
  }
  if (arguments_.kind == Kind::kRemove) return connection.wire().remove(request);
  const proto::Result<std::uint64_t> ttl = to_ttl(arguments_.ttl);
  if (!ttl) return tl::unexpected(ttl.error());
  return connection.wire().touch(
      {.key = request.key, .ttl_ms = *ttl, .if_version = request.if_version});
}

bool Call::may_repeat(bool left) const {
  return !left || (arguments_.kind != Kind::kRemove && arguments_.kind != Kind::kTouch);
}

void Call::on_done(const proto::Done& done) { end(Answer{.touched = to_touched(done)}); }
void Call::on_info(const proto::Info& info) { end(Answer{.info = to_info(info)}); }
void Call::on_pong() { end(Answer{.round_trip = Clock::now() - pinged_at_}); }
void Call::on_stats(std::string_view json) { end(Answer{.text = std::string(json)}); }
void Call::on_explanation(std::string_view json) { end(Answer{.text = std::string(json)}); }

void Call::on_failed(const proto::Error& error) {
  if (error.status == proto::Status::kNotFound) return end(Answer{.found = false});
  end(tl::unexpected(error));
}

void Call::end(proto::Result<Answer> answer) {
  patience_ = Patience();
  const Callback<Answer> done = std::exchange(done_, nullptr);
  if (done) done(std::move(answer));
}

}  // namespace cistern::detail
