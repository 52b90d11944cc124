#include <cstring>
#include <utility>
#include <variant>

#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <cistern/client.h>

#include "client/cpp/call.h"
#include "client/cpp/channel.h"
#include "client/cpp/convert.h"
#include "client/cpp/get_stream.h"
#include "client/cpp/put_stream.h"
#include "proto/endpoint.h"

namespace cistern {
namespace detail {

// The event loop that runs while a call waits, and the channel on it.
class BlockingCore {
 public:
  explicit BlockingCore(ClientOptions options) {
    proto::Result<proto::Endpoint> endpoint = proto::parse_endpoint(options.endpoint);
    if (!endpoint) {
      throw Error(Status::kUsage,
                  "the endpoint \"" + options.endpoint + "\": " + endpoint.error().message);
    }
    channel_ =
        std::make_shared<Channel>(io_.get_executor(), std::move(options), *std::move(endpoint));
  }
  ~BlockingCore() { channel_->close(); }
  BlockingCore(const BlockingCore&) = delete;
  BlockingCore& operator=(const BlockingCore&) = delete;

  // Runs the loop until what `start` was given as a callback has been called.
  template <typename T, typename Start>
  T wait(const Start& start) {
    std::optional<proto::Result<T>> outcome;
    // What happened since the last call, above all that the daemon closed the connection, is heard
    // before the next request is sent into it.
    io_.poll();
    start([&outcome](proto::Result<T> result) { outcome.emplace(std::move(result)); });
    while (!outcome) io_.run_one();
    if (!*outcome) throw to_public(outcome->error());
    return **std::move(outcome);
  }
  // Sends what is due without waiting: a cancel.
  void nudge() { io_.poll(); }

  const std::shared_ptr<Channel>& channel() const { return channel_; }

 private:
  asio::io_context io_{1};
  asio::executor_work_guard<asio::io_context::executor_type> work_{io_.get_executor()};
  std::shared_ptr<Channel> channel_;
};

namespace {

[[noreturn]] void throw_closed(const char* what) {
  throw Error(Status::kUsage, std::string(what) + " is closed, or was moved from");
}

// Also from destructors: nothing that fails here matters to anybody.
template <typename Stream, typename End>
void end_quietly(const std::shared_ptr<BlockingCore>& core, std::shared_ptr<Stream>& stream,
                 const End& end) noexcept {
  if (stream == nullptr) return;
  try {
    end(*stream);
    core->nudge();
  } catch (...) {
    // Out of memory while telling the daemon; it will see the stream stall instead.
    stream.reset();
  }
  stream.reset();
}

void fill(BlockingCore& core, PutStream& stream, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const proto::MutableBytes room = stream.room();
    if (room.empty()) {
      if (stream.full() && !stream.error()) {
        stream.fail_size(bytes.size() + 1);
        core.nudge();
      }
      core.wait<std::monostate>([&](auto callback) { stream.await_room(std::move(callback)); });
      continue;
    }
    const std::size_t part = std::min(room.size(), bytes.size());
    std::memcpy(room.data(), bytes.data(), part);
    stream.filled(part);
    bytes = bytes.subspan(part);
  }
}

// What the source says, held to what it was given.
std::size_t pull(const Client::Source& source, std::span<std::byte> target) {
  const std::size_t got = source(target);
  if (got > target.size()) {
    throw Error(Status::kUsage, "the source says that it wrote more than it had room for");
  }
  return got;
}

}  // namespace
}  // namespace detail

using detail::Call;
using detail::GetStream;
using detail::PutStream;

// -------------------------------------------------------------------------------------- Reader

Reader::Reader(std::shared_ptr<detail::BlockingCore> core, std::shared_ptr<GetStream> stream)
    : core_(std::move(core)), stream_(std::move(stream)) {}
Reader::Reader(Reader&&) noexcept = default;

Reader& Reader::operator=(Reader&& other) noexcept {
  if (this == &other) return *this;
  close();
  core_ = std::move(other.core_);
  stream_ = std::move(other.stream_);
  handed_out_ = std::exchange(other.handed_out_, 0);
  return *this;
}

Reader::~Reader() { close(); }

const ValueInfo& Reader::info() const {
  if (stream_ == nullptr) detail::throw_closed("the reader");
  return stream_->info();
}

bool Reader::not_modified() const { return stream_ != nullptr && stream_->not_modified(); }

std::uint64_t Reader::length() const { return stream_ == nullptr ? 0 : stream_->length(); }

std::size_t Reader::read(std::span<std::byte> target) {
  if (target.empty()) throw Error(Status::kUsage, "Reader::read() was given an empty target");
  const std::span<const std::byte> bytes = next(target.size());
  if (!bytes.empty()) std::memcpy(target.data(), bytes.data(), bytes.size());
  return bytes.size();
}

std::span<const std::byte> Reader::next(std::size_t at_most) {
  if (stream_ == nullptr) detail::throw_closed("the reader");
  if (at_most == 0) throw Error(Status::kUsage, "Reader::next() was asked for 0 bytes");
  // What is granted is sent now, not once all that has arrived is consumed: the next bytes come
  // meanwhile, and the daemon sees that the transfer moves.
  if (stream_->consume(std::exchange(handed_out_, 0))) core_->nudge();
  // Again, if what had arrived was overtaken by a failure before the wait was over.
  while (stream_->front().empty()) {
    const bool more =
        core_->wait<bool>([&](auto callback) { stream_->await(std::move(callback)); });
    if (!more) return {};
  }
  const std::span<const std::byte> there = stream_->front();
  const std::span<const std::byte> bytes = there.first(std::min(there.size(), at_most));
  handed_out_ = bytes.size();
  return bytes;
}

void Reader::close() {
  detail::end_quietly(core_, stream_, [](GetStream& stream) { stream.close(); });
  handed_out_ = 0;
}

// -------------------------------------------------------------------------------------- Writer

Writer::Writer(std::shared_ptr<detail::BlockingCore> core, std::shared_ptr<PutStream> stream)
    : core_(std::move(core)), stream_(std::move(stream)) {}
Writer::Writer(Writer&&) noexcept = default;

Writer& Writer::operator=(Writer&& other) noexcept {
  if (this == &other) return *this;
  abort();
  core_ = std::move(other.core_);
  stream_ = std::move(other.stream_);
  return *this;
}

Writer::~Writer() { abort(); }

void Writer::write(std::span<const std::byte> bytes) {
  if (stream_ == nullptr) detail::throw_closed("the writer");
  detail::fill(*core_, *stream_, bytes);
  // Sends what is complete, and hears of a refusal, without waiting.
  core_->nudge();
  if (stream_->error()) throw detail::to_public(*stream_->error());
}

Stored Writer::commit() {
  if (stream_ == nullptr) detail::throw_closed("the writer");
  const Stored stored =
      core_->wait<Stored>([&](auto callback) { stream_->commit(std::move(callback)); });
  stream_.reset();
  return stored;
}

void Writer::abort() {
  detail::end_quietly(core_, stream_, [](PutStream& stream) { stream.abort(); });
}

// -------------------------------------------------------------------------------------- Client

Client::Client(ClientOptions options)
    : core_(std::make_shared<detail::BlockingCore>(std::move(options))) {}
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;
Client::~Client() = default;

std::optional<Value> Client::get(std::string_view key, const ReadOptions& options) {
  const auto stream =
      std::make_shared<GetStream>(core_->channel(), key, options, GetStream::Mode::kCollect);
  const auto opening =
      core_->wait<GetStream::Opening>([&](auto callback) { stream->open(std::move(callback)); });
  if (opening == GetStream::Opening::kNotFound) return std::nullopt;
  Value value;
  if (opening == GetStream::Opening::kNotModified) {
    value.not_modified = true;
    return value;
  }
  core_->wait<bool>([&](auto callback) { stream->await(std::move(callback)); });
  static_cast<ValueInfo&>(value) = stream->info();
  value.bytes = stream->take_collected();
  return value;
}

std::optional<Reader> Client::open(std::string_view key, const ReadOptions& options) {
  auto stream =
      std::make_shared<GetStream>(core_->channel(), key, options, GetStream::Mode::kStream);
  const auto opening =
      core_->wait<GetStream::Opening>([&](auto callback) { stream->open(std::move(callback)); });
  if (opening == GetStream::Opening::kNotFound) return std::nullopt;
  return Reader(core_, std::move(stream));
}

Stored Client::put(std::string_view key, std::span<const std::byte> bytes,
                   const PutOptions& options) {
  Writer to = writer(key, bytes.size(), options);
  detail::fill(*core_, *to.stream_, bytes);
  return to.commit();
}

Stored Client::put(std::string_view key, const Source& source, std::optional<std::uint64_t> size,
                   const PutOptions& options) {
  Writer to = writer(key, size, options);
  PutStream& stream = *to.stream_;
  while (true) {
    if (stream.error()) throw detail::to_public(*stream.error());
    const proto::MutableBytes room = stream.room();
    if (stream.full()) {
      std::byte beyond[1];
      if (detail::pull(source, beyond) > 0) stream.fail_size(*size + 1);
      break;
    }
    if (room.empty()) {
      core_->wait<std::monostate>([&](auto callback) { stream.await_room(std::move(callback)); });
      continue;
    }
    const std::size_t got = detail::pull(source, room);
    if (got == 0) break;
    stream.filled(got);
    core_->nudge();
  }
  return to.commit();
}

Writer Client::writer(std::string_view key, std::optional<std::uint64_t> size,
                      const PutOptions& options) {
  core_->nudge();  // a connection that the daemon has closed is noticed here
  auto stream = std::make_shared<PutStream>(core_->channel(), key, options, size);
  stream->begin();
  return Writer(core_, std::move(stream));
}

bool Client::remove(std::string_view key, const ChangeOptions& options) {
  const auto answer = core_->wait<detail::Answer>([&](auto callback) {
    Call::start(*core_->channel(),
                {.kind = Call::Kind::kRemove,
                 .key = std::string(key),
                 .if_version = options.if_version,
                 .timeout = options.timeout},
                std::move(callback));
  });
  return answer.found;
}

std::optional<ValueInfo> Client::stat(std::string_view key, const CallOptions& options) {
  auto answer = core_->wait<detail::Answer>([&](auto callback) {
    Call::start(*core_->channel(),
                {.kind = Call::Kind::kStat, .key = std::string(key), .timeout = options.timeout},
                std::move(callback));
  });
  if (!answer.found) return std::nullopt;
  return std::move(answer.info);
}

std::optional<Touched> Client::touch(std::string_view key, std::chrono::milliseconds ttl,
                                     const ChangeOptions& options) {
  const auto answer = core_->wait<detail::Answer>([&](auto callback) {
    Call::start(*core_->channel(),
                {.kind = Call::Kind::kTouch,
                 .key = std::string(key),
                 .if_version = options.if_version,
                 .ttl = ttl,
                 .timeout = options.timeout},
                std::move(callback));
  });
  if (!answer.found) return std::nullopt;
  return answer.touched;
}

std::chrono::nanoseconds Client::ping(const CallOptions& options) {
  const auto answer = core_->wait<detail::Answer>([&](auto callback) {
    Call::start(*core_->channel(), {.kind = Call::Kind::kPing, .timeout = options.timeout},
                std::move(callback));
  });
  return answer.round_trip;
}

std::string Client::explain(std::string_view key, const CallOptions& options) {
  auto answer = core_->wait<detail::Answer>([&](auto callback) {
    Call::start(*core_->channel(),
                {.kind = Call::Kind::kExplain, .key = std::string(key), .timeout = options.timeout},
                std::move(callback));
  });
  return std::move(answer.text);
}

std::string Client::stats(const CallOptions& options) {
  auto answer = core_->wait<detail::Answer>([&](auto callback) {
    Call::start(*core_->channel(), {.kind = Call::Kind::kStats, .timeout = options.timeout},
                std::move(callback));
  });
  return std::move(answer.text);
}

}  // namespace cistern
