#include "tests/bench/load/chunk_load.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <stdexcept>

#include <hiredis/hiredis.h>
#include <nlohmann/json.hpp>

#include "tests/bench/load/hiredis_connection.h"
#include "tests/bench/load/line_driver.h"
#include "tests/bench/load/socket.h"

namespace cistern::bench {
namespace {

constexpr std::size_t kBufferBytes = 256 * proto::kKiB;
constexpr int kReplyMs = 30'000;

class HiredisChunks final : public ChunkReader {
 public:
  HiredisChunks(const Config& config, const std::vector<std::string>& names)
      : names_(names), ahead_(config.chunk_reads), connection_(config.endpoint) {}

  Received read(std::size_t first, std::size_t last) override {
    Received received;
    std::size_t asked = first;
    for (std::size_t got = first; got < last; ++got) {
      for (; asked < std::min(last, got + ahead_); ++asked) connection_.append_get(names_[asked]);
      const HiredisConnection::Reply reply = connection_.reply();
      if (got == first) received.first_byte_ns = now_ns();
      if (reply->type != REDIS_REPLY_STRING) {
        throw std::runtime_error("chunk " + names_[got] + " is not in Redis any more");
      }
      received.bytes += static_cast<std::uint64_t>(reply->len);
    }
    return received;
  }

 private:
  const std::vector<std::string>& names_;
  std::size_t ahead_;
  HiredisConnection connection_;
};

// Receives into one warm buffer and counts.
class BareChunks final : public ChunkReader, private Sink {
 public:
  BareChunks(const Config& config, const std::vector<std::string>& names)
      : names_(names),
        ahead_(config.chunk_reads),
        corpus_("", {}),
        system_(make_redis_gets(corpus_, [&names](KeyIndex key) { return names[key]; })),
        driver_(system_->driver()),
        fd_(connect_to(config.endpoint, true)),
        buffer_(kBufferBytes) {}

  Received read(std::size_t first, std::size_t last) override {
    received_ = {};
    next_ = last_asked_ = first;
    while (next_ < last) {
      for (; last_asked_ < std::min(last, next_ + ahead_); ++last_asked_) {
        driver_->get(out_, 0, static_cast<KeyIndex>(last_asked_));
      }
      send_all();
      receive();
    }
    return received_;
  }

 private:
  void on_size(Slot, std::uint64_t) override {}
  bool wants(Slot, std::uint64_t) const override { return false; }
  void on_bytes(Slot, std::uint64_t, proto::Bytes bytes) override {
    if (received_.bytes == 0) received_.first_byte_ns = now_ns();
    received_.bytes += bytes.size();
  }
  void on_end(Slot, Outcome outcome, std::string_view why) override {
    if (outcome != Outcome::kHit) {
      throw std::runtime_error(
          "chunk " + names_[next_] + ": " +
          (outcome == Outcome::kMiss ? "not in Redis any more" : std::string(why)));
    }
    ++next_;
  }

  void wait_for(short events) const {
    pollfd poll_fd{fd_.get(), events, 0};
    if (poll(&poll_fd, 1, kReplyMs) == 0) throw std::runtime_error("Redis: no answer within 30 s");
  }

  void send_all() {
    while (!out_.empty()) {
      const Outbox::Batch batch = out_.batch();
      const ssize_t sent = send(fd_.get(), batch.bytes.data(), batch.bytes.size(), MSG_NOSIGNAL);
      if (sent < 0 && errno != EAGAIN) fail("sending");
      if (sent < 0) {
        wait_for(POLLOUT);
      } else {
        out_.sent(static_cast<std::size_t>(sent));
      }
    }
  }

  void receive() {
    ssize_t got = recv(fd_.get(), buffer_.data(), buffer_.size(), 0);
    if (got < 0 && errno == EAGAIN) {
      wait_for(POLLIN);
      got = recv(fd_.get(), buffer_.data(), buffer_.size(), 0);
    }
    if (got < 0 && errno != EAGAIN) fail("receiving");
    if (got == 0) throw std::runtime_error("Redis closed the connection");
    if (got < 0) return;
    const std::string error =
        driver_->feed(proto::Bytes(buffer_).first(static_cast<std::size_t>(got)), out_, *this);
    if (!error.empty()) throw std::runtime_error("Redis: " + error);
  }

  [[noreturn]] static void fail(const std::string& what) {
    throw std::runtime_error("Redis: " + what + " failed: " + std::strerror(errno));
  }

  const std::vector<std::string>& names_;
  std::size_t ahead_;
  Corpus corpus_;
  std::unique_ptr<System> system_;
  std::unique_ptr<Driver> driver_;
  Fd fd_;
  std::vector<std::byte> buffer_;
  Outbox out_;
  Received received_;
  std::size_t next_ = 0;
  std::size_t last_asked_ = 0;
};

std::vector<std::string> read_names(const std::string& path) {
  std::ifstream file(path);
  std::vector<std::string> names;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty()) names.push_back(line);
  }
  if (names.empty()) {
    throw std::runtime_error("chunk_keys_file " + path + ": no names of chunks, one a line");
  }
  return names;
}

std::unique_ptr<ChunkReader> make_reader(const Config& config,
                                         const std::vector<std::string>& names) {
  if (config.system == "hiredis-chunks") return std::make_unique<HiredisChunks>(config, names);
  return std::make_unique<BareChunks>(config, names);
}

// Chunks are called PREFIX:HASH:VERSION:INDEX; those of one value differ in the index alone.
std::string_view value_of(std::string_view name) { return name.substr(0, name.rfind(':')); }

}  // namespace

ChunkLoad::ChunkLoad(const Config& config)
    : config_(config),
      names_(read_names(config_.chunk_keys_file)),
      reader_(make_reader(config_, names_)) {
  split();
}

void ChunkLoad::split() {
  is_whole_ = config_.value.max_bytes > reader_->read(0, 1).bytes;
  for (std::size_t i = 1; i < names_.size(); ++i) {
    if (!is_whole_ || value_of(names_[i]) != value_of(names_[i - 1])) ends_.push_back(i);
  }
  ends_.push_back(names_.size());
}

nlohmann::json ChunkLoad::fill(KeyIndex, KeyIndex) {
  throw std::invalid_argument("fill: chunks are read only; Cistern writes them");
}

// Replies to what was asked for may follow an error: only a new connection is without them.
ChunkReader::Received ChunkLoad::read(std::size_t first, std::size_t last) {
  try {
    return reader_->read(first, last);
  } catch (...) {
    reader_ = make_reader(config_, names_);
    throw;
  }
}

nlohmann::json ChunkLoad::run(double seconds) {
  Totals totals;
  const std::int64_t cpu_began = cpu_ns();
  const std::int64_t began = now_ns();
  const std::int64_t deadline = began + static_cast<std::int64_t>(seconds * 1e9);
  std::int64_t now = began;
  while (config_.operations == 0 ? now < deadline : totals.gets < config_.operations) {
    const std::size_t first = next_ == 0 ? 0 : ends_[next_ - 1];
    const ChunkReader::Received received = read(first, ends_[next_]);
    const std::int64_t asked = now;
    now = now_ns();
    ++totals.gets;
    ++totals.hits;
    totals.bytes_in += received.bytes;
    // What Cistern keeps with a chunk is no part of the value.
    totals.value_bytes += std::min(received.bytes, config_.value.max_bytes);
    totals.latency.add(now - asked);
    totals.first_byte.add(received.first_byte_ns - asked);
    if (is_whole_ && received.bytes < config_.value.max_bytes) {
      totals.fail("the chunks of " + std::string(value_of(names_[first])) + " have " +
                  std::to_string(received.bytes) + " bytes, and the value " +
                  std::to_string(config_.value.max_bytes));
    }
    next_ = (next_ + 1) % ends_.size();
  }
  return report(totals, static_cast<double>(now - began) / 1e9,
                static_cast<double>(cpu_ns() - cpu_began) / 1e9);
}

}  // namespace cistern::bench
