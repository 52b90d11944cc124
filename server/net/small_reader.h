// A small value that its reader's first credit doesn't cover: a copy, sent as credit comes.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "server/service/service.h"

namespace cistern::net {

class SmallReader final : public service::Reader {
 public:
  // Copies what it needs of `view`.
  SmallReader(const l1::SmallView& view, const proto::ValueDigest& digest)
      : bytes_(std::make_shared<std::vector<std::byte>>(view.bytes.begin(), view.bytes.end())),
        chunk_digest_(view.digest),
        end_{.digest = digest, .size = view.size} {}

  proto::Piece next(std::size_t max_bytes) override {
    proto::Piece piece;
    const std::size_t left = bytes_->size() - taken_;
    if (left == 0) {
      piece.kind = proto::Piece::Kind::kEnd;
      piece.end = end_;
    } else if (max_bytes > 0) {
      const std::size_t size = std::min(left, max_bytes);
      piece.kind = proto::Piece::Kind::kBytes;
      piece.bytes = {.data = bytes_->data() + taken_, .size = size, .owner = bytes_};
      if (size == left) piece.chunk_end = chunk_digest_;
      taken_ += size;
    }
    return piece;
  }

  // It waits for credit alone.
  void on_ready(std::function<void()>) override {}

 private:
  std::shared_ptr<std::vector<std::byte>> bytes_;
  std::size_t taken_ = 0;
  proto::ChunkDigest chunk_digest_;
  proto::End end_;
};

}  // namespace cistern::net
