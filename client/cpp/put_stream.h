// A value on its way to the daemon: small ones in the PUT itself, larger ones in chunks as credit
// comes. Internal; runs on the channel's executor.
//
// Invariants: at most kChunks chunks are held; a chunk's memory is used again only when the kernel
// has all of it; the last byte of an incomplete chunk is never sent, since the digest goes before.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include <cistern/types.h>

#include "client/cpp/channel.h"
#include "client/cpp/request.h"

namespace cistern::detail {

class PutStream : public Request {
 public:
  static constexpr std::size_t kChunks = 2;

  PutStream(std::weak_ptr<Channel> channel, std::string_view key, PutOptions options,
            std::optional<std::uint64_t> size);

  // Sends the opening frame now if the value can't be small enough to travel in it.
  void begin();
  // Where the next bytes of the value belong; empty when await_room() is needed, or when the
  // declared size has been reached. Bytes that are there are announced by filled().
  proto::MutableBytes room();
  void filled(std::size_t bytes);
  // Calls back when there is room, or with what has ended the PUT. One at a time.
  void await_room(Callback<std::monostate> ready);
  // Nothing may follow.
  void commit(Callback<Stored> stored);
  // Drops the value; a pending callback gets kCancelled.
  void abort();
  // Whether all of the declared size was filled in; false if none was declared.
  bool full() const { return size_ && total_ == *size_; }
  // What has ended the PUT, if anything has.
  const std::optional<proto::Error>& error() const { return error_; }
  // The caller broke the size that it declared: aborts with kSizeMismatch.
  void fail_size(std::uint64_t offered_bytes);

  // Request
  proto::Result<std::uint32_t> send(Connection& connection) override;
  bool may_repeat(bool left) const override { return !left && !value_bytes_left_; }
  bool is_stream() const override { return true; }
  void on_credit() override {}
  proto::Piece next_piece(std::size_t max_bytes) override;
  void on_flushed() override;
  void on_moved() override { patience_.moved(); }
  void on_stored(const proto::Stored& stored) override;
  void on_failed(const proto::Error& error) override;

 private:
  struct Chunk {
    std::unique_ptr<std::byte[]> data{};
    std::size_t filled = 0;
    std::size_t taken = 0;  // given to the connection
    bool complete = false;  // and the digest is valid
    proto::ChunkDigest digest = 0;
  };
  // kHead: nothing is sent, the bytes may yet fit the PUT's own frame.
  // kOpening: sent off to the channel. kStreaming: the request is open.
  enum class State { kHead, kOpening, kStreaming, kOver };

  void start();
  void spill_head();
  Chunk* chunk_with_room();
  // The bytes come so slowly that the daemon should see each step.
  bool trickles() const { return Clock::now() - given_at_ >= kSignOfLife; }
  // How many bytes of `chunk` may be given away by now.
  std::size_t sendable(const Chunk& chunk) const;
  void complete(Chunk& chunk);
  void settle();
  void wait(std::string_view for_what);
  void fail(const proto::Error& error);

  const std::weak_ptr<Channel> channel_;
  const std::string key_;
  const PutOptions options_;
  const std::optional<std::uint64_t> size_;

  State state_ = State::kHead;
  bool committed_ = false;
  bool value_bytes_left_ = false;  // they can't be sent again: they may be gone
  std::uint64_t total_ = 0;        // bytes of the value so far
  std::vector<std::byte> head_;
  std::size_t head_filled_ = 0;
  TimePoint given_at_{};  // when the connection last got bytes
  std::uint32_t chunk_bytes_ = 0;
  std::uint64_t expected_bytes_ = 0;          // an upper bound of the value's size
  std::deque<std::shared_ptr<Chunk>> queue_;  // to be sent, in order; only the last is incomplete
  std::vector<std::shared_ptr<Chunk>> chunks_;
  proto::ValueHasher hasher_;
  Callback<std::monostate> ready_;
  Callback<Stored> stored_;
  std::optional<proto::Error> error_;
};

}  // namespace cistern::detail
