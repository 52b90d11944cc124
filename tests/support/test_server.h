// A server for the client's tests: the real protocol state machine over real sockets, a map instead
// of tiers, and faults on demand. It runs on a thread of its own.
#pragma once

#include <atomic>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include <asio/io_context.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/post.hpp>
#include <asio/write.hpp>

#include "proto/server_conn.h"

namespace cistern::test {

// What goes wrong. Set through TestServer::set_faults().
struct Faults {
  std::optional<std::uint64_t> cut_get_after{};    // bytes of a value, then the socket is closed
  std::optional<std::uint64_t> stall_get_after{};  // bytes of a value, then nothing more comes
  std::optional<std::uint64_t> corrupt_byte_at{};  // of a value that is sent
  bool wrong_value_digest = false;                 // in the END, or beside an inline value
  bool silent = false;                             // requests are read and never answered
  bool no_credit = false;                          // a PUT may not send
  int close_on_request = 0;                  // how often the socket is closed instead of answered
  std::optional<proto::Error> refuse_put{};  // the answer to every streamed PUT...
  std::uint64_t refuse_put_after = 0;        // ...once so many of its bytes have arrived
  std::optional<proto::Error> refuse_connection{};
  std::string explanation = "{}";  // no fault: the answer to EXPLAIN
};

struct Counts {
  std::atomic<int> connections{0};
  std::atomic<int> requests{0};  // that reached the handler
  std::atomic<int> puts_opened{0};
  std::atomic<int> puts_inline{0};
  std::atomic<int> gets_inline{0};
  std::atomic<int> aborts{0};
  std::atomic<int> progress{0};  // CREDIT for a GET, bytes of a PUT
  std::atomic<std::uint64_t> put_bytes{0};
  std::atomic<std::uint64_t> get_bytes{0};
  std::atomic<std::uint64_t> largest_get_frame{0};
};

class TestServer {
 public:
  struct Entry {
    std::shared_ptr<const std::string> bytes;
    std::string metadata;
    std::uint64_t version = 0;
    std::uint64_t expires_at_ms = 0;
  };

  static proto::ServerLimits default_limits() {
    return {.max_value_bytes = 64 * proto::kMiB,
            .max_frame_bytes = static_cast<std::uint32_t>(proto::kMiB),
            .chunk_bytes = static_cast<std::uint32_t>(proto::kDefaultChunkBytes),
            .max_key_bytes = 1024,
            .max_metadata_bytes = 4096,
            .max_streams = 16,
            .stream_window_bytes = static_cast<std::uint32_t>(proto::kMiB),
            .name = "test server"};
  }

  explicit TestServer(proto::ServerLimits limits = default_limits(), std::uint16_t port = 0)
      : limits_(std::move(limits)),
        acceptor_(io_, asio::ip::tcp::endpoint(asio::ip::address_v4::loopback(), port)) {
    accept();
    thread_ = std::thread([this] { io_.run(); });
  }
  ~TestServer() {
    run([this] { stop(); });
    thread_.join();
  }

  std::uint16_t port() const { return port_; }
  std::string endpoint() const { return "tcp://127.0.0.1:" + std::to_string(port_); }
  const Counts& counts() const { return counts_; }

  void set_faults(Faults faults) {
    run([&] { faults_ = std::move(faults); });
  }
  void drop_connections() {
    run([this] {
      for (const auto& weak : sessions_) {
        if (const auto session = weak.lock()) session->close();
      }
    });
  }
  void go_away() {
    run([this] {
      for (const auto& weak : sessions_) {
        if (const auto session = weak.lock()) session->go_away();
      }
    });
  }
  // Lets streams that stalled go on, after the faults were changed, and PUTs without credit send.
  void resume() {
    run([this] {
      for (const auto& weak : sessions_) {
        if (const auto session = weak.lock()) session->resume();
      }
    });
  }
  std::optional<Entry> find(const std::string& key) {
    std::optional<Entry> found;
    run([&] {
      const auto at = entries_.find(key);
      if (at != entries_.end()) found = at->second;
    });
    return found;
  }
  void store(const std::string& key, std::string bytes) {
    run([&] { put(key, std::move(bytes), {}, 0); });
  }
  // Runs `what` on the server's thread and waits for it.
  void run(const std::function<void()>& what) {
    std::promise<void> done;
    asio::post(io_, [&] {
      what();
      done.set_value();
    });
    done.get_future().wait();
  }

 private:
  class Session : public std::enable_shared_from_this<Session>, private proto::ServerConn::Handler {
   public:
    Session(TestServer& server, asio::ip::tcp::socket socket)
        : server_(server),
          socket_(std::move(socket)),
          conn_(server.limits_, *this),
          scratch_(proto::kScratchBytes) {
      socket_.set_option(asio::ip::tcp::no_delay(true));
    }

    void start() {
      if (server_.faults_.refuse_connection) {
        conn_.fail(*server_.faults_.refuse_connection);
        flush();
        return;
      }
      read();
    }
    void close() {
      std::error_code ignored;
      socket_.close(ignored);
      conn_.drop({proto::Status::kConnectionLost, "closed by the test"});
    }
    void go_away() {
      conn_.go_away({proto::Status::kShuttingDown, "the test server is going away"});
      flush();
    }
    void resume() {
      for (const auto& [id, get] : gets_) conn_.ready(id);
      for (const auto& [id, put] : puts_) {
        if (put.bytes.empty()) conn_.grant(id, server_.limits_.stream_window_bytes);
      }
      for (const auto& [id, answer] : held_) answer();
      held_.clear();
      flush();
    }

   private:
    struct Get {
      Entry entry;
      std::uint64_t at = 0;
      std::uint64_t end = 0;
      std::uint64_t sent = 0;
    };
    struct Put {
      std::string key;
      std::string metadata;
      std::uint64_t ttl_ms = 0;
      std::string bytes{};
      std::size_t chunk_begin = 0;
      proto::ValueHasher hasher{};
      std::string piece{};
    };

    void read() {
      const auto areas = conn_.prepare(scratch_);
      const std::array<asio::mutable_buffer, 2> buffers{
          asio::mutable_buffer(areas[0].data(), areas[0].size()),
          asio::mutable_buffer(areas[1].data(), areas[1].size())};
      socket_.async_read_some(
          buffers, [self = shared_from_this()](const std::error_code& error, std::size_t bytes) {
            if (error) return self->close();
            self->conn_.commit(bytes);
            self->conn_.process(~std::size_t{0});
            if (!self->socket_.is_open()) return;
            self->flush();
            if (!self->conn_.failed()) self->read();
          });
    }
    void flush() {
      if (writing_ || !socket_.is_open()) return;
      proto::Batch batch;
      conn_.collect(batch, proto::kMiB);
      if (cut_) return close();
      if (batch.empty()) return;
      auto bytes = std::make_shared<std::vector<std::byte>>();
      for (const proto::Segment& segment : batch.segments) {
        const proto::Bytes part = batch.memory_of(segment);
        bytes->insert(bytes->end(), part.begin(), part.end());
      }
      writing_ = true;
      asio::async_write(
          socket_, asio::buffer(*bytes),
          [self = shared_from_this(), bytes](const std::error_code& error, std::size_t) {
            self->writing_ = false;
            if (error) return self->close();
            if (self->conn_.failed()) {
              std::error_code ignored;
              self->socket_.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
            }
            self->flush();
          });
    }

    // Counts a request; false when a fault has it go unanswered. `answer` is what is done when the
    // server is resumed.
    bool admit(std::uint32_t id, std::function<void()> answer = {}) {
      ++server_.counts_.requests;
      if (server_.faults_.close_on_request > 0) {
        --server_.faults_.close_on_request;
        close();
        return false;
      }
      if (server_.faults_.silent) {
        if (answer) held_[id] = std::move(answer);
        return false;
      }
      return true;
    }
    std::uint32_t chunk_bytes() const { return server_.limits_.chunk_bytes; }
    proto::ValueDigest digest_of(const std::string& bytes) const {
      proto::ValueHasher hasher;
      for (std::size_t at = 0; at < bytes.size(); at += chunk_bytes()) {
        hasher.add(proto::chunk_digest(
            proto::as_bytes(std::string_view(bytes).substr(at, chunk_bytes()))));
      }
      proto::ValueDigest digest = hasher.finish(chunk_bytes(), bytes.size());
      if (server_.faults_.wrong_value_digest) digest[0] ^= std::byte{1};
      return digest;
    }

    void on_get(std::uint32_t id, const proto::GetRequest& request) override {
      if (!admit(id)) return;
      const auto found = server_.entries_.find(std::string(proto::as_text(request.key)));
      if (found == server_.entries_.end()) return conn_.answer(id, proto::Status::kNotFound);
      const Entry& entry = found->second;
      if (request.if_changed == entry.version) {
        return conn_.answer(id, proto::Status::kNotModified);
      }
      proto::ValueHead head{.size = entry.bytes->size(),
                            .version = entry.version,
                            .expires_at_ms = entry.expires_at_ms,
                            .chunk_bytes = chunk_bytes(),
                            .metadata = proto::as_bytes(entry.metadata)};
      Get get{.entry = entry, .end = head.size};
      if (request.range) {
        if (request.range->offset > head.size) {
          return conn_.answer(id, proto::Status::kRangeInvalid);
        }
        const std::uint64_t last =
            request.range->offset +
            std::min(request.range->length, head.size - request.range->offset);
        get.at = request.range->offset / chunk_bytes() * chunk_bytes();
        get.end = std::min<std::uint64_t>(
            head.size, (last + chunk_bytes() - 1) / chunk_bytes() * chunk_bytes());
        head.cover = proto::Range{get.at, get.end - get.at};
      } else if (head.size <=
                 std::min<std::uint64_t>(proto::kMaxInlineBytes, request.credit_bytes)) {
        ++server_.counts_.gets_inline;
        head.inline_digest = digest_of(*entry.bytes);
        std::string bytes = *entry.bytes;
        if (server_.faults_.corrupt_byte_at) bytes.at(*server_.faults_.corrupt_byte_at) ^= 1;
        head.inline_bytes = proto::as_bytes(bytes);
        return conn_.answer_inline(id, head);
      }
      gets_[id] = std::move(get);
      conn_.start_value(id, head);
    }
    proto::Piece next_piece(std::uint32_t id, std::size_t max_bytes) override {
      Get& get = gets_.at(id);
      const Faults& faults = server_.faults_;
      proto::Piece piece;
      if (faults.cut_get_after && get.sent >= *faults.cut_get_after) {
        cut_ = true;
        return piece;
      }
      if (faults.stall_get_after && get.sent >= *faults.stall_get_after) return piece;
      if (get.at == get.end) {
        piece.kind = proto::Piece::Kind::kEnd;
        piece.end = {.digest = digest_of(*get.entry.bytes), .size = get.entry.bytes->size()};
        return piece;
      }
      const std::uint64_t chunk_end = std::min<std::uint64_t>(
          get.entry.bytes->size(), (get.at / chunk_bytes() + 1) * chunk_bytes());
      std::uint64_t most = std::min<std::uint64_t>(max_bytes, chunk_end - get.at);
      if (faults.cut_get_after) most = std::min(most, *faults.cut_get_after - get.sent);
      if (faults.stall_get_after) most = std::min(most, *faults.stall_get_after - get.sent);
      const auto bytes = static_cast<std::size_t>(most);
      if (bytes == 0) return piece;
      auto copy = std::make_shared<std::string>(get.entry.bytes->substr(get.at, bytes));
      if (faults.corrupt_byte_at && *faults.corrupt_byte_at >= get.at &&
          *faults.corrupt_byte_at < get.at + bytes) {
        (*copy)[*faults.corrupt_byte_at - get.at] ^= 1;
      }
      piece.kind = proto::Piece::Kind::kBytes;
      piece.bytes.data = reinterpret_cast<const std::byte*>(copy->data());
      piece.bytes.size = bytes;
      piece.bytes.owner = copy;
      if (get.at + bytes == chunk_end) {
        const std::uint64_t begin = get.at / chunk_bytes() * chunk_bytes();
        piece.chunk_end = proto::chunk_digest(
            proto::as_bytes(std::string_view(*get.entry.bytes).substr(begin, chunk_end - begin)));
      }
      get.at += bytes;
      get.sent += bytes;
      server_.counts_.get_bytes += bytes;
      if (bytes > server_.counts_.largest_get_frame) server_.counts_.largest_get_frame = bytes;
      return piece;
    }
    void on_value_sent(std::uint32_t id, const proto::Error*) override { gets_.erase(id); }

    void on_put(std::uint32_t id, const proto::PutRequest& request) override {
      const std::string key(proto::as_text(request.key));
      if (!admit(id)) return;
      ++server_.counts_.puts_opened;
      const auto old = server_.entries_.find(key);
      const bool absent = old == server_.entries_.end();
      if ((request.if_absent && !absent) ||
          (request.if_version && (absent || old->second.version != *request.if_version))) {
        return conn_.answer(id, proto::Status::kConditionFailed);
      }
      if (request.size != proto::kUnknownSize && request.size > server_.limits_.max_value_bytes) {
        server_.entries_.erase(key);
        return conn_.answer(id, proto::Status::kValueTooLarge);
      }
      Put put{.key = key,
              .metadata = std::string(proto::as_text(request.metadata)),
              .ttl_ms = request.ttl_ms};
      if (request.is_inline) {
        ++server_.counts_.puts_inline;
        put.bytes = proto::as_text(request.inline_bytes);
        return finish_put(id, put, request.inline_digest);
      }
      puts_[id] = std::move(put);
      if (!server_.faults_.no_credit) conn_.grant(id, server_.limits_.stream_window_bytes);
    }
    proto::MutableBytes on_data_target(std::uint32_t id, std::size_t bytes) override {
      Put& put = puts_.at(id);
      put.piece.resize(bytes);
      return {reinterpret_cast<std::byte*>(put.piece.data()), bytes};
    }
    void on_data_done(std::uint32_t id, std::size_t bytes,
                      std::optional<proto::ChunkDigest> chunk_end) override {
      Put& put = puts_.at(id);
      server_.counts_.put_bytes += bytes;
      put.bytes += put.piece;
      if (server_.faults_.refuse_put && put.bytes.size() >= server_.faults_.refuse_put_after) {
        return conn_.answer(id, *server_.faults_.refuse_put);
      }
      if (chunk_end) {
        const auto chunk = std::string_view(put.bytes).substr(put.chunk_begin);
        if (proto::chunk_digest(proto::as_bytes(chunk)) != *chunk_end) {
          return conn_.answer(id, proto::Status::kDigestMismatch);
        }
        put.hasher.add(*chunk_end);
        put.chunk_begin = put.bytes.size();
      }
      conn_.grant(id, static_cast<std::uint32_t>(bytes));
    }
    void on_put_end(std::uint32_t id, const proto::End& end) override {
      finish_put(id, puts_.at(id), end.digest);
    }
    void finish_put(std::uint32_t id, Put& put, const proto::ValueDigest& digest) {
      if (digest_of(put.bytes) != digest) {
        return conn_.answer(id, proto::Status::kDigestMismatch);
      }
      const std::uint64_t ttl = put.ttl_ms == proto::kDefaultTtl ? 0 : put.ttl_ms;
      const Entry& entry = server_.put(put.key, std::move(put.bytes), put.metadata, ttl);
      conn_.answer(id, proto::Stored{.flags = proto::kInL1,
                                     .size = entry.bytes->size(),
                                     .version = entry.version,
                                     .expires_at_ms = entry.expires_at_ms});
    }

    void on_delete(std::uint32_t id, const proto::KeyRequest& request) override {
      if (!admit(id)) return;
      const auto found = server_.entries_.find(std::string(proto::as_text(request.key)));
      if (found == server_.entries_.end()) return conn_.answer(id, proto::Status::kNotFound);
      if (request.if_version && *request.if_version != found->second.version) {
        return conn_.answer(id, proto::Status::kConditionFailed);
      }
      server_.entries_.erase(found);
      conn_.answer(id, proto::Done{});
    }
    void on_stat(std::uint32_t id, const proto::KeyRequest& request) override {
      const std::string key(proto::as_text(request.key));
      if (admit(id, [this, id, key] { answer_stat(id, key); })) answer_stat(id, key);
    }
    void answer_stat(std::uint32_t id, const std::string& key) {
      const auto found = server_.entries_.find(key);
      if (found == server_.entries_.end()) return conn_.answer(id, proto::Status::kNotFound);
      const Entry& entry = found->second;
      conn_.answer(id, proto::Info{.flags = proto::kInL1,
                                   .size = entry.bytes->size(),
                                   .version = entry.version,
                                   .expires_at_ms = entry.expires_at_ms,
                                   .chunk_bytes = chunk_bytes(),
                                   .metadata = proto::as_bytes(entry.metadata)});
    }
    void on_touch(std::uint32_t id, const proto::TouchRequest& request) override {
      if (!admit(id)) return;
      const auto found = server_.entries_.find(std::string(proto::as_text(request.key)));
      if (found == server_.entries_.end()) return conn_.answer(id, proto::Status::kNotFound);
      found->second.expires_at_ms = request.ttl_ms == 0 ? 0 : kNowMs + request.ttl_ms;
      conn_.answer(id, proto::Done{.version = found->second.version,
                                   .expires_at_ms = found->second.expires_at_ms});
    }
    void on_stats(std::uint32_t id) override {
      if (admit(id)) conn_.answer_stats(id, R"({"test":true})");
    }
    void on_explain(std::uint32_t id, const proto::KeyRequest&) override {
      if (admit(id)) conn_.answer_explain(id, server_.faults_.explanation);
    }
    void on_abort(std::uint32_t id, const proto::Error&) override {
      ++server_.counts_.aborts;
      gets_.erase(id);
      puts_.erase(id);
      held_.erase(id);
    }
    void on_progress(std::uint32_t) override { ++server_.counts_.progress; }

    TestServer& server_;
    asio::ip::tcp::socket socket_;
    proto::ServerConn conn_;
    std::vector<std::byte> scratch_;
    std::unordered_map<std::uint32_t, Get> gets_;
    std::unordered_map<std::uint32_t, Put> puts_;
    std::map<std::uint32_t, std::function<void()>, std::greater<>> held_;  // the latest first
    bool writing_ = false;
    bool cut_ = false;
  };

  static constexpr std::uint64_t kNowMs = 1'700'000'000'000;

  const Entry& put(const std::string& key, std::string bytes, std::string metadata,
                   std::uint64_t ttl_ms) {
    Entry& entry = entries_[key];
    entry = {.bytes = std::make_shared<const std::string>(std::move(bytes)),
             .metadata = std::move(metadata),
             .version = ++last_version_,
             .expires_at_ms = ttl_ms == 0 ? 0 : kNowMs + ttl_ms};
    return entry;
  }
  void accept() {
    acceptor_.async_accept([this](const std::error_code& error, asio::ip::tcp::socket socket) {
      if (error) return;
      ++counts_.connections;
      const auto session = std::make_shared<Session>(*this, std::move(socket));
      sessions_.push_back(session);
      session->start();
      accept();
    });
  }
  void stop() {
    std::error_code ignored;
    acceptor_.close(ignored);
    for (const auto& weak : sessions_) {
      if (const auto session = weak.lock()) session->close();
    }
  }

  const proto::ServerLimits limits_;
  asio::io_context io_;
  asio::ip::tcp::acceptor acceptor_;
  const std::uint16_t port_ = acceptor_.local_endpoint().port();
  Faults faults_;
  Counts counts_;
  std::map<std::string, Entry> entries_;
  std::uint64_t last_version_ = 0x1234;
  std::vector<std::weak_ptr<Session>> sessions_;
  std::thread thread_;
};

}  // namespace cistern::test
