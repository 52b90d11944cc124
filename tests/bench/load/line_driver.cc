#include "tests/bench/load/line_driver.h"

#include <algorithm>
#include <cstring>

namespace cistern::bench {
namespace {

constexpr std::size_t kMaxLineBytes = 8192;
constexpr std::string_view kLineEnd = "\r\n";

}  // namespace

LineSystem::LineSystem(const Corpus& corpus, const SystemOptions& options, Requests::Format get,
                       Requests::Format put_head, Interpret interpret)
    : corpus_(corpus),
      gets_(std::move(get)),
      put_heads_(std::move(put_head)),
      interpret_(interpret) {
  if (options.has_gets) gets_.prepare(options.first_key, options.keys);
  if (options.has_puts) put_heads_.prepare(options.first_key, options.keys);
}

std::unique_ptr<Driver> LineSystem::driver() { return std::make_unique<LineDriver>(*this); }

void LineDriver::get(Outbox& out, Slot slot, KeyIndex key) {
  out.append(system_.gets_.of(key));
  asked_.push_back(slot);
}

void LineDriver::put(Outbox& out, Slot slot, KeyIndex key) {
  out.append(system_.put_heads_.of(key));
  const std::uint64_t size = system_.corpus_.size(key);
  for (std::uint64_t at = 0; at < size;) {
    const proto::Bytes piece = system_.corpus_.piece(key, at, size - at);
    if (size <= kSmallValueBytes) {
      out.append(piece);
    } else {
      out.refer(piece);
    }
    at += piece.size();
  }
  out.append(kLineEnd);
  asked_.push_back(slot);
}

std::string LineDriver::feed(proto::Bytes in, Outbox&, Sink& sink) {
  std::string error;
  while (!in.empty() && error.empty()) {
    switch (state_) {
      case State::kLine:
        in = take_line(in, sink, error);
        break;
      case State::kValue:
        in = take_value(in, sink);
        break;
      case State::kValueEnd:
        in = take_value_end(in, sink, error);
        break;
    }
  }
  return error;
}

proto::Bytes LineDriver::take_line(proto::Bytes in, Sink& sink, std::string& error) {
  const auto* const newline =
      static_cast<const std::byte*>(std::memchr(in.data(), '\n', in.size()));
  const std::size_t taken =
      newline == nullptr ? in.size() : static_cast<std::size_t>(newline - in.data()) + 1;
  std::string_view line = proto::as_text(in.first(taken));
  if (newline == nullptr || !partial_.empty()) {
    if (partial_.size() + taken > kMaxLineBytes) {
      error = "a reply's line is longer than 8192 bytes";
      return {};
    }
    partial_ += line;
    line = partial_;
  }
  if (newline != nullptr) {
    if (!line.ends_with(kLineEnd)) {
      error = "a reply's line doesn't end with CR LF";
      return {};
    }
    line.remove_suffix(kLineEnd.size());
    error = on_line(line, sink);
    partial_.clear();
  }
  return in.subspan(taken);
}

std::string LineDriver::on_line(std::string_view line, Sink& sink) {
  if (first_ == asked_.size()) return "a reply to no request: " + std::string(line.substr(0, 80));
  const LineSystem::Line parsed = system_.interpret_(line);
  switch (parsed.kind) {
    case LineSystem::Line::Kind::kValue:
      size_ = parsed.size;
      position_ = 0;
      end_bytes_ = 0;
      state_ = size_ == 0 ? State::kValueEnd : State::kValue;
      sink.on_size(asked_[first_], size_);
      return {};
    case LineSystem::Line::Kind::kEnd:
      end(sink, parsed.outcome, line);
      return {};
    case LineSystem::Line::Kind::kInvalid:
      break;
  }
  return "a reply that isn't understood: " + std::string(line.substr(0, 80));
}

proto::Bytes LineDriver::take_value(proto::Bytes in, Sink& sink) {
  const auto step = static_cast<std::size_t>(std::min<std::uint64_t>(in.size(), size_ - position_));
  sink.on_bytes(asked_[first_], position_, in.first(step));
  position_ += step;
  if (position_ == size_) state_ = State::kValueEnd;
  return in.subspan(step);
}

proto::Bytes LineDriver::take_value_end(proto::Bytes in, Sink& sink, std::string& error) {
  if (static_cast<char>(in.front()) != kLineEnd[end_bytes_]) {
    error = "a value of " + std::to_string(size_) + " bytes isn't followed by CR LF";
    return {};
  }
  if (++end_bytes_ == kLineEnd.size()) {
    state_ = State::kLine;
    end(sink, Outcome::kHit, {});
  }
  return in.subspan(1);
}

void LineDriver::end(Sink& sink, Outcome outcome, std::string_view why) {
  const Slot slot = asked_[first_++];
  if (first_ == asked_.size()) {
    asked_.clear();
    first_ = 0;
  } else if (first_ >= 1024) {
    asked_.erase(asked_.begin(), asked_.begin() + static_cast<std::ptrdiff_t>(first_));
    first_ = 0;
  }
  sink.on_end(slot, outcome, why);
}

}  // namespace cistern::bench
