#include "tests/bench/load/outbox.h"

#include <algorithm>

namespace cistern::bench {
namespace {

constexpr std::size_t kMaxPieces = 64;  // in one system call

}  // namespace

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

Outbox::Batch Outbox::batch() {
  batch_.clear();
  std::size_t skip = skipped_;
  for (std::size_t i = first_; i < pieces_.size() && batch_.size() < kMaxPieces; ++i) {
    const Piece& piece = pieces_[i];
    const std::byte* from = piece.elsewhere != nullptr ? piece.elsewhere : own_.data() + piece.at;
    batch_.push_back({const_cast<std::byte*>(from + skip), piece.bytes - skip});
    skip = 0;
  }
  return {batch_.data(), batch_.size()};
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
