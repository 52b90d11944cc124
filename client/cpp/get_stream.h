// A value on its way here: credit, chunks, digests, ranges. Internal; runs on the channel's
// executor.
//
// Invariants: credit that was granted and not used, plus what is buffered, never passes the window;
// what front() shows has been verified.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <cistern/types.h>

#include "client/cpp/channel.h"
#include "client/cpp/request.h"
#include "codec/zstd.h"

namespace cistern::detail {

class GetStream : public Request {
 public:
  enum class Opening { kValue, kNotFound, kNotModified };
  // kStream: chunks are handed out by front() and consume(). kCollect: all bytes go to one vector.
  enum class Mode { kStream, kCollect };

  GetStream(std::weak_ptr<Channel> channel, std::string_view key, ReadOptions options, Mode mode);

  // Sends the request; `opened` is called once, when the head is here (or there is no value).
  void open(Callback<Opening> opened);
  // Calls back with true when front() has bytes, false when all were consumed and the end was
  // verified (kCollect: when everything has arrived). One at a time, and only after kValue.
  void await(Callback<bool> ready);
  // Verified bytes, not consumed; empty when await() is needed.
  proto::Bytes front() const;
  // True when the daemon is to hear of it, which it does as soon as the executor runs.
  bool consume(std::size_t bytes);
  // Ends the transfer; a pending callback gets kCancelled. What front() showed is gone.
  void close();

  // After kValue.
  const ValueInfo& info() const { return info_; }
  // How many bytes are handed out in all.
  std::uint64_t length() const { return length_; }
  bool not_modified() const { return not_modified_; }
  bool closed() const { return closed_; }
  // After await() said that everything has arrived.
  std::vector<std::byte> take_collected() { return std::move(collected_); }

  // Request
  proto::Result<std::uint32_t> send(Connection& connection) override;
  bool may_repeat(bool) const override { return !head_seen_; }
  bool is_stream() const override { return true; }
  void on_value(const proto::ValueHead& head) override;
  proto::MutableBytes on_data_target(std::size_t bytes) override;
  void on_data_done(std::size_t bytes, std::optional<proto::ChunkDigest> chunk_end) override;
  proto::MutableBytes on_compressed_target(std::size_t bytes) override;
  void on_compressed_done(std::size_t bytes, std::optional<proto::ChunkDigest> chunk_end,
                          const proto::CompressedEnd& end) override;
  void on_end(const proto::End& end) override;
  void on_moved() override { patience_.moved(); }
  void on_failed(const proto::Error& error) override;

 private:
  struct Chunk {
    std::unique_ptr<std::byte[]> data{};
    std::size_t size = 0;  // when complete
    std::size_t filled = 0;
    std::size_t consumed = 0;  // or trimmed
    bool verified = false;
  };

  bool trim(const proto::ValueHead& head);
  void take_inline(const proto::ValueHead& head);
  bool begin_chunk();
  void allocate_chunk();
  void end_chunk(proto::ChunkDigest digest);
  void release_front();
  void skip_ahead();
  void top_up();
  void say_alive();
  // Answers the pending await() if it can be.
  void settle();
  void fail(const proto::Error& error);

  const std::weak_ptr<Channel> channel_;
  const std::string key_;
  const ReadOptions options_;
  const Mode mode_;

  Callback<Opening> opened_;
  Callback<bool> ready_;
  std::optional<proto::Error> error_;
  bool head_seen_ = false;
  bool not_modified_ = false;
  bool ended_ = false;  // and verified
  bool closed_ = false;

  ValueInfo info_;
  proto::Range cover_;          // what arrives
  std::uint64_t skip_ = 0;      // of it, before the first byte that was asked for
  std::uint64_t length_ = 0;    // how many were asked for
  std::uint64_t left_ = 0;      // of those, not consumed
  std::uint64_t arrived_ = 0;   // in whole frames
  std::uint64_t released_ = 0;  // their memory is free again
  std::uint64_t granted_ = 0;   // credit, in all
  std::uint64_t window_ = 0;
  TimePoint told_at_{};  // when the daemon last heard of progress

  std::optional<proto::ValueHasher> hasher_;
  std::deque<Chunk> chunks_;
  std::vector<std::unique_ptr<std::byte[]>> spare_;  // each of the largest chunk's size
  std::vector<std::byte> collected_;
  // A compressed chunk on its way, and what decodes it; made when the first one comes.
  std::vector<std::byte> frame_;
  std::unique_ptr<codec::Decoder> decoder_;
  std::size_t in_chunk_ = 0;  // kCollect: bytes of the chunk that is arriving
};

}  // namespace cistern::detail
