#include "tests/bench/load/connection.h"

#include <sys/sendfile.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace cistern::bench {
namespace {

// System calls in a row on one connection, before the others have their turn.
constexpr int kMaxReceives = 8;

// The payload of large values goes from its file, page by page, without being copied here: what
// sends it costs this process less than what receives it costs the server.
ssize_t send_batch(int fd, const Outbox::Batch& batch, const Corpus& corpus) {
  if (batch.is_referred) {
    off_t offset = corpus.offset_of(batch.bytes.data());
    return sendfile(fd, corpus.file(), &offset, batch.bytes.size());
  }
  const int flags = MSG_NOSIGNAL | (batch.is_last ? 0 : MSG_MORE);
  return send(fd, batch.bytes.data(), batch.bytes.size(), flags);
}

std::string describe(const Corpus& corpus, KeyIndex key) { return "key " + corpus.key(key) + ": "; }

}  // namespace

void Connection::connect(bool waits) {
  fd_ = connect_to(shared_.config.endpoint, waits);
  driver_ = shared_.system.driver();
  out_.clear();
  driver_->open(out_);
}

void Connection::close() {
  fd_ = Fd();
  out_.clear();
}

void Connection::issue(const Operation& operation, std::int64_t intended_ns) {
  if (free_.empty()) {
    free_.push_back(static_cast<Slot>(requests_.size()));
    requests_.emplace_back();
  }
  const Slot slot = free_.back();
  free_.pop_back();
  Request& request = requests_[slot];
  request.operation = operation;
  request.is_open = true;
  request.intended_ns = intended_ns;
  request.value.begin(shared_.corpus, operation.key, shared_.issued, shared_.config.verifies_all);
  ++shared_.issued;
  ++open_;
  ++shared_.open;
  if (operation.is_put) {
    driver_->put(out_, slot, operation.key);
  } else {
    driver_->get(out_, slot, operation.key);
  }
}

bool Connection::lose(std::string why) {
  why_ = proto::to_string(shared_.config.endpoint) + ": " + std::move(why);
  return false;
}

bool Connection::flush() {
  while (!out_.empty()) {
    const Outbox::Batch batch = out_.batch();
    const ssize_t sent = send_batch(fd_.get(), batch, shared_.corpus);
    if (sent < 0) {
      if (errno == EAGAIN) return true;
      if (errno == EINTR) continue;
      return lose(std::string("sending failed: ") + std::strerror(errno));
    }
    shared_.totals.bytes_out += static_cast<std::uint64_t>(sent);
    out_.sent(static_cast<std::size_t>(sent));
  }
  return true;
}

bool Connection::receive(std::size_t at_most) {
  const std::size_t wanted = std::min(at_most, shared_.buffer.size());
  for (int i = 0; i < kMaxReceives; ++i) {
    const ssize_t received = recv(fd_.get(), shared_.buffer.data(), wanted, 0);
    if (received < 0) {
      if (errno == EAGAIN || errno == EINTR) return true;
      return lose(std::string("receiving failed: ") + std::strerror(errno));
    }
    if (received == 0) return lose("the server closed the connection");
    now_ns_ = now_ns();
    const auto bytes = static_cast<std::size_t>(received);
    shared_.totals.bytes_in += bytes;
    received_bytes_ += bytes;
    const std::string error = driver_->feed(shared_.buffer.first(bytes), out_, *this);
    if (!error.empty()) return lose(error);
    if (bytes < wanted || at_most < shared_.buffer.size()) return true;
    if (has_unsent() && !flush()) return false;
  }
  return true;
}

void Connection::fail_open(const std::string& why) {
  for (const Request& request : requests_) {
    if (request.is_open) shared_.totals.fail(describe(shared_.corpus, request.operation.key) + why);
  }
  forget_open();
}

void Connection::forget_open() {
  requests_.clear();
  free_.clear();
  missed_.clear();
  shared_.open -= open_;
  open_ = 0;
}

void Connection::on_size(Slot slot, std::uint64_t size) { requests_[slot].value.announce(size); }

bool Connection::wants(Slot slot, std::uint64_t position) const {
  return requests_[slot].value.wants(position);
}

void Connection::on_bytes(Slot slot, std::uint64_t position, proto::Bytes bytes) {
  Request& request = requests_[slot];
  if (position == 0 && request.value.expected() > kSmallValueBytes) {
    shared_.totals.first_byte.add(now_ns_ - request.intended_ns);
  }
  request.value.add(bytes);
}

void Connection::count_hit(const Request& request) {
  ++shared_.totals.hits;
  shared_.totals.value_bytes += request.value.received();
  const std::string error = request.value.error();
  if (!error.empty()) shared_.totals.fail(describe(shared_.corpus, request.operation.key) + error);
}

void Connection::on_end(Slot slot, Outcome outcome, std::string_view why) {
  Request& request = requests_[slot];
  Totals& totals = shared_.totals;
  ++(request.operation.is_put ? totals.puts : totals.gets);
  switch (outcome) {
    case Outcome::kHit:
      count_hit(request);
      break;
    case Outcome::kMiss:
      ++totals.misses;
      if (shared_.config.puts_on_miss) missed_.push_back(request.operation.key);
      break;
    case Outcome::kStored:
      totals.value_bytes += request.value.expected();
      break;
    case Outcome::kRefused:
      ++totals.refused;
      break;
    case Outcome::kFailed:
      totals.fail(describe(shared_.corpus, request.operation.key) + std::string(why));
      break;
  }
  totals.latency.add(now_ns_ - request.intended_ns);
  request.is_open = false;
  free_.push_back(slot);
  --open_;
  --shared_.open;
}

}  // namespace cistern::bench
