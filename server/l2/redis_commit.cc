#include "server/l2/redis_commit.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "server/base/check.h"
#include "server/l2/envelope.h"

namespace cistern::l2 {
namespace {

using base::Status;
using std::chrono::milliseconds;

// ARGV: latest time (ms), kind of condition, its operand, manifest or '', PX or PXAT, its ms.
// Answers {1 done | 0 condition failed | -1 too late, version, chunk count of what was there}, the
// last two as they stand in the manifest's fixed part.
constexpr std::string_view kScript = R"lua(
local time = redis.call('TIME')
if tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) > tonumber(ARGV[1]) then
  return {-1, '', ''}
end
local old = redis.call('GETRANGE', KEYS[1], 0, 47)
local version, count = '', ''
if #old == 48 and string.sub(old, 1, 5) == 'CSTM\2' then
  version, count = string.sub(old, 9, 16), string.sub(old, 17, 24)
end
local kind = ARGV[2]
if (kind == 'absent' and version ~= '') or (kind == 'version' and version ~= ARGV[3])
    or (kind == 'begins' and old ~= ARGV[3]) then
  return {0, version, count}
end
if ARGV[4] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[4], ARGV[5], ARGV[6])
end
return {1, version, count}
)lua";
static_assert(kManifestFixedBytes == 48);

// A measurement of Redis' clock is renewed when it is older than this, and waited for when it is
// older than that: each second of age costs a commit a millisecond of its time.
constexpr base::Duration kRenewClockAfter = std::chrono::seconds(5);
constexpr base::Duration kAwaitClockAfter = std::chrono::seconds(30);

constexpr std::uint64_t kMaxChunkCount = proto::kMaxValueBytes / proto::kMinChunkBytes;

std::string le64(std::uint64_t number) {
  std::byte bytes[sizeof number];
  proto::store_le(bytes, number);
  return std::string(proto::as_text(bytes));
}

}  // namespace

std::string_view commit_script() { return kScript; }

RedisCommitter::RedisCommitter(std::shared_ptr<const RedisOptions> options,
                               std::shared_ptr<RedisControl> control, base::Loop& loop)
    : options_(std::move(options)), control_(std::move(control)), loop_(loop) {}

void RedisCommitter::run(Request request, Done done) {
  auto run = std::make_shared<Run>();
  run->request = std::move(request);
  run->done = std::move(done);
  ++under_way_;
  const RedisClock& clock = control_->clock();
  const bool can_measure = control_->is_ready() && clock.is_known();
  const base::Duration age = can_measure ? clock.age(loop_.now()) : base::Duration::zero();
  if (age > kAwaitClockAfter) {
    control_->measure_clock([self = shared_from_this(), run] { self->submit(run); });
    return;
  }
  if (age > kRenewClockAfter) control_->measure_clock(nullptr);
  submit(run);
}

void RedisCommitter::submit(const RunPtr& run) {
  RedisControl::Exchange exchange;
  const auto self = shared_from_this();
  exchange.commands = [self, run](base::TimePoint) {
    return std::vector<RedisLink::Args>{self->command(*run)};
  };
  exchange.on_reply = [self, run](std::size_t, const redisReply& reply) {
    self->take_reply(*run, reply);
  };
  exchange.on_end = [self, run](const RedisControl::Outcome& outcome) {
    self->ended(run, outcome);
  };
  control_->submit(std::move(exchange));
}

RedisLink::Args RedisCommitter::command(Run& run) {
  if (!run.is_resent) {
    // From the first attempt on: what a lost connection holds may be executed until then.
    const base::Duration margin = std::min(options_->commit_margin, options_->op_timeout / 4);
    const base::Duration window = options_->op_timeout - options_->op_timeout / 500 - margin;
    run.not_after_ms =
        control_->clock().earliest_ms(loop_.now()) +
        static_cast<std::uint64_t>(std::chrono::duration_cast<milliseconds>(window).count());
  }
  const Request& request = run.request;
  std::string kind = "none";
  std::string operand;
  if (!request.only_if_begins.empty()) {
    kind = "begins";
    operand = request.only_if_begins;
  } else if (request.condition.kind == base::Condition::Kind::kIfAbsent) {
    kind = "absent";
  } else if (request.condition.kind == base::Condition::Kind::kIfVersion) {
    kind = "version";
    operand = le64(request.condition.version);
  }
  const bool has_expiry = request.expires_at_ms != 0;
  const std::uint64_t idle_ms = static_cast<std::uint64_t>(
      std::chrono::duration_cast<milliseconds>(options_->max_idle).count());
  return {run.has_script ? "EVAL" : "EVALSHA",
          run.has_script ? std::string(kScript) : control_->script_sha(),
          "1",
          request.name,
          std::to_string(run.not_after_ms),
          std::move(kind),
          std::move(operand),
          request.manifest,
          has_expiry ? "PXAT" : "PX",
          std::to_string(has_expiry ? request.expires_at_ms : idle_ms)};
}

void RedisCommitter::take_reply(Run& run, const redisReply& reply) {
  if (reply.type == REDIS_REPLY_ERROR) {
    const std::string_view text(reply.str, reply.len);
    if (text.starts_with("NOSCRIPT") && !run.has_script) {
      run.has_script = run.is_resent = true;  // ended() sends it again
      return;
    }
    const base::Error error = *reply_error(reply);
    run.answer = tl::unexpected(control_->describe(error.status, error.message));
    run.is_answered = true;
    return;
  }
  run.is_answered = true;
  if (reply.type != REDIS_REPLY_ARRAY || reply.elements != 3 ||
      reply.element[0]->type != REDIS_REPLY_INTEGER) {
    // It was executed, in whatever way: not an error, which would be definite.
    Answer answer;
    answer.cause = "Redis answered the commit with something that cannot be understood";
    run.answer = std::move(answer);
    return;
  }
  if (reply.element[0]->integer < 0) {
    // Redis was slow, or its clock was set: the next commit measures it again.
    control_->measure_clock(nullptr);
    run.answer = tl::unexpected(
        control_->describe(Status::kL2Timeout,
                           "the write reached it too late and was not executed; if this goes on, "
                           "it is overloaded or its clock jumps"));
    return;
  }
  Answer answer;
  answer.kind =
      reply.element[0]->integer == 1 ? CommitKind::kCommitted : CommitKind::kConditionFailed;
  const std::string_view version = reply_text(*reply.element[1]);
  const std::string_view count = reply_text(*reply.element[2]);
  if (version.size() == 8 && count.size() == 8) {
    answer.existed = true;
    answer.version = proto::load_le<std::uint64_t>(proto::as_bytes(version).data());
    const auto chunks = proto::load_le<std::uint64_t>(proto::as_bytes(count).data());
    answer.chunk_count = chunks <= kMaxChunkCount ? chunks : 0;
  }
  run.answer = std::move(answer);
}

void RedisCommitter::ended(const RunPtr& run, const RedisControl::Outcome& outcome) {
  if (run->is_answered) return finish(run, std::move(run->answer));
  if (!outcome.error) return submit(run);  // with the script's text
  if (!outcome.was_sent) return finish(run, tl::unexpected(*outcome.error));
  Answer unknown;
  unknown.cause = outcome.error->message;
  const base::Duration left = outcome.deadline - loop_.now();
  if (left <= base::Duration::zero()) return finish(run, std::move(unknown));
  loop_.after(left, [self = shared_from_this(), run, unknown = std::move(unknown)]() mutable {
    self->finish(run, std::move(unknown));
  });
}

void RedisCommitter::finish(const RunPtr& run, base::Result<Answer> answer) {
  const auto self = shared_from_this();
  if (auto done = std::exchange(run->done, nullptr)) done(std::move(answer));
  DCHECK(under_way_ > 0);
  if (--under_way_ == 0 && idle_) loop_.post(std::exchange(idle_, nullptr));
}

void RedisCommitter::when_idle(std::function<void()> idle) {
  if (under_way_ == 0) {
    loop_.post(std::move(idle));
  } else {
    idle_ = std::move(idle);
  }
}

}  // namespace cistern::l2
