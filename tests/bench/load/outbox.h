// What a connection has to send: bytes of its own and, between them, bytes that stay where they are
// (the payload of large values), in order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "proto/bytes.h"

namespace cistern::bench {

class Outbox {
 public:
  bool empty() const { return sent_bytes_ == total_bytes_; }

  // Copies. The first returns where the copy begins, valid until the next call.
  std::byte* append(proto::Bytes bytes);
  std::byte* append(std::string_view text) { return append(proto::as_bytes(text)); }
  // Refers: the bytes must stay until they were sent.
  void refer(proto::Bytes bytes);

  // One system call's worth of what is to be sent next; not when empty(). Valid until the next
  // call.
  struct Batch {
    proto::Bytes bytes;
    bool is_referred = false;  // they are elsewhere
    bool is_last = true;       // nothing comes behind them
  };
  Batch batch() const;
  // So many bytes of the last batch were sent.
  void sent(std::size_t bytes);
  void clear();

 private:
  struct Piece {
    const std::byte* elsewhere = nullptr;  // null: at `at` of own_
    std::size_t at = 0;
    std::size_t bytes = 0;
  };
  std::vector<std::byte> own_;
  std::vector<Piece> pieces_;
  std::size_t first_ = 0;    // the first piece that isn't sent whole
  std::size_t skipped_ = 0;  // bytes of it that are
  std::uint64_t total_bytes_ = 0;
  std::uint64_t sent_bytes_ = 0;
};

}  // namespace cistern::bench
