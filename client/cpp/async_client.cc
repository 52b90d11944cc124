#include <cstring>
#include <utility>

#include <asio/dispatch.hpp>
#include <cistern/async_client.h>

#include "client/cpp/async_core.h"
#include "client/cpp/convert.h"

namespace cistern {
namespace detail {
namespace {

// A callback of a stream is given the stream as a plain pointer: a stream calls back only while it
// is alive, and holding itself through its own callback it would live for ever when the executor is
// destroyed before the end.

Value collected(GetStream& stream) {
  Value value;
  static_cast<ValueInfo&>(value) = stream.info();
  value.not_modified = stream.not_modified();
  value.bytes = stream.take_collected();
  return value;
}

using Written = std::function<void(const proto::Error*)>;

// Copies `bytes` into the stream as room comes; `done` hears of the end or of the failure.
void fill(PutStream& stream, std::span<const std::byte> bytes, const Written& done) {
  while (!bytes.empty() && !stream.error()) {
    const proto::MutableBytes room = stream.room();
    if (!room.empty()) {
      const std::size_t part = std::min(room.size(), bytes.size());
      std::memcpy(room.data(), bytes.data(), part);
      stream.filled(part);
      bytes = bytes.subspan(part);
      continue;
    }
    if (stream.full()) {
      stream.fail_size(bytes.size() + 1);
      break;
    }
    PutStream* const plain = &stream;
    return stream.await_room([plain, bytes, done](const proto::Result<std::monostate>& ready) {
      if (!ready) return done(&ready.error());
      const std::shared_ptr<Request> keep = plain->shared_from_this();
      fill(*plain, bytes, done);
    });
  }
  done(stream.error() ? &*stream.error() : nullptr);
}

void commit_stream(PutStream& stream, const Done<Stored>& done) {
  stream.commit([done](const proto::Result<Stored>& stored) {
    if (!stored) return done->complete(to_exception(stored.error()), Stored());
    done->complete(nullptr, *stored);
  });
}

}  // namespace

AsyncCore::AsyncCore(asio::any_io_executor executor, ClientOptions options,
                     proto::Endpoint endpoint)
    : executor_(std::move(executor)),
      strand_(asio::make_strand(executor_)),
      channel_(std::make_shared<Channel>(strand_, std::move(options), std::move(endpoint))) {}

void AsyncCore::close() {
  asio::dispatch(strand_, [channel = channel_] { channel->close(); });
}

void AsyncCore::get(const std::string& key, const ReadOptions& options,
                    const Done<std::optional<Value>>& done) {
  auto stream = std::make_shared<GetStream>(channel_, key, options, GetStream::Mode::kCollect);
  GetStream* const plain = stream.get();
  auto arrived = [plain, done](const proto::Result<bool>& end) {
    if (!end) return done->complete(to_exception(end.error()), std::nullopt);
    done->complete(nullptr, collected(*plain));
  };
  auto opened = [plain, done, arrived](const proto::Result<GetStream::Opening>& opening) {
    if (!opening) return done->complete(to_exception(opening.error()), std::nullopt);
    if (*opening == GetStream::Opening::kNotFound) return done->complete(nullptr, std::nullopt);
    plain->await(arrived);
  };
  asio::dispatch(strand_, [stream, opened] { stream->open(opened); });
}

void AsyncCore::open(const std::string& key, const ReadOptions& options,
                     const Done<std::optional<AsyncReader>>& done) {
  auto stream = std::make_shared<GetStream>(channel_, key, options, GetStream::Mode::kStream);
  GetStream* const plain = stream.get();
  auto opened = [self = shared_from_this(), plain,
                 done](const proto::Result<GetStream::Opening>& opening) {
    if (!opening) return done->complete(to_exception(opening.error()), std::nullopt);
    if (*opening == GetStream::Opening::kNotFound) return done->complete(nullptr, std::nullopt);
    auto held = std::static_pointer_cast<GetStream>(plain->shared_from_this());
    done->complete(nullptr, AsyncReader(std::make_shared<AsyncGet>(self, std::move(held))));
  };
  asio::dispatch(strand_, [stream, opened] { stream->open(opened); });
}

void AsyncCore::put(const std::string& key, std::span<const std::byte> bytes,
                    const PutOptions& options, const Done<Stored>& done) {
  auto stream = std::make_shared<PutStream>(channel_, key, options, bytes.size());
  asio::dispatch(strand_, [stream, bytes, done] {
    stream->begin();
    PutStream* const plain = stream.get();
    fill(*stream, bytes, [plain, done](const proto::Error* error) {
      if (error != nullptr) return done->complete(to_exception(*error), Stored());
      commit_stream(*plain, done);
    });
  });
}

void AsyncCore::call(Call::Arguments arguments, std::function<void(proto::Result<Answer>)> done) {
  asio::dispatch(strand_, [channel = channel_, arguments = std::move(arguments),
                           done = std::move(done)]() mutable {
    Call::start(*channel, std::move(arguments), std::move(done));
  });
}

AsyncGet::~AsyncGet() {
  asio::dispatch(core_->strand(), [stream = stream_] { stream->close(); });
}

void AsyncGet::read(std::span<std::byte> target, const Done<std::size_t>& done) {
  if (target.empty()) {
    const proto::Error error{proto::Status::kUsage, "async_read was given an empty target"};
    return done->complete(to_exception(error), 0);
  }
  GetStream* const plain = stream_.get();
  auto ready = [plain, target, done](const proto::Result<bool>& more) {
    if (!more) return done->complete(to_exception(more.error()), 0);
    const proto::Bytes bytes = plain->front();
    const std::size_t part = std::min(bytes.size(), target.size());
    if (part > 0) std::memcpy(target.data(), bytes.data(), part);
    plain->consume(part);
    done->complete(nullptr, part);
  };
  asio::dispatch(core_->strand(), [stream = stream_, ready] { stream->await(ready); });
}

AsyncPut::AsyncPut(std::shared_ptr<AsyncCore> core, std::shared_ptr<PutStream> stream)
    : core_(std::move(core)), stream_(std::move(stream)) {
  asio::dispatch(core_->strand(), [opening = stream_] { opening->begin(); });
}

AsyncPut::~AsyncPut() {
  asio::dispatch(core_->strand(), [stream = stream_] { stream->abort(); });
}

void AsyncPut::write(std::span<const std::byte> bytes, const Done<>& done) {
  asio::dispatch(core_->strand(), [stream = stream_, bytes, done] {
    fill(*stream, bytes, [done](const proto::Error* error) {
      done->complete(error == nullptr ? nullptr : to_exception(*error));
    });
  });
}

void AsyncPut::commit(const Done<Stored>& done) {
  asio::dispatch(core_->strand(), [stream = stream_, done] { commit_stream(*stream, done); });
}

}  // namespace detail

// -------------------------------------------------------------------------- Reader and writer

const ValueInfo& AsyncReader::info() const { return get_->stream().info(); }
bool AsyncReader::not_modified() const { return get_->stream().not_modified(); }
std::uint64_t AsyncReader::length() const { return get_->stream().length(); }
asio::any_io_executor AsyncReader::executor() const { return get_->core()->executor(); }

void AsyncReader::start_read(const std::shared_ptr<detail::AsyncGet>& get,
                             std::span<std::byte> target, const detail::Done<std::size_t>& done) {
  get->read(target, done);
}

asio::any_io_executor AsyncWriter::executor() const { return put_->core()->executor(); }

void AsyncWriter::start_write(const std::shared_ptr<detail::AsyncPut>& put,
                              std::span<const std::byte> bytes, const detail::Done<>& done) {
  put->write(bytes, done);
}

void AsyncWriter::start_commit(const std::shared_ptr<detail::AsyncPut>& put,
                               const detail::Done<Stored>& done) {
  put->commit(done);
}

// -------------------------------------------------------------------------------------- Client

AsyncClient::AsyncClient(asio::any_io_executor executor, ClientOptions options) {
  proto::Result<proto::Endpoint> endpoint = proto::parse_endpoint(options.endpoint);
  if (!endpoint) {
    throw Error(Status::kUsage,
                "the endpoint \"" + options.endpoint + "\": " + endpoint.error().message);
  }
  core_ = std::make_shared<detail::AsyncCore>(std::move(executor), std::move(options),
                                              *std::move(endpoint));
}

AsyncClient& AsyncClient::operator=(AsyncClient&& other) noexcept {
  if (this == &other) return *this;
  close();
  core_ = std::move(other.core_);
  return *this;
}

AsyncClient::~AsyncClient() { close(); }

void AsyncClient::close() {
  if (core_ != nullptr) core_->close();
}

asio::any_io_executor AsyncClient::get_executor() const { return core_->executor(); }

AsyncWriter AsyncClient::writer(std::string_view key, std::optional<std::uint64_t> size,
                                const PutOptions& options) {
  auto stream = std::make_shared<detail::PutStream>(core_->channel(), key, options, size);
  return AsyncWriter(std::make_shared<detail::AsyncPut>(core_, std::move(stream)));
}

void AsyncClient::start_get(const Core& core, const std::string& key, const ReadOptions& options,
                            const detail::Done<std::optional<Value>>& done) {
  core->get(key, options, done);
}

void AsyncClient::start_open(const Core& core, const std::string& key, const ReadOptions& options,
                             const detail::Done<std::optional<AsyncReader>>& done) {
  core->open(key, options, done);
}

void AsyncClient::start_put(const Core& core, const std::string& key,
                            std::span<const std::byte> bytes, const PutOptions& options,
                            const detail::Done<Stored>& done) {
  core->put(key, bytes, options, done);
}

void AsyncClient::start_remove(const Core& core, const std::string& key,
                               const ChangeOptions& options, const detail::Done<bool>& done) {
  core->call({.kind = detail::Call::Kind::kRemove,
              .key = key,
              .if_version = options.if_version,
              .timeout = options.timeout},
             [done](const proto::Result<detail::Answer>& answer) {
               if (!answer) return done->complete(detail::to_exception(answer.error()), false);
               done->complete(nullptr, answer->found);
             });
}

void AsyncClient::start_stat(const Core& core, const std::string& key, const CallOptions& options,
                             const detail::Done<std::optional<ValueInfo>>& done) {
  core->call({.kind = detail::Call::Kind::kStat, .key = key, .timeout = options.timeout},
             [done](proto::Result<detail::Answer> answer) {
               if (!answer) {
                 return done->complete(detail::to_exception(answer.error()), std::nullopt);
               }
               if (!answer->found) return done->complete(nullptr, std::nullopt);
               done->complete(nullptr, std::move(answer->info));
             });
}

void AsyncClient::start_touch(const Core& core, const std::string& key,
                              std::chrono::milliseconds ttl, const ChangeOptions& options,
                              const detail::Done<std::optional<Touched>>& done) {
  core->call({.kind = detail::Call::Kind::kTouch,
              .key = key,
              .if_version = options.if_version,
              .ttl = ttl,
              .timeout = options.timeout},
             [done](const proto::Result<detail::Answer>& answer) {
               if (!answer) {
                 return done->complete(detail::to_exception(answer.error()), std::nullopt);
               }
               if (!answer->found) return done->complete(nullptr, std::nullopt);
               done->complete(nullptr, answer->touched);
             });
}

void AsyncClient::start_ping(const Core& core, const CallOptions& options,
                             const detail::Done<std::chrono::nanoseconds>& done) {
  core->call({.kind = detail::Call::Kind::kPing, .timeout = options.timeout},
             [done](const proto::Result<detail::Answer>& answer) {
               if (!answer) return done->complete(detail::to_exception(answer.error()), {});
               done->complete(nullptr, answer->round_trip);
             });
}

namespace {

std::function<void(proto::Result<detail::Answer>)> with_text(
    const detail::Done<std::string>& done) {
  return [done](proto::Result<detail::Answer> answer) {
    if (!answer) return done->complete(detail::to_exception(answer.error()), {});
    done->complete(nullptr, std::move(answer->text));
  };
}

}  // namespace

void AsyncClient::start_stats(const Core& core, const CallOptions& options,
                              const detail::Done<std::string>& done) {
  core->call({.kind = detail::Call::Kind::kStats, .timeout = options.timeout}, with_text(done));
}

void AsyncClient::start_explain(const Core& core, const std::string& key,
                                const CallOptions& options, const detail::Done<std::string>& done) {
  core->call({.kind = detail::Call::Kind::kExplain, .key = key, .timeout = options.timeout},
             with_text(done));
}

}  // namespace cistern
