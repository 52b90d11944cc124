// A server in this process, over L1 alone, on ports of its own; and a client that speaks raw frames
// over a plain blocking socket, so that it can break every rule.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "proto/messages.h"
#include "server/net/connection_budget.h"
#include "server/net/server.h"

namespace cistern::net {

using namespace std::chrono_literals;
using proto::Bytes;
using proto::Out;
using proto::Status;
using proto::Type;

struct Frame {
  proto::FrameHeader header;
  std::vector<std::byte> payload;

  Type type() const { return static_cast<Type>(header.type); }
  std::uint32_t id() const { return header.id; }
  Status status() const {
    const auto message = proto::decode_error(payload);
    return message ? proto::status_from_code(message->code).value_or(Status::kInternal)
                   : Status::kInternal;
  }
  std::string text() const { return std::string(proto::as_text(payload)); }
};

class RawClient {
 public:
  explicit RawClient(const proto::Endpoint& endpoint) {
    if (endpoint.kind == proto::Endpoint::Kind::kUnix) {
      fd_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
      sockaddr_un address{};
      address.sun_family = AF_UNIX;
      std::memcpy(address.sun_path, endpoint.path.data(), endpoint.path.size());
      connected_ = ::connect(fd(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
      return;
    }
    fd_.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(endpoint.port);
    ::inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    connected_ = ::connect(fd(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }

  int fd() const { return fd_.get(); }
  bool connected() const { return connected_; }
  void close() { fd_.reset(); }

  void send(Bytes bytes) const {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      bytes = bytes.subspan(static_cast<std::size_t>(sent));
    }
  }
  template <typename Message>
  void request(std::uint32_t id, const Message& message) const {
    Out out;
    proto::encode(out, id, message);
    send(out);
  }
  void key_request(std::uint32_t id, Type type, std::string_view key) const {
    Out out;
    proto::encode(out, id, type, proto::KeyRequest{.key = proto::as_bytes(key), .if_version = {}});
    send(out);
  }
  void get(std::uint32_t id, std::string_view key, std::uint32_t credit = 1 << 20,
           std::uint32_t frame = 0) const {
    proto::GetRequest get;
    get.key = proto::as_bytes(key);
    get.credit_bytes = credit;
    get.frame_bytes = frame;
    request(id, get);
  }
  void credit(std::uint32_t id, std::uint32_t bytes) const {
    Out out;
    proto::encode_credit(out, id, bytes);
    send(out);
  }
  void plain(std::uint32_t id, Type type, std::string_view payload = {}) const {
    Out out;
    proto::encode_plain(out, id, type, proto::as_bytes(payload));
    send(out);
  }

  // Empty at the end of the connection, or when nothing comes in time.
  std::optional<Frame> receive(std::chrono::milliseconds patience = 10s) {
    Frame frame;
    std::byte head[proto::kHeaderBytes];
    if (!read(head, patience)) return std::nullopt;
    frame.header = proto::decode_header(head);
    frame.payload.resize(frame.header.length);
    if (!read(frame.payload, patience)) return std::nullopt;
    return frame;
  }
  // Whether anything (an end, too) can be read before `patience` is over.
  bool readable(std::chrono::milliseconds patience) const {
    pollfd wait{fd(), POLLIN, 0};
    return ::poll(&wait, 1, static_cast<int>(patience.count())) > 0;
  }
  // Whether the server ends the connection; what comes before is dropped.
  bool ended(std::chrono::milliseconds patience = 10s) {
    while (receive(patience)) {
    }
    return at_end_;
  }

  std::optional<proto::Welcome> hello() {
    Out out;
    proto::encode(out, proto::Hello{.name = "test"});
    send(out);
    const auto frame = receive();
    if (!frame || frame->type() != Type::kWelcome) return std::nullopt;
    welcome_ = frame->payload;
    const auto welcome = proto::decode_welcome(welcome_);
    return welcome ? std::optional(*welcome) : std::nullopt;
  }

  // A value of any size, through the inline frame or a stream; the final answer.
  std::optional<Frame> put(std::uint32_t id, std::string_view key, Bytes value,
                           std::uint32_t chunk_bytes) {
    proto::PutRequest put;
    put.key = proto::as_bytes(key);
    put.size = value.size();
    put.is_inline = value.size() <= proto::kMaxInlineBytes;
    if (put.is_inline) {
      put.inline_bytes = value;
      put.inline_digest =
          proto::ValueHasher::of_single(proto::chunk_digest(value), chunk_bytes, value.size());
      request(id, put);
      return receive();
    }
    request(id, put);
    return stream(id, value, chunk_bytes);
  }

  // The payload of a PUT that was opened, as credit comes.
  std::optional<Frame> stream(std::uint32_t id, Bytes value, std::uint32_t chunk_bytes,
                              std::size_t frame_bytes = 64 * 1024) {
    std::uint64_t credit = 0;
    std::size_t sent = 0;
    proto::ValueHasher hasher;
    while (sent < value.size()) {
      const std::size_t in_chunk = sent % chunk_bytes;
      const std::size_t chunk_left =
          std::min<std::size_t>(chunk_bytes - in_chunk, value.size() - sent);
      const std::size_t size = std::min(chunk_left, frame_bytes);
      while (credit < size) {
        const auto frame = receive();
        if (!frame || frame->type() != Type::kCredit) return frame;
        credit += *proto::decode_credit(frame->payload);
      }
      std::optional<proto::ChunkDigest> end;
      if (size == chunk_left) {
        end = proto::chunk_digest(value.subspan(sent - in_chunk, in_chunk + size));
        hasher.add(*end);
      }
      Out head;
      proto::encode_data_head(head, id, size, end);
      send(head);
      send(value.subspan(sent, size));
      credit -= size;
      sent += size;
    }
    Out out;
    proto::encode(out, id, proto::End{hasher.finish(chunk_bytes, value.size()), value.size()});
    send(out);
    for (;;) {
      auto frame = receive();
      if (!frame || frame->type() != Type::kCredit) return frame;
    }
  }

 private:
  bool read(proto::MutableBytes into, std::chrono::milliseconds patience) {
    while (!into.empty()) {
      if (!readable(patience)) return false;
      const ssize_t got = ::recv(fd(), into.data(), into.size(), 0);
      if (got <= 0) {
        at_end_ = true;
        return false;
      }
      into = into.subspan(static_cast<std::size_t>(got));
    }
    return true;
  }

  UniqueFd fd_;
  bool connected_ = false;
  bool at_end_ = false;
  std::vector<std::byte> welcome_;
};

inline std::vector<std::byte> some_bytes(std::size_t size, unsigned seed = 1) {
  std::vector<std::byte> bytes(size);
  std::uint32_t state = seed * 2654435761u + 1;
  for (std::byte& byte : bytes) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<std::byte>(state >> 24);
  }
  return bytes;
}

inline bool eventually(const std::function<bool()>& holds, std::chrono::seconds patience = 10s) {
  const auto until = std::chrono::steady_clock::now() + patience;
  while (!holds()) {
    if (std::chrono::steady_clock::now() > until) return false;
    ::poll(nullptr, 0, 1);
  }
  return true;
}

// A second tier that takes every operation and answers none before it is closed.
class SilentStore final : public l2::Store {
 public:
  explicit SilentStore(base::Loop& loop) : loop_(loop) {}

  base::Result<void> available() const override { return {}; }
  void get_manifest(std::string, l2::Callback<std::optional<l2::Manifest>> done) override {
    keep(std::move(done));
  }
  void get_stamp(std::string, l2::Callback<std::optional<l2::Stamp>> done) override {
    keep(std::move(done));
  }
  ReadId read_chunk(const std::string&, const base::ValueMeta&, std::uint64_t, l2::Form,
                    l2::Callback<l2::StoredChunk> done) override {
    keep(std::move(done));
    return 0;
  }
  void cancel_read(ReadId) override {}
  void write_chunk(const std::string&, base::Version, std::uint64_t, l2::StoredChunk,
                   l2::Callback<void> done) override {
    keep(std::move(done));
  }
  void expire_chunks(const l2::ChunkSet&, std::uint64_t, std::uint64_t, base::Duration, bool,
                     l2::Callback<std::uint64_t> done) override {
    keep(std::move(done));
  }
  void commit(std::string, const base::Condition&, const l2::Manifest&,
              l2::Callback<l2::CommitResult> done) override {
    keep(std::move(done));
  }
  void remove(std::string, const base::Condition&, l2::Callback<l2::CommitResult> done) override {
    keep(std::move(done));
  }
  void discard(std::string, base::Version) override {}
  void close(std::function<void()> closed) override {
    for (auto& end : std::exchange(waiting_, {})) loop_.post(std::move(end));
    loop_.post(std::move(closed));
  }

 private:
  template <typename T>
  void keep(l2::Callback<T> done) {
    waiting_.push_back(
        [done] { done(base::fail(Status::kShuttingDown, "the store is being closed")); });
  }

  base::Loop& loop_;
  std::vector<base::Task> waiting_;
};

class ServerTest : public ::testing::Test {
 protected:
  static constexpr std::uint32_t kChunk = 64 * 1024;

  ServerTest() {
    options_.listen = {proto::Endpoint::tcp("127.0.0.1", 0)};
    options_.workers = 2;
    proto::ServerLimits& limits = options_.session.limits;
    limits.max_value_bytes = 64 * proto::kMiB;
    limits.max_frame_bytes = proto::kMiB;
    limits.chunk_bytes = kChunk;
    limits.max_key_bytes = 1024;
    limits.max_metadata_bytes = 4096;
    limits.max_streams = 128;
    limits.stream_window_bytes = proto::kMiB;
    limits.name = "cisternd/test";
    options_.session.stats_json = [] { return std::string(R"({"answer":42})"); };
    service_.max_value_bytes = limits.max_value_bytes;
    service_.chunk_bytes = kChunk;
    budgets_ = {.limit = 256 * proto::kMiB,
                .l1 = 32 * proto::kMiB,
                .transfers = 32 * proto::kMiB,
                .held = 16 * proto::kMiB,
                .connections = 64 * proto::kMiB,
                .l2_buffers = proto::kMiB};
  }

  void start() {
    ledger_ = std::make_unique<base::Ledger>(budgets_);
    cache_ = std::make_unique<l1::Cache>(l1::Options{.budget_bytes = budgets_.l1}, *ledger_);
    shared_ = std::make_unique<service::Shared>(service_, *cache_, *ledger_);
    server_ = std::make_unique<Server>(options_, *shared_, make_store_);
    const base::Result<void> bound = server_->bind();
    ASSERT_TRUE(bound) << bound.error().message;
    server_->start();
  }

  // A connection that has greeted.
  RawClient greeted() const {
    RawClient client = connect();
    EXPECT_TRUE(client.hello());
    return client;
  }
  RawClient connect() const { return RawClient(server_->endpoints().front()); }

  std::uint64_t closes(CloseReason reason) const {
    std::uint64_t count = 0;
    for (const auto& worker : server_->workers()) {
      count += worker->closes()[static_cast<std::size_t>(reason)].get();
    }
    return count;
  }
  std::uint64_t requests(base::Op op, Status status) const {
    std::uint64_t count = 0;
    for (const auto& worker : server_->workers()) {
      count += worker->metrics()
                   .requests[static_cast<std::size_t>(op)][base::status_index(status)]
                   .get();
    }
    return count;
  }
  std::int64_t open_streams() const {
    std::int64_t count = 0;
    for (const auto& worker : server_->workers()) count += worker->metrics().open_streams.get();
    return count;
  }

  ServerOptions options_;
  service::Options service_;
  StoreFactory make_store_;
  base::Ledger::Budgets budgets_;
  std::unique_ptr<base::Ledger> ledger_;
  std::unique_ptr<l1::Cache> cache_;
  std::unique_ptr<service::Shared> shared_;
  std::unique_ptr<Server> server_;
};

}  // namespace cistern::net
