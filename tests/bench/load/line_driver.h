// What RESP and memcached's protocol have in common: replies in the order of the requests, each a
// line that may announce so many bytes, which a line's end follows.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tests/bench/load/driver.h"
#include "tests/bench/load/requests.h"

namespace cistern::bench {

class LineSystem : public System {
 public:
  struct Line {
    enum class Kind : std::uint8_t { kValue, kEnd, kInvalid };
    Kind kind = Kind::kInvalid;
    std::uint64_t size = 0;              // kValue: bytes that follow
    Outcome outcome = Outcome::kFailed;  // kEnd
  };
  // What a reply's line, without its end, says.
  using Interpret = Line (*)(std::string_view line);

  LineSystem(const Corpus& corpus, const SystemOptions& options, Requests::Format get,
             Requests::Format put_head, Interpret interpret);
  std::unique_ptr<Driver> driver() override;

 private:
  friend class LineDriver;
  const Corpus& corpus_;
  Requests gets_;
  Requests put_heads_;
  Interpret interpret_;
};

// Redis, where the name of a key is a function of its number; GETs alone, none of them prepared.
std::unique_ptr<System> make_redis_gets(const Corpus& corpus,
                                        std::function<std::string(KeyIndex)> name);

class LineDriver final : public Driver {
 public:
  explicit LineDriver(LineSystem& system) : system_(system) {}

  void open(Outbox&) override {}
  bool is_open() const override { return true; }
  void prefetch(KeyIndex key, bool is_put) const override {
    (is_put ? system_.put_heads_ : system_.gets_).prefetch(key);
  }
  void get(Outbox& out, Slot slot, KeyIndex key) override;
  void put(Outbox& out, Slot slot, KeyIndex key) override;
  std::string feed(proto::Bytes in, Outbox& out, Sink& sink) override;

 private:
  enum class State : std::uint8_t { kLine, kValue, kValueEnd };

  std::string on_line(std::string_view line, Sink& sink);
  proto::Bytes take_line(proto::Bytes in, Sink& sink, std::string& error);
  proto::Bytes take_value(proto::Bytes in, Sink& sink);
  proto::Bytes take_value_end(proto::Bytes in, Sink& sink, std::string& error);
  void end(Sink& sink, Outcome outcome, std::string_view why);

  LineSystem& system_;
  State state_ = State::kLine;
  std::vector<Slot> asked_;  // those of the open requests from first_ on
  std::size_t first_ = 0;
  std::string partial_;  // of a line
  std::uint64_t size_ = 0;
  std::uint64_t position_ = 0;
  unsigned end_bytes_ = 0;  // of the line's end behind a value, seen
};

}  // namespace cistern::bench
