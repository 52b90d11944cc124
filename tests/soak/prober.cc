#include "tests/soak/prober.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>

namespace cistern::soak {

using proto::Type;
using testing::Frame;

Prober::Prober(Run& run, unsigned number, std::string endpoint)
    : Actor(run, number), endpoint_(std::move(endpoint)) {}

void Prober::step() {
  if (next_id_ == 0) setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), -10);
  if (wire_ == nullptr || !wire_->is_open()) {
    wire_ = std::make_unique<Wire>(endpoint_);
    if (!wire_->is_open()) {
      run_.count("probe", "refused: " + wire_->refusal());
      return run_.pause(std::chrono::milliseconds(20));
    }
  }
  try {
    ++next_id_;
    probe(next_id_, fmt::format("probe-{}-{}", number_, next_id_ % kKeys));
  } catch (const std::runtime_error& error) {
    run_.count("probe", std::string("connection: ") + error.what());
    const std::lock_guard lock(mutex_);
    ++figures_.unanswered;
    wire_.reset();
  }
  run_.pause(std::chrono::milliseconds(1));
}

void Prober::probe(std::uint32_t id, const std::string& key) {
  proto::GetRequest get;
  get.key = proto::as_bytes(key);
  get.credit_bytes = 4096;
  const Clock::time_point asked = Clock::now();
  wire_->raw().request(id, get);
  const Frame answer = wire_->raw().receive_for(id);
  const auto took = Clock::now() - asked;
  if (answer.is(Type::kValue)) {
    const auto head = proto::decode_value(answer.payload);
    if (!head || !is_tiny_value(key, run_.options().seed, head->inline_bytes)) {
      run_.wrong(key + ": a probe got what nobody wrote");
    }
    return record(head && (head->flags & proto::kInL1) != 0, took);
  }
  record(false, took);
  const std::string status = status_of(answer);
  run_.count("probe", status);
  if (status != "NOT_FOUND") return;
  const std::vector<std::byte> value = tiny_value(key, run_.options().seed, 84 + id % kKeys);
  proto::Out out;
  wire_->encode_put(out, ++next_id_, key, value, 0);
  wire_->raw().send(out);
  const Frame stored = wire_->raw().receive_for(next_id_);
  run_.count("probe_put", stored.is(Type::kStored) ? "OK" : status_of(stored));
}

void Prober::record(bool is_hit, std::chrono::nanoseconds took) {
  const auto us = static_cast<std::uint64_t>(took.count()) / 1000;
  const std::lock_guard lock(mutex_);
  if (!is_hit) {
    ++figures_.others;
    return;
  }
  ++figures_.hits;
  const double bucket = 16 * std::log2(static_cast<double>(std::max<std::uint64_t>(us, 1)));
  ++histogram_[std::min(kBuckets - 1, static_cast<std::size_t>(bucket))];
  figures_.worst_us_since_last = std::max(figures_.worst_us_since_last, us);
  if (us <= figures_.worst_us) return;
  figures_.worst_us = us;
  figures_.worst_at_s = std::chrono::duration<double>(Clock::now() - began_).count();
}

ProbeFigures Prober::figures() {
  const std::lock_guard lock(mutex_);
  std::uint64_t left = figures_.hits / 100;
  for (std::size_t bucket = kBuckets; bucket-- > 0;) {
    if (histogram_[bucket] > left) {
      figures_.p99_us = static_cast<std::uint64_t>(std::exp2(static_cast<double>(bucket + 1) / 16));
      break;
    }
    left -= histogram_[bucket];
  }
  ProbeFigures now = figures_;
  figures_.worst_us_since_last = 0;
  return now;
}

}  // namespace cistern::soak
