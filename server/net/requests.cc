#include "server/net/requests.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "server/base/check.h"
#include "server/net/small_reader.h"

namespace cistern::net {

using base::Op;
using proto::Error;
using proto::Status;

namespace {

// What an answer has beside its metadata and value bytes, at most.
constexpr std::size_t kAnswerHeadBytes = proto::kHeaderBytes + proto::kMaxFixedHeadBytes + 48;

Error no_room() {
  return {Status::kNoRoom,
          "no memory for another request on this connection; the budget of connections, a share of "
          "memory.limit, is used up"};
}

}  // namespace

struct Requests::Request final : service::GetSink, service::PutSink {
  enum class Phase : std::uint8_t {
    kWaiting,     // for the first answer, or a PUT's first credit
    kMoving,      // bytes go one way or the other
    kCommitting,  // all bytes of a PUT are there
  };

  explicit Request(Requests& all) : all_(all) {}

  void on_small(const l1::SmallView& view, std::uint32_t flags) override;
  void on_value(const base::ValueMeta& meta, std::optional<proto::Range> cover, std::uint32_t flags,
                std::unique_ptr<service::Reader> value) override;
  void on_degraded(base::Duration age) override { age_ms = service::age_ms(age); }
  void on_credit(std::uint32_t bytes) override;
  void on_stored(const proto::Stored& stored) override;
  void on_failed(const Error& error) override {
    if (!over) all_.answer_error(*this, error);
  }

  std::uint32_t id = 0;
  Op op = Op::kGet;
  Phase phase = Phase::kWaiting;
  bool over = false;
  bool listed = false;
  std::uint32_t credit_bytes = 0;       // first credit of a GET
  std::optional<std::uint64_t> age_ms;  // of a degraded answer
  std::uint64_t charged_bytes = 0;
  base::TimePoint began;
  base::TimePoint moved;
  std::uint64_t sent_until = 0;  // where its last piece ends in the connection's output
  service::OperationPtr operation;
  std::unique_ptr<service::Upload> upload;
  std::unique_ptr<service::Reader> reader;

 private:
  Requests& all_;
};

// ------------------------------------------------------------------------------ The service's
// calls

void Requests::Request::on_small(const l1::SmallView& view, std::uint32_t flags) {
  if (over) return;
  proto::ValueHead head;
  head.flags = flags;
  head.size = view.size;
  head.version = view.version;
  head.expires_at_ms = view.expires_at_ms;
  head.chunk_bytes = view.chunk_bytes;
  head.metadata = view.metadata;
  head.age_ms = age_ms;
  const proto::ValueDigest digest =
      proto::ValueHasher::of_single(view.digest, view.chunk_bytes, view.size);
  if (view.size <= credit_bytes) {
    if (!all_.has_room_for(head.metadata.size() + view.bytes.size())) {
      return all_.answer_error(*this, no_room());
    }
    head.inline_digest = digest;
    head.inline_bytes = view.bytes;
    all_.conn_->answer_inline(id, head);
    all_.finish(*this, Status::kOk);
  } else if (all_.has_room_for(head.metadata.size()) && all_.budget_.take(view.size)) {
    charged_bytes += view.size;
    phase = Phase::kMoving;
    moved = all_.context_.loop.now();
    reader = std::make_unique<SmallReader>(view, digest);
    all_.conn_->start_value(id, head);
  } else {
    return all_.answer_error(*this, no_room());
  }
  all_.owner_.on_output();
}

void Requests::Request::on_value(const base::ValueMeta& meta, std::optional<proto::Range> cover,
                                 std::uint32_t flags, std::unique_ptr<service::Reader> value) {
  if (over) return;
  reader = std::move(value);
  if (!all_.has_room_for(meta.metadata.size())) return all_.answer_error(*this, no_room());
  proto::ValueHead head;
  head.flags = flags;
  head.size = meta.size;
  head.version = meta.version;
  head.expires_at_ms = meta.expires_at_ms;
  head.chunk_bytes = meta.chunk_bytes;
  head.metadata = proto::as_bytes(meta.metadata);
  head.age_ms = age_ms;
  head.cover = cover;
  phase = Phase::kMoving;
  moved = all_.context_.loop.now();
  all_.conn_->start_value(id, head);
  if ((cover ? cover->length : meta.size) > kSmallBufferBytes) {
    all_.owner_.on_transfer(Direction::kSend);
  }
  all_.owner_.on_output();
}

void Requests::Request::on_credit(std::uint32_t bytes) {
  if (over) return;
  phase = Phase::kMoving;
  moved = all_.context_.loop.now();
  all_.conn_->grant(id, bytes);
  all_.owner_.on_output();
}

void Requests::Request::on_stored(const proto::Stored& stored) {
  if (over) return;
  all_.conn_->answer(id, stored);
  all_.finish(*this, Status::kOk);
  all_.owner_.on_output();
}

// ------------------------------------------------------------------------------------ Bookkeeping

Requests::Requests(const SessionContext& context, ConnectionBudget& budget, Owner& owner)
    : context_(context), budget_(budget), owner_(owner) {}

Requests::~Requests() = default;

Requests::RequestPtr Requests::begin(std::uint32_t id, Op op, std::size_t extra_bytes) {
  const std::uint64_t bytes = kRequestBytes + extra_bytes;
  if (!budget_.take(bytes)) {
    conn_->answer(id, no_room());
    context_.metrics.count_request(op, Status::kNoRoom, base::Duration{0});
    return nullptr;
  }
  RequestPtr request = spare_ ? std::move(spare_) : std::make_unique<Request>(*this);
  request->id = id;
  request->op = op;
  request->phase = Request::Phase::kWaiting;
  request->over = false;
  request->charged_bytes = bytes;
  request->began = request->moved = context_.loop.now();
  request->sent_until = 0;
  request->age_ms.reset();
  return request;
}

bool Requests::has_room_for(std::size_t variable_bytes) {
  const std::size_t bytes = kAnswerHeadBytes + variable_bytes;
  return bytes <= kSureAnswerBytes || owner_.has_room_for(bytes);
}

void Requests::settle(RequestPtr request) {
  if (request->over) {
    request->operation.reset();
    request->upload.reset();
    request->reader.reset();
    spare_ = std::move(request);
    return;
  }
  request->listed = true;
  context_.metrics.open_streams.add(1);
  const std::uint32_t id = request->id;
  const bool added = open_.emplace(id, std::move(request)).second;
  CHECK(added);
}

void Requests::finish(Request& request, Status status) {
  if (std::exchange(request.over, true)) return;
  budget_.give(request.charged_bytes);
  context_.metrics.count_request(request.op, status);
  if (!request.listed) {
    if (!std::exchange(any_answered_, true)) first_began_ = request.began;
    ++answered_[static_cast<std::size_t>(request.op)];
    return;
  }
  context_.metrics.record_latency(request.op, context_.loop.refresh() - request.began);
  request.listed = false;
  context_.metrics.open_streams.add(-1);
  const auto found = open_.find(request.id);
  over_.push_back(std::move(found->second));
  open_.erase(found);
  owner_.on_output();
}

void Requests::record_answered() {
  if (!std::exchange(any_answered_, false)) return;
  const base::Duration latency = context_.loop.refresh() - first_began_;
  for (std::size_t op = 0; op < answered_.size(); ++op) {
    const std::uint32_t count = std::exchange(answered_[op], 0);
    if (count != 0) context_.metrics.record_latency(static_cast<Op>(op), latency, count);
  }
}

void Requests::answer_error(Request& request, const Error& error) {
  conn_->answer(request.id, error);
  finish(request, error.status);
  owner_.on_output();
}

void Requests::sweep() {
  record_answered();
  // Destroying one may end another.
  while (!over_.empty()) {
    std::vector<RequestPtr> over;
    over.swap(over_);
  }
}

Requests::Request* Requests::find(std::uint32_t id) {
  const auto found = open_.find(id);
  return found == open_.end() ? nullptr : found->second.get();
}

void Requests::collected(std::uint64_t end_bytes) {
  record_answered();
  for (const std::uint32_t id : gave_) {
    if (Request* const request = find(id)) request->sent_until = end_bytes;
  }
  gave_.clear();
}

std::optional<Error> Requests::overdue(const Request& request, base::TimePoint now,
                                       const Output& output) const {
  const SessionOptions& options = context_.options;
  const auto in_ms = [](base::Duration time) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(time).count();
  };
  if (request.phase == Request::Phase::kMoving) {
    // What waits for its turn, or is on its way, moves whenever the connection does.
    const bool on_its_way =
        request.sent_until > output.acknowledged_bytes || conn_->is_sending(request.id);
    const base::TimePoint moved =
        on_its_way ? std::max(request.moved, output.moved_at) : request.moved;
    if (now - moved < options.stall_timeout) return std::nullopt;
    return Error{Status::kStalled, fmt::format("no byte moved and no credit was granted for {} ms "
                                               "(limits.stall_timeout)",
                                               in_ms(options.stall_timeout))};
  }
  if (now - request.moved < options.request_timeout) return std::nullopt;
  const char* const what = request.phase == Request::Phase::kCommitting
                               ? "the value is complete, but was not committed within {} ms "
                                 "(limits.request_timeout); it may still be"
                               : "no answer within {} ms (limits.request_timeout)";
  return Error{Status::kTimeout, fmt::format(fmt::runtime(what), in_ms(options.request_timeout))};
}

void Requests::check_deadlines(const Output& output) {
  const base::TimePoint now = context_.loop.now();
  std::vector<std::pair<std::uint32_t, Error>> late;
  for (const auto& [id, request] : open_) {
    if (std::optional<Error> error = overdue(*request, now, output)) late.emplace_back(id, *error);
  }
  for (const auto& [id, error] : late) {
    if (Request* const request = find(id)) answer_error(*request, error);
  }
}

// --------------------------------------------------------------------------------------- Requests

void Requests::on_keys_ahead(std::span<const proto::Bytes> keys) { context_.service.expect(keys); }

void Requests::on_get(std::uint32_t id, const proto::GetRequest& get) {
  RequestPtr request = begin(id, Op::kGet, get.key.size());
  if (!request) return;
  request->credit_bytes = get.credit_bytes;
  request->operation = context_.service.get(get, *request);
  settle(std::move(request));
}

void Requests::on_put(std::uint32_t id, const proto::PutRequest& put) {
  const std::size_t kept = put.key.size() + put.metadata.size() + put.inline_bytes.size();
  RequestPtr request = begin(id, Op::kPut, kept);
  if (!request) return;
  if (put.is_inline) {
    request->operation = context_.service.put_inline(put, *request);
  } else {
    request->upload = context_.service.open_put(put, *request);
    if (!request->over && put.size > kSmallBufferBytes) owner_.on_transfer(Direction::kReceive);
  }
  settle(std::move(request));
}

template <typename Answer>
void Requests::answer_result(Request& request, const proto::Result<Answer>& result) {
  if (request.over) return;
  if (!result) return answer_error(request, result.error());
  conn_->answer(request.id, *result);
  finish(request, Status::kOk);
  owner_.on_output();
}

void Requests::on_delete(std::uint32_t id, const proto::KeyRequest& key) {
  RequestPtr request = begin(id, Op::kDelete, key.key.size());
  if (!request) return;
  Request* const waiting = request.get();
  request->operation =
      context_.service.remove(key, [this, waiting](const proto::Result<proto::Done>& result) {
        answer_result(*waiting, result);
      });
  settle(std::move(request));
}

void Requests::on_stat(std::uint32_t id, const proto::KeyRequest& key) {
  RequestPtr request = begin(id, Op::kStat, key.key.size());
  if (!request) return;
  Request* const waiting = request.get();
  request->operation =
      context_.service.stat(key, [this, waiting](const proto::Result<proto::Info>& result) {
        if (!waiting->over && result && !has_room_for(result->metadata.size())) {
          return answer_error(*waiting, no_room());
        }
        answer_result(*waiting, result);
      });
  settle(std::move(request));
}

void Requests::on_touch(std::uint32_t id, const proto::TouchRequest& touch) {
  RequestPtr request = begin(id, Op::kTouch, touch.key.size());
  if (!request) return;
  Request* const waiting = request.get();
  request->operation =
      context_.service.touch(touch, [this, waiting](const proto::Result<proto::Done>& result) {
        answer_result(*waiting, result);
      });
  settle(std::move(request));
}

void Requests::on_stats(std::uint32_t id) {
  const base::TimePoint began = context_.loop.now();
  const std::string json = context_.options.stats_json ? context_.options.stats_json() : "{}";
  const bool has_room = has_room_for(json.size());
  if (has_room) {
    conn_->answer_stats(id, json);
  } else {
    conn_->answer(id, no_room());
  }
  context_.metrics.count_request(Op::kStats, has_room ? Status::kOk : Status::kNoRoom,
                                 context_.loop.refresh() - began);
}

void Requests::on_explain(std::uint32_t id, const proto::KeyRequest& key) {
  RequestPtr request = begin(id, Op::kExplain, key.key.size() + proto::kMaxExplanationBytes);
  if (!request) return;
  Request* const waiting = request.get();
  request->operation =
      context_.service.explain(key, [this, waiting](const proto::Result<std::string>& json) {
        if (waiting->over) return;
        if (!json) return answer_error(*waiting, json.error());
        conn_->answer_explain(waiting->id, *json);
        finish(*waiting, Status::kOk);
        owner_.on_output();
      });
  settle(std::move(request));
}

// ---------------------------------------------------------------------------------------- Streams

proto::MutableBytes Requests::on_data_target(std::uint32_t id, std::size_t bytes) {
  Request* const request = find(id);
  if (request == nullptr || !request->upload) return {};
  request->moved = context_.loop.now();
  return request->upload->target(bytes);
}

void Requests::on_data_done(std::uint32_t id, std::size_t bytes,
                            std::optional<proto::ChunkDigest> chunk_end) {
  Request* const request = find(id);
  if (request == nullptr || !request->upload) return;
  request->moved = context_.loop.now();
  request->upload->done(bytes, chunk_end);
}

void Requests::on_put_end(std::uint32_t id, const proto::End& end) {
  Request* const request = find(id);
  if (request == nullptr || !request->upload) return;
  request->moved = context_.loop.now();
  request->phase = Request::Phase::kCommitting;
  request->upload->end(end);
}

void Requests::on_abort(std::uint32_t id, const Error& cause) {
  // A request that the connection refused by itself was never begun here.
  if (Request* const request = find(id)) finish(*request, cause.status);
}

proto::Piece Requests::next_piece(std::uint32_t id, std::size_t max_bytes) {
  Request* const request = find(id);
  if (request == nullptr || !request->reader) return {};
  proto::Piece piece = request->reader->next(max_bytes);
  if (piece.kind == proto::Piece::Kind::kBytes) {
    request->moved = context_.loop.now();
    if (gave_.empty() || gave_.back() != id) gave_.push_back(id);
  } else if (piece.kind == proto::Piece::Kind::kWait) {
    request->reader->on_ready([this, id] {
      conn_->ready(id);
      owner_.on_output();
    });
  }
  return piece;
}

void Requests::on_value_sent(std::uint32_t id, const Error* failure) {
  if (Request* const request = find(id)) {
    finish(*request, failure != nullptr ? failure->status : Status::kOk);
  }
}

void Requests::on_progress(std::uint32_t id) {
  // The wait for a first answer is the server's affair: nothing that the client sends prolongs it.
  Request* const request = find(id);
  if (request == nullptr || request->phase != Request::Phase::kMoving) return;
  request->moved = context_.loop.now();
}

void Requests::on_answered(proto::Type type, Status status) {
  constexpr std::pair<proto::Type, Op> kOps[] = {
      {proto::Type::kGet, Op::kGet},       {proto::Type::kPut, Op::kPut},
      {proto::Type::kDelete, Op::kDelete}, {proto::Type::kStat, Op::kStat},
      {proto::Type::kTouch, Op::kTouch},   {proto::Type::kPing, Op::kPing},
      {proto::Type::kStats, Op::kStats},   {proto::Type::kExplain, Op::kExplain}};
  for (const auto& [of, op] : kOps) {
    if (of == type) context_.metrics.count_request(op, status, base::Duration{0});
  }
}

}  // namespace cistern::net
