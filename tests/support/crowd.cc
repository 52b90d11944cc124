#include "tests/support/crowd.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <thread>

#include <fmt/format.h>

#include "proto/client_conn.h"
#include "tests/support/eventually.h"

namespace cistern::testing {
namespace {

using Clock = std::chrono::steady_clock;
using proto::MutableBytes;

constexpr std::uint32_t kFrameBytes = 128 * 1024;
constexpr std::uint32_t kWindowChunks = 2;
constexpr int kTickMillis = 10;         // how often a thread looks at what it was told
constexpr std::size_t kTurnReads = 16;  // of one reader before the next one has its turn

bool has_ended(Crowd::State state) {
  return state == Crowd::State::kDone || state == Crowd::State::kCancelled ||
         state == Crowd::State::kFailed;
}

int connect_to(const std::string& endpoint, bool small_buffer) {
  const std::string host_and_port = endpoint.substr(std::string_view("tcp://").size());
  const std::size_t colon = host_and_port.rfind(':');
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(std::stoi(host_and_port.substr(colon + 1))));
  inet_pton(AF_INET, host_and_port.substr(0, colon).c_str(), &address.sin_addr);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int bytes = 4096;
  if (small_buffer) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
  const timeval patience{30, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    close(fd);
    throw std::runtime_error("connect " + endpoint + ": " + std::strerror(errno));
  }
  return fd;
}

}  // namespace

ExpectedValue::ExpectedValue(std::vector<std::byte> value, std::uint32_t chunk_size)
    : bytes(std::move(value)), chunk_bytes(chunk_size) {
  proto::ValueHasher hasher;
  for (std::size_t at = 0; at < bytes.size(); at += chunk_bytes) {
    const std::size_t size = std::min<std::size_t>(chunk_bytes, bytes.size() - at);
    chunks.push_back(proto::chunk_digest(proto::Bytes(bytes).subspan(at, size)));
    hasher.add(chunks.back());
  }
  digest = hasher.finish(chunk_bytes, bytes.size());
}

// ---------------------------------------------------------------------------------------- Reader

// One connection. Its group's thread; outcome() under the group's mutex.
class Crowd::Reader : private proto::ClientConn::Handler {
 public:
  Reader(const std::string& endpoint, const std::string& key, const ExpectedValue& value,
         const Pace& pace)
      : key_(key),
        value_(value),
        pace_(pace),
        frame_(std::min(kFrameBytes, pace.bytes == 0 ? kFrameBytes : least_frame(pace))),
        fd_(connect_to(endpoint, pace.by_socket)),
        conn_(*this, static_cast<std::uint32_t>(proto::kMaxFrameBytes)) {
    conn_.hello("crowd");
    flush();
    std::vector<std::byte> scratch(proto::kScratchBytes);
    while (!conn_.welcome() && !has_ended(outcome_.state)) read(scratch, proto::kScratchBytes, 0);
    if (!conn_.welcome()) throw std::runtime_error("no WELCOME: " + outcome_.error);
  }
  ~Reader() override { close(fd_); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  int fd() const { return fd_; }
  const Outcome& outcome() const { return outcome_; }
  bool reads_when_told() const { return pace_.by_socket && !cancelled_; }

  void ask() {
    proto::GetRequest get;
    get.key = proto::as_bytes(key_);
    get.frame_bytes = static_cast<std::uint32_t>(frame_.size());
    get.credit_bytes = kWindowChunks * value_.chunk_bytes;
    if (pace_.bytes != 0) {
      get.credit_bytes =
          pace_.by_socket ? static_cast<std::uint32_t>(proto::kMaxCreditBytes) : pace_.bytes;
    }
    next_turn_ = Clock::now() + pace_.each;
    id_ = conn_.get(get);
    flush();
  }

  void cancel() {
    if (has_ended(outcome_.state)) return;
    cancelled_ = true;
    conn_.cancel(id_);
    flush();
    if (conn_.open_requests() == 0) outcome_.state = State::kCancelled;
  }

  // The socket is readable.
  void on_readable(MutableBytes scratch) {
    for (std::size_t i = 0; i < kTurnReads && !has_ended(outcome_.state); ++i) {
      if (!read(scratch, SIZE_MAX, MSG_DONTWAIT)) break;
    }
  }

  // The pace's turn, if it is time for it.
  void tick(MutableBytes scratch) {
    if (pace_.bytes == 0 || id_ == 0 || cancelled_ || has_ended(outcome_.state)) return;
    if (Clock::now() < next_turn_) return;
    next_turn_ += pace_.each;
    if (pace_.by_socket) {
      read(scratch, pace_.bytes, MSG_DONTWAIT);
    } else {
      conn_.grant(id_, pace_.bytes);
      flush();
    }
  }

 private:
  static std::uint32_t least_frame(const Pace& pace) {
    return std::max<std::uint32_t>(proto::kMinReaderFrameBytes, pace.bytes);
  }

  // False when there was nothing, or it is over.
  bool read(MutableBytes scratch, std::size_t at_most, int flags) {
    std::array<MutableBytes, 2> areas = conn_.prepare(scratch);
    iovec vectors[2];
    for (std::size_t i = 0; i < 2; ++i) {
      const std::size_t bytes = std::min(areas[i].size(), at_most);
      at_most -= bytes;
      vectors[i] = {areas[i].data(), bytes};
    }
    msghdr message{};
    message.msg_iov = vectors;
    message.msg_iovlen = 2;
    const ssize_t got = recvmsg(fd_, &message, flags);
    if (got <= 0) {
      const bool is_idle = got < 0 && (errno == EAGAIN || errno == EINTR) && flags != 0;
      if (!is_idle) fail(got == 0 ? "the server closed the connection" : std::strerror(errno));
      conn_.finish();
      return false;
    }
    conn_.commit(static_cast<std::size_t>(got));
    conn_.process();
    conn_.finish();
    if (cancelled_ && conn_.open_requests() == 0 && !has_ended(outcome_.state)) {
      outcome_.state = State::kCancelled;
    }
    flush();
    return true;
  }

  // Requests and credit are a few bytes, and the server reads its socket at all times.
  void flush() {
    proto::Batch batch;
    while (conn_.has_output() && !conn_.failed()) conn_.collect(batch, proto::kMiB);
    for (std::size_t at = 0; at < batch.control.size();) {
      const ssize_t sent =
          send(fd_, batch.control.data() + at, batch.control.size() - at, MSG_NOSIGNAL);
      if (sent < 0) return fail(std::strerror(errno));
      at += static_cast<std::size_t>(sent);
    }
  }

  void fail(std::string why) {
    if (has_ended(outcome_.state)) return;
    outcome_.state = State::kFailed;
    outcome_.error = std::move(why);
  }

  void on_value(std::uint32_t, const proto::ValueHead& head) override {
    outcome_.version = head.version;
    outcome_.state = State::kReading;
    if (head.size != value_.bytes.size() || head.chunk_bytes != value_.chunk_bytes || head.cover ||
        (head.flags & proto::kValueInline) != 0) {
      fail(fmt::format("the head announces {} bytes in chunks of {}", head.size, head.chunk_bytes));
    }
  }

  MutableBytes on_data_target(std::uint32_t, std::size_t bytes) override {
    return MutableBytes(frame_).first(bytes);
  }

  void on_data_done(std::uint32_t id, std::size_t bytes,
                    std::optional<proto::ChunkDigest> chunk_end) override {
    if (has_ended(outcome_.state)) return;
    if (std::memcmp(frame_.data(), value_.bytes.data() + outcome_.received, bytes) != 0) {
      return fail(fmt::format("wrong bytes from {} on", outcome_.received));
    }
    const std::uint64_t index = outcome_.received / value_.chunk_bytes;
    outcome_.received += bytes;
    if (chunk_end && *chunk_end != value_.chunks[index]) {
      return fail(fmt::format("chunk {} came with another digest", index));
    }
    if (pace_.bytes == 0) conn_.grant(id, static_cast<std::uint32_t>(bytes));
  }

  void on_end(std::uint32_t, const proto::End& end) override {
    if (end.digest != value_.digest || outcome_.received != value_.bytes.size()) {
      return fail("the end has another digest");
    }
    if (!has_ended(outcome_.state)) outcome_.state = State::kDone;
  }

  void on_error(std::uint32_t, const proto::Error& error) override {
    fail(fmt::format("{}: {}", proto::name(error.status), error.message));
  }
  void on_go_away(const proto::Error& error) override { fail("GOAWAY: " + error.message); }
  void on_lost(const proto::Error& error) override { fail("lost: " + error.message); }

  void on_welcome(const proto::Welcome&) override {}
  void on_credit(std::uint32_t) override {}
  proto::Piece next_piece(std::uint32_t, std::size_t) override { return {}; }
  void on_stored(std::uint32_t, const proto::Stored&) override {}
  void on_done(std::uint32_t, const proto::Done&) override {}
  void on_info(std::uint32_t, const proto::Info&) override {}
  void on_pong(std::uint32_t, proto::Bytes) override {}
  void on_stats(std::uint32_t, std::string_view) override {}
  void on_explanation(std::uint32_t, std::string_view) override {}

  const std::string& key_;
  const ExpectedValue& value_;
  const Pace pace_;
  std::vector<std::byte> frame_;
  const int fd_;
  proto::ClientConn conn_;
  Outcome outcome_;
  std::uint32_t id_ = 0;
  bool cancelled_ = false;
  Clock::time_point next_turn_{};
};

// ----------------------------------------------------------------------------------------- Group

// The readers of one thread.
class Crowd::Group {
 public:
  Group(const std::string& endpoint, std::string key, std::shared_ptr<const ExpectedValue> value,
        unsigned count, const Pace& pace)
      : key_(std::move(key)), value_(std::move(value)) {
    for (unsigned i = 0; i < count; ++i) {
      readers_.push_back(std::make_unique<Reader>(endpoint, key_, *value_, pace));
    }
    thread_ = std::thread([this] { run(); });
  }
  ~Group() {
    stopped_ = true;
    thread_.join();
  }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  void ask() { asked_ = true; }
  void cancel() { cancelled_ = true; }
  void outcomes(std::vector<Outcome>& all) const {
    const std::lock_guard lock(mutex_);
    for (const auto& reader : readers_) all.push_back(reader->outcome());
  }

 private:
  void run() {
    const int epoll = epoll_create1(EPOLL_CLOEXEC);
    std::vector<std::byte> scratch(proto::kScratchBytes);
    std::vector<epoll_event> events(readers_.size());
    std::vector<bool> is_watched(readers_.size(), false);
    bool did_ask = false;
    bool did_cancel = false;
    while (!stopped_) {
      const bool ask_now = asked_ && !std::exchange(did_ask, asked_.load());
      const bool cancel_now = cancelled_ && !std::exchange(did_cancel, cancelled_.load());
      {
        const std::lock_guard lock(mutex_);
        for (std::size_t i = 0; i < readers_.size(); ++i) {
          if (ask_now) readers_[i]->ask();
          if (cancel_now) readers_[i]->cancel();
          readers_[i]->tick(scratch);
          watch(epoll, i, is_watched);
        }
      }
      const int ready =
          epoll_wait(epoll, events.data(), static_cast<int>(events.size()), kTickMillis);
      for (int i = 0; i < ready; ++i) {
        const std::lock_guard lock(mutex_);
        readers_[events[static_cast<std::size_t>(i)].data.u64]->on_readable(scratch);
      }
    }
    close(epoll);
  }

  // Those that read their socket only in their turn, and those that have ended, aren't watched.
  void watch(int epoll, std::size_t index, std::vector<bool>& is_watched) const {
    const Reader& reader = *readers_[index];
    const bool wanted = !reader.reads_when_told() && !has_ended(reader.outcome().state);
    if (wanted == is_watched[index]) return;
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = index;
    epoll_ctl(epoll, wanted ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, reader.fd(), &event);
    is_watched[index] = wanted;
  }

  const std::string key_;
  const std::shared_ptr<const ExpectedValue> value_;
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<Reader>> readers_;
  std::atomic<bool> asked_{false};
  std::atomic<bool> cancelled_{false};
  std::atomic<bool> stopped_{false};
  std::thread thread_;
};

// ----------------------------------------------------------------------------------------- Crowd

Crowd::Crowd(const std::string& endpoint, std::string key,
             std::shared_ptr<const ExpectedValue> value, unsigned count, const Pace& pace,
             unsigned threads) {
  for (unsigned i = 0; i < threads; ++i) {
    const unsigned share = count / threads + (i < count % threads ? 1 : 0);
    groups_.push_back(std::make_unique<Group>(endpoint, key, value, share, pace));
  }
}

Crowd::~Crowd() = default;

void Crowd::ask() {
  for (const auto& group : groups_) group->ask();
}

void Crowd::cancel() {
  for (const auto& group : groups_) group->cancel();
}

std::vector<Crowd::Outcome> Crowd::outcomes() const {
  std::vector<Outcome> all;
  for (const auto& group : groups_) group->outcomes(all);
  return all;
}

bool Crowd::wait(const Holds& holds, Millis patience) const {
  return eventually([&] { return std::ranges::all_of(outcomes(), holds); }, patience);
}

bool Crowd::wait_ended(Millis patience) const {
  return wait([](const Outcome& outcome) { return has_ended(outcome.state); }, patience);
}

std::string Crowd::unless_all(State state) const {
  std::string text;
  unsigned others = 0;
  for (const Outcome& outcome : outcomes()) {
    if (outcome.state == state) continue;
    if (++others <= 5) {
      text += fmt::format("  state {} after {} bytes: {}\n", static_cast<int>(outcome.state),
                          outcome.received, outcome.error);
    }
  }
  return others == 0 ? ""
                     : fmt::format("{} readers are not in the state wanted:\n{}", others, text);
}

}  // namespace cistern::testing
