// Cistern's own protocol, as PROTOCOL.md has it: GET within credit, PUT inline or streamed, any
// number of requests at once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "proto/messages.h"
#include "tests/bench/load/driver.h"
#include "tests/bench/load/requests.h"

namespace cistern::bench {

class CisternSystem final : public System {
 public:
  CisternSystem(const Corpus& corpus, const SystemOptions& options);
  std::unique_ptr<Driver> driver() override;

 private:
  friend class CisternDriver;

  // What a server's WELCOME says; inline PUTs can be written beforehand only now, since a value's
  // digest depends on the chunk size.
  void on_welcome(const proto::Welcome& welcome);
  // Hashing happens once for each phase and length; a PUT costs this process no more than that.
  proto::ChunkDigest digest(KeyIndex key, std::uint64_t position, std::uint64_t bytes);
  void format_get(std::string& out, KeyIndex key) const;
  void format_put(std::string& out, KeyIndex key) const;
  bool is_inline(std::uint64_t size) const { return size <= welcome_.max_inline_bytes; }

  const Corpus& corpus_;
  SystemOptions options_;
  proto::Welcome welcome_;
  bool is_welcome_ = false;
  Requests gets_;
  Requests puts_;  // opening frames, without an inline value's bytes
  std::map<std::pair<std::size_t, std::uint64_t>, proto::ChunkDigest> digests_;
};

class CisternDriver final : public Driver {
 public:
  explicit CisternDriver(CisternSystem& system) : system_(system) {}

  void open(Outbox& out) override;
  bool is_open() const override { return is_open_; }
  unsigned max_open() const override { return std::min(kMaxDepth, system_.welcome_.max_streams); }
  void prefetch(KeyIndex key, bool is_put) const override {
    (is_put ? system_.puts_ : system_.gets_).prefetch(key);
  }
  void get(Outbox& out, Slot slot, KeyIndex key) override;
  void put(Outbox& out, Slot slot, KeyIndex key) override;
  std::string feed(proto::Bytes in, Outbox& out, Sink& sink) override;

 private:
  enum class State : std::uint8_t { kHeader, kControl, kDigest, kData };

  // A request's id is its slot and, above that, how often the slot was used: frames of a PUT that
  // was refused may still be on their way when its slot is used again.
  static constexpr unsigned kSlotBits = 11;
  static constexpr std::uint32_t kSlotMask = (1u << kSlotBits) - 1;
  static_assert(kMaxDepth <= kSlotMask);

  // A request, from its first frame to its final answer.
  struct Stream {
    enum class Kind : std::uint8_t { kNone, kGet, kValue, kPut };  // kValue: a GET whose head came
    Kind kind = Kind::kNone;
    KeyIndex key = 0;
    std::uint32_t id = 0;
    std::uint32_t chunk_bytes = 0;
    std::uint64_t size = 0;
    std::uint64_t position = 0;
    std::uint64_t credit = 0;  // unspent: what the server, or for a PUT we, may still send
    bool is_chunk_checked = false;
    std::string wrong;  // what was found wrong in a value so far
    std::optional<proto::ValueHasher> value_hasher;
    std::optional<proto::ChunkHasher> chunk_hasher;
  };

  Stream& begin(Slot slot, Stream::Kind kind, KeyIndex key);
  Stream* find(std::uint32_t id);
  void end(Stream& stream, Sink& sink, Outcome outcome, std::string_view why);

  // Each takes what it can from the front of `in` and gives back the rest.
  proto::Bytes take_header(proto::Bytes in, Outbox& out, Sink& sink, std::string& error);
  proto::Bytes take_control(proto::Bytes in, Outbox& out, Sink& sink, std::string& error);
  proto::Bytes take_digest(proto::Bytes in);
  proto::Bytes take_data(proto::Bytes in, Outbox& out, Sink& sink);
  // Up to `wanted` bytes in one piece: of `in`, or of partial_ if they came in parts. Empty: not
  // yet all there.
  proto::Bytes gather(proto::Bytes& in, std::size_t wanted);

  std::string on_data_header(Sink& sink);
  std::string on_control(proto::Bytes payload, Outbox& out, Sink& sink);
  std::string on_value(Stream& stream, proto::Bytes payload, Sink& sink);
  void on_inline(Stream& stream, const proto::ValueHead& head, Sink& sink);
  std::string on_value_end(Stream& stream, proto::Bytes payload, Sink& sink);
  std::string on_error(Stream* stream, proto::Bytes payload, Sink& sink);
  void on_data_end(Stream& stream);
  void grant(Stream& stream, Outbox& out);
  void pump(Stream& stream, Outbox& out);

  CisternSystem& system_;
  bool is_open_ = false;
  std::deque<Stream> streams_;  // by slot; they stay where they are

  State state_ = State::kHeader;
  proto::FrameHeader header_;
  std::vector<std::byte> partial_;
  Stream* data_stream_ = nullptr;  // to which the DATA frame that is being received belongs
  std::size_t data_left_ = 0;      // value bytes of it to come
  proto::ChunkDigest digest_ = 0;
  std::vector<std::byte> scratch_;
};

}  // namespace cistern::bench
