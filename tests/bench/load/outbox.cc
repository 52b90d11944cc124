#include "tests/bench/load/outbox.h"

#include <algorithm>

namespace cistern::bench {

std::byte* Outbox::append(proto::Bytes bytes) {
  const std::size_t at = own_.size();
  own_.insert(own_.end(), bytes.begin(), bytes.end());
  if (pieces_.empty() || pieces_.back().elsewhere != nullptr) {
    pieces_.push_back({nullptr, at, bytes.size()});
  } else {
    pieces_.back().bytes += bytes.size();
  }
  total_bytes_ += bytes.size();
  return own_.data() + at;
}

void Outbox::refer(proto::Bytes bytes) {
  pieces_.push_back({bytes.data(), 0, bytes.size()});
  total_bytes_ += bytes.size();
}

// Neighbouring pieces of one's own are one piece already, so a batch is a single one.
Outbox::Batch Outbox::batch() const {
  const Piece& piece = pieces_[first_];
  const bool is_referred = piece.elsewhere != nullptr;
  const std::byte* const from = is_referred ? piece.elsewhere : own_.data() + piece.at;
  return {proto::Bytes(from, piece.bytes).subspan(skipped_), is_referred,
          first_ + 1 == pieces_.size()};
}

void Outbox::sent(std::size_t bytes) {
  sent_bytes_ += bytes;
  if (sent_bytes_ == total_bytes_) return clear();
  while (bytes > 0) {
    const std::size_t step = std::min(bytes, pieces_[first_].bytes - skipped_);
    skipped_ += step;
    bytes -= step;
    if (skipped_ == pieces_[first_].bytes) {
      ++first_;
      skipped_ = 0;
    }
  }
}

void Outbox::clear() {
  own_.clear();
  pieces_.clear();
  first_ = skipped_ = 0;
  total_bytes_ = sent_bytes_ = 0;
}

}  // namespace cistern::bench
