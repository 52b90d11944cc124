#include "tests/support/proxy.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <condition_variable>
#include <deque>
#include <future>
#include <mutex>
#include <random>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <asio/write.hpp>

namespace cistern::testing {
namespace {

using asio::ip::tcp;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kPieceBytes = 64 * 1024;
// What a direction that stands still takes up before it stops reading.
constexpr std::size_t kMaxQueuedBytes = 1024 * 1024;

// What all connections share. The proxy's thread only.
struct Faults {
  std::mt19937_64 random{1};
  std::chrono::milliseconds least{0};
  std::chrono::milliseconds most{0};
  std::size_t throttle_bytes = 0;
  std::chrono::milliseconds throttle_between{0};
  bool gate_closed = false;
  std::size_t gate_count = 0;
  std::size_t gate_bulk_bytes = 0;
  std::size_t passed = 0;
  std::size_t cut_after = 0;      // 0: never
  std::size_t corrupt_bytes = 0;  // of a bulk at least; 0: none
  bool garble = false;
  bool swallow = false;
  std::function<bool(std::string_view)> hold;
  bool frozen = false;
};

// Follows a stream of Redis' replies as far as its bulk strings.
class BulkScanner {
 public:
  // How many of `bytes` may pass; fewer than all of them when the gate holds back the next bulk.
  // Flips the bit that is to be.
  std::size_t pass(std::span<char> bytes, Faults& faults) {
    std::size_t at = 0;
    while (at < bytes.size()) {
      if (skip_ > 0) {
        if (is_large_ && !is_counted_) {
          if (faults.gate_closed && faults.passed >= faults.gate_count) return at;
          ++faults.passed;
          is_counted_ = true;
        }
        const auto here =
            static_cast<std::size_t>(std::min<std::uint64_t>(skip_, bytes.size() - at));
        const std::uint64_t gone = length_ + 2 - skip_;
        const bool spoils = faults.corrupt_bytes > 0 && length_ >= faults.corrupt_bytes;
        if (spoils && gone <= length_ / 2 && length_ / 2 < gone + here) {
          bytes[at + length_ / 2 - gone] ^= 1;
        }
        skip_ -= here;
        at += here;
        continue;
      }
      const char c = bytes[at++];
      if (c != '\n') {
        line_ += c;
        continue;
      }
      std::uint64_t length = 0;  // what is no number, as of a garbled stream, is no bulk
      const char* const end = line_.data() + line_.size();
      const bool is_bulk = line_.starts_with('$') && line_.ends_with('\r') &&
                           std::from_chars(line_.data() + 1, end, length).ptr == end - 1;
      if (is_bulk) {
        length_ = length;
        skip_ = length + 2;
        is_large_ = faults.gate_bulk_bytes > 0 && length >= faults.gate_bulk_bytes;
        is_counted_ = false;
      }
      line_.clear();
    }
    return at;
  }

 private:
  std::string line_;
  std::uint64_t length_ = 0;  // of the bulk
  std::uint64_t skip_ = 0;    // what is still to come of it, and of its line's end
  bool is_large_ = false;
  bool is_counted_ = false;
};

struct Connection : std::enable_shared_from_this<Connection> {
  Connection(asio::io_context& io, Faults& shared, std::function<void()> on_held)
      : client(io), upstream(io), faults(shared), tell_held(std::move(on_held)), timer(io) {}

  struct Piece {
    std::string bytes;
    Clock::time_point due;
  };
  struct Way {  // one direction
    std::deque<Piece> queue;
    std::size_t queued_bytes = 0;
    bool is_reading = false;
    bool is_writing = false;
    bool has_ended = false;
    std::array<char, kPieceBytes> buffer;
    std::string out;
    std::uint64_t passed_bytes = 0;
  };

  void start() {
    read(up, client);
    read(down, upstream);
  }

  void read(Way& way, tcp::socket& from) {
    if (way.is_reading || way.has_ended || way.queued_bytes >= kMaxQueuedBytes) return;
    way.is_reading = true;
    from.async_read_some(
        asio::buffer(way.buffer),
        [self = shared_from_this(), &way, &from](const asio::error_code& error, std::size_t bytes) {
          way.is_reading = false;
          if (error) {
            way.has_ended = true;
          } else {
            self->arrived(way, {way.buffer.data(), bytes});
            self->read(way, from);
          }
          self->pump();
        });
  }

  void arrived(Way& way, std::string_view bytes) {
    Piece piece{std::string(bytes), Clock::now()};
    if (&way == &down && faults.swallow) return;
    if (&way == &down && faults.garble) piece.bytes[0] = '?';
    if (&way == &up) {
      if (faults.hold && !is_held && faults.hold(bytes)) {
        is_held = true;
        tell_held();
      }
    } else if (faults.most.count() > 0) {
      std::uniform_int_distribution<std::int64_t> wait(faults.least.count(), faults.most.count());
      piece.due += std::chrono::milliseconds(wait(faults.random));
      if (!way.queue.empty()) piece.due = std::max(piece.due, way.queue.back().due);
    }
    way.queued_bytes += bytes.size();
    way.queue.push_back(std::move(piece));
  }

  void pump() {
    if (!is_held) write(up, upstream, client);
    write(down, client, upstream);
    // An end is passed on when all before it has been; of what is held, nothing ends.
    if (up.has_ended && up.queue.empty() && !up.is_writing && !is_held) close_upstream();
    if (down.has_ended && down.queue.empty() && !down.is_writing) close_client();
  }

  void write(Way& way, tcp::socket& to, tcp::socket& from) {
    if (way.is_writing || way.queue.empty() || faults.frozen) return;
    Piece& piece = way.queue.front();
    if (piece.due > Clock::now()) {
      timer.expires_at(piece.due);
      timer.async_wait([self = shared_from_this()](const asio::error_code& error) {
        if (!error) self->pump();
      });
      return;
    }
    std::size_t allowed = piece.bytes.size();
    if (&way == &down) {
      if (faults.throttle_bytes > 0) {
        allowed = std::min(allowed, faults.throttle_bytes);
        piece.due = Clock::now() + faults.throttle_between;  // of its rest
      }
      const std::size_t offered = allowed;
      allowed = scanner.pass(std::span(piece.bytes).first(offered), faults);
      is_withheld = allowed < offered;
      if (faults.cut_after > 0) {
        if (since_fault >= faults.cut_after) return close_client();
        allowed = std::min(allowed, faults.cut_after - since_fault);
        since_fault += allowed;
      }
    }
    if (allowed == 0) return;
    way.out = piece.bytes.substr(0, allowed);
    piece.bytes.erase(0, allowed);
    if (piece.bytes.empty()) way.queue.pop_front();
    way.is_writing = true;
    asio::async_write(
        to, asio::buffer(way.out),
        [self = shared_from_this(), &way, &from](const asio::error_code& error, std::size_t bytes) {
          way.is_writing = false;
          way.queued_bytes -= way.out.size();
          way.passed_bytes += bytes;
          if (error) {
            way.has_ended = true;
            way.queue.clear();
          }
          self->read(way, from);
          self->pump();
        });
  }

  void close_client() {
    asio::error_code ignored;
    client.close(ignored);
    if (!is_held) upstream.close(ignored);
  }
  void close_upstream() {
    asio::error_code ignored;
    upstream.shutdown(tcp::socket::shutdown_send, ignored);
    client.close(ignored);
    down.queue.clear();
    down.queued_bytes = 0;
    read(down, upstream);  // to its end, so that upstream is not reset before it has read all
  }

  tcp::socket client;
  tcp::socket upstream;
  Faults& faults;
  std::function<void()> tell_held;
  asio::steady_timer timer;
  Way up;
  Way down;
  BulkScanner scanner;
  std::size_t since_fault = 0;  // bytes of replies, while they are counted
  bool is_held = false;
  bool is_withheld = false;
};

}  // namespace

struct Proxy::Impl {
  explicit Impl(std::uint16_t upstream_port)
      : upstream(asio::ip::address_v4::loopback(), upstream_port),
        acceptor(io, tcp::endpoint(asio::ip::address_v4::loopback(), 0)),
        port(acceptor.local_endpoint().port()) {
    accept();
    thread = std::thread([this] { io.run(); });
  }
  ~Impl() {
    io.stop();
    thread.join();
  }

  // Runs `f` on the proxy's thread and waits for it.
  template <typename F>
  auto on_thread(F f) {
    std::packaged_task<std::invoke_result_t<F>()> task(std::move(f));
    auto result = task.get_future();
    asio::post(io, [&task] { task(); });
    return result.get();
  }

  void accept() {
    acceptor.async_accept([this](const asio::error_code& error, tcp::socket client) {
      if (error || in_black_hole) return;
      ++accepted;
      if (!refusing) begin(std::move(client));
      accept();
    });
  }

  void begin(tcp::socket client) {
    auto connection = std::make_shared<Connection>(io, faults, [this] {
      const std::lock_guard lock(mutex);
      ++held;
      changed.notify_all();
    });
    connection->client = std::move(client);
    connections.push_back(connection);
    connection->upstream.async_connect(upstream, [connection](const asio::error_code& error) {
      asio::error_code ignored;
      if (error) {
        connection->client.close(ignored);
        return;
      }
      connection->client.set_option(tcp::no_delay(true), ignored);
      connection->upstream.set_option(tcp::no_delay(true), ignored);
      connection->start();
    });
  }

  std::uint64_t passed_bytes(Connection::Way Connection::*way) {
    return on_thread([&] {
      std::uint64_t sum = 0;
      for (const auto& connection : connections) sum += ((*connection).*way).passed_bytes;
      return sum;
    });
  }

  void pump_all() {
    for (const auto& connection : connections) {
      connection->is_withheld = false;
      connection->pump();
    }
  }

  asio::io_context io{1};
  // In the black hole there may be nothing else to do.
  const asio::executor_work_guard<asio::io_context::executor_type> work{io.get_executor()};
  tcp::endpoint upstream;
  tcp::acceptor acceptor;
  const std::uint16_t port;
  Faults faults;
  bool refusing = false;
  bool in_black_hole = false;
  std::vector<tcp::socket> fillers;  // of the listener's queue
  std::uint64_t accepted = 0;
  std::vector<std::shared_ptr<Connection>> connections;
  std::mutex mutex;
  std::condition_variable changed;
  std::size_t held = 0;
  std::thread thread;
};

Proxy::Proxy(std::uint16_t upstream_port) : impl_(std::make_unique<Impl>(upstream_port)) {}
Proxy::~Proxy() = default;

std::uint16_t Proxy::port() const { return impl_->port; }

void Proxy::delay_replies(Millis least, Millis most, std::uint64_t seed) {
  impl_->on_thread([&] {
    impl_->faults.least = least;
    impl_->faults.most = most;
    impl_->faults.random.seed(seed);
  });
}

void Proxy::throttle_replies(std::size_t bytes, Millis between) {
  impl_->on_thread([&] {
    impl_->faults.throttle_bytes = bytes;
    impl_->faults.throttle_between = between;
  });
}

void Proxy::cut_after(std::size_t bytes) {
  impl_->on_thread([&] {
    for (const auto& connection : impl_->connections) connection->since_fault = 0;
    impl_->faults.cut_after = bytes;
  });
}

void Proxy::corrupt_bulks(std::size_t bulk_bytes) {
  impl_->on_thread([&] { impl_->faults.corrupt_bytes = bulk_bytes; });
}

void Proxy::garble_replies() {
  impl_->on_thread([&] { impl_->faults.garble = true; });
}

void Proxy::swallow_replies() {
  impl_->on_thread([&] { impl_->faults.swallow = true; });
}

void Proxy::clear_faults() {
  impl_->on_thread([&] {
    Faults& faults = impl_->faults;
    faults.least = faults.most = faults.throttle_between = Millis(0);
    faults.throttle_bytes = faults.cut_after = faults.corrupt_bytes = 0;
    faults.garble = faults.swallow = false;
    impl_->pump_all();
  });
}

void Proxy::black_hole(bool on) {
  impl_->on_thread([&] {
    Impl& impl = *impl_;
    if (impl.in_black_hole == on) return;
    impl.in_black_hole = on;
    impl.fillers.clear();
    if (!on) {
      impl.acceptor.listen();
      return impl.accept();
    }
    impl.acceptor.cancel();
    impl.acceptor.listen(0);
    for (int i = 0; i < 4; ++i) {  // more than fit
      impl.fillers.emplace_back(impl.io, tcp::v4());
      impl.fillers.back().non_blocking(true);
      const tcp::endpoint to = impl.acceptor.local_endpoint();
      // Asio's own connect waits for the connection, which may never be made.
      static_cast<void>(::connect(impl.fillers.back().native_handle(), to.data(),
                                  static_cast<socklen_t>(to.size())));
    }
  });
}

void Proxy::set_upstream(std::uint16_t port) {
  impl_->on_thread([&] { impl_->upstream.port(port); });
}

void Proxy::close_gate_after(std::size_t count, std::size_t bulk_bytes) {
  impl_->on_thread([&] {
    impl_->faults.gate_closed = true;
    impl_->faults.gate_count = count;
    impl_->faults.gate_bulk_bytes = bulk_bytes;
    impl_->faults.passed = 0;
  });
}

void Proxy::open_gate() {
  impl_->on_thread([&] {
    impl_->faults.gate_closed = false;
    impl_->pump_all();
  });
}

std::size_t Proxy::passed() const {
  return impl_->on_thread([&] { return impl_->faults.passed; });
}

std::size_t Proxy::withheld() const {
  return impl_->on_thread([&] {
    return static_cast<std::size_t>(std::count_if(impl_->connections.begin(),
                                                  impl_->connections.end(),
                                                  [](const auto& c) { return c->is_withheld; }));
  });
}

void Proxy::hold_requests(std::function<bool(std::string_view)> matches) {
  impl_->on_thread([&] { impl_->faults.hold = std::move(matches); });
}

bool Proxy::wait_held(Millis patience) {
  std::unique_lock lock(impl_->mutex);
  return impl_->changed.wait_for(lock, patience, [&] { return impl_->held > 0; });
}

void Proxy::release_held() {
  impl_->on_thread([&] {
    impl_->faults.hold = nullptr;
    for (const auto& connection : impl_->connections) {
      connection->is_held = false;
      connection->pump();
    }
    const std::lock_guard lock(impl_->mutex);
    impl_->held = 0;
  });
}

void Proxy::freeze(bool on) {
  impl_->on_thread([&] {
    impl_->faults.frozen = on;
    if (!on) impl_->pump_all();
  });
}

void Proxy::cut() {
  impl_->on_thread([&] {
    for (const auto& connection : impl_->connections) connection->close_client();
  });
}

void Proxy::refuse(bool on) {
  impl_->on_thread([&] { impl_->refusing = on; });
}

std::size_t Proxy::connections() const {
  return impl_->on_thread([&] {
    return static_cast<std::size_t>(
        std::count_if(impl_->connections.begin(), impl_->connections.end(),
                      [](const auto& c) { return c->client.is_open(); }));
  });
}

std::uint64_t Proxy::accepted() const {
  return impl_->on_thread([&] { return impl_->accepted; });
}

std::uint64_t Proxy::bytes_up() const { return impl_->passed_bytes(&Connection::up); }
std::uint64_t Proxy::bytes_down() const { return impl_->passed_bytes(&Connection::down); }

std::function<bool(std::string_view)> containing(std::string text) {
  return [text = std::move(text)](std::string_view piece) {
    return piece.find(text) != std::string_view::npos;
  };
}

}  // namespace cistern::testing
