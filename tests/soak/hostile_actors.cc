// Clients that are slow, silent, gone in the middle, or many.
#include <algorithm>
#include <optional>
#include <stdexcept>

#include "tests/soak/run.h"
#include "tests/soak/wire.h"

namespace cistern::soak {
namespace {

using proto::Type;
using std::chrono::milliseconds;
using testing::Frame;
using testing::RawClient;

constexpr std::uint64_t kMiB = 1024 * 1024;
constexpr int kSmallBuffer = 4096;

// An actor whose every step has a connection of its own, which is gone afterwards.
class WireActor : public Actor {
 public:
  WireActor(Run& run, unsigned number, const char* name) : Actor(run, number), name_(name) {}

 protected:
  // Says how it ended.
  virtual std::string act(Wire& wire) = 0;

  void step() override {
    Wire wire(endpoint(), chance(50) ? kSmallBuffer : 0);
    if (!wire.is_open()) {
      run_.count(name_, "refused: " + wire.refusal());
      return run_.pause(milliseconds(500 + below(1500)));
    }
    try {
      run_.count(name_, act(wire));
    } catch (const std::runtime_error& error) {
      run_.count(name_, std::string("connection: ") + error.what());
    }
    run_.pause(milliseconds(below(200)));
  }

 private:
  const char* const name_;
};

// ---- A KiB a second.
class SlowReader : public WireActor {
 public:
  SlowReader(Run& run, unsigned number) : WireActor(run, number, "slow_reader") {}

 private:
  std::string act(Wire& wire) override {
    const std::string& key = large_key();
    proto::GetRequest get;
    get.key = proto::as_bytes(key);
    get.credit_bytes = 1024;
    get.frame_bytes = 1024;
    wire.raw().request(1u, get);
    const Frame head = wire.raw().receive_for(1);
    if (!head.is(Type::kValue)) return status_of(head);
    const auto value = proto::decode_value(head.payload);
    if ((value->flags & proto::kValueInline) != 0) return "OK";
    const Write write = write_of(key, proto::as_text(value->metadata));
    std::uint64_t received = 0;
    std::uint64_t granted = get.credit_bytes;
    const auto until = Clock::now() + milliseconds(5'000 + below(40'000));
    while (Clock::now() < until && !run_.is_over()) {
      while (received < std::min(granted, value->size)) {
        const Frame frame = wire.raw().receive_for(1);
        if (!frame.is(Type::kData)) return status_of(frame);
        const std::size_t skip = (frame.header.flags & proto::kFlagChunkEnd) != 0 ? 8 : 0;
        const auto bytes = std::span(frame.payload).subspan(skip);
        if (!is_content(bytes, run_.options().seed, write.id, received)) {
          run_.wrong(key + ": a slow reader got wrong bytes");
        }
        received += bytes.size();
      }
      if (received == value->size) return "OK";
      run_.pause(milliseconds(1000));
      proto::Out credit;
      proto::encode_credit(credit, 1, 1024);
      wire.raw().send(credit);
      granted += 1024;
    }
    if (chance(50)) return "OK, gone";
    proto::Out cancel;
    proto::encode_plain(cancel, 1, Type::kCancel, {});
    wire.raw().send(cancel);
    while (true) {
      const Frame frame = wire.raw().receive_for(1);
      if (frame.is(Type::kError)) return status_of(frame);
      if (frame.is(Type::kEnd)) return "OK";
    }
  }
};

// ---- Asks for a lot and takes nothing.
class StalledReader : public WireActor {
 public:
  StalledReader(Run& run, unsigned number) : WireActor(run, number, "stalled_reader") {}

 private:
  std::string act(Wire& wire) override {
    const auto requests = static_cast<std::uint32_t>(1 + below(6));
    for (std::uint32_t id = 1; id <= requests; ++id) {
      const std::string& key = large_key();
      proto::GetRequest get;
      get.key = proto::as_bytes(key);
      get.credit_bytes = chance(70) ? proto::kMaxCreditBytes : 64 * 1024;
      wire.raw().request(id, get);
    }
    run_.pause(milliseconds(2'000 + below(40'000)));
    return "OK, gone";
  }
};

// ---- Begins to write, and doesn't end it.
class AbandoningWriter : public WireActor {
 public:
  AbandoningWriter(Run& run, unsigned number) : WireActor(run, number, "abandoning_writer") {}

 private:
  std::string act(Wire& wire) override {
    const std::string& key = run_.keys().name(run_.keys().shared(random_()));
    proto::PutRequest put;
    put.key = proto::as_bytes(key);
    const std::uint64_t size = log_uniform(kMiB, run_.options().max_value_bytes);
    if (chance(60)) put.size = size;
    wire.raw().request(1u, put);

    const std::vector<std::byte> chunk(wire.chunk_bytes());
    const std::uint64_t most = log_uniform(1, std::min(size, 32 * kMiB));
    std::uint64_t credit = 0;
    for (std::uint64_t sent = 0; sent < most && size - sent > chunk.size();) {
      while (credit < chunk.size()) {
        const Frame frame = wire.raw().receive().value_or(Frame{});
        if (frame.is(Type::kError)) return status_of(frame);
        if (!frame.is(Type::kCredit)) return "closed";
        credit += *proto::decode_credit(frame.payload);
      }
      proto::Out head;
      proto::encode_data_head(head, 1, chunk.size(), proto::chunk_digest(chunk));
      wire.raw().send(head);
      // The last one stops somewhere in the middle of a frame.
      if (sent + chunk.size() >= most)
        return stop(wire, std::span(chunk).first(below(chunk.size())));
      wire.raw().send(chunk);
      credit -= chunk.size();
      sent += chunk.size();
      run_.moved(0, chunk.size());
    }
    return cancel(wire);
  }

  std::string stop(Wire& wire, proto::Bytes part) {
    wire.raw().send(part);
    if (chance(50)) run_.pause(milliseconds(below(20'000)));
    return "OK, gone";
  }

  std::string cancel(Wire& wire) {
    proto::Out cancel;
    proto::encode_plain(cancel, 1, Type::kCancel, {});
    wire.raw().send(cancel);
    return status_of(wire.raw().receive_for(1));
  }
};

// ---- Many tiny values at once.
class TinyActor : public WireActor {
 public:
  TinyActor(Run& run, unsigned number) : WireActor(run, number, "tiny_connection") {}

 private:
  static constexpr unsigned kKeys = 200'000;
  static constexpr std::uint32_t kBatch = 64;

  std::string act(Wire& wire) override {
    const std::uint64_t batches = 1 + below(400);
    for (std::uint64_t i = 0; i < batches && !run_.is_over(); ++i) {
      chance(60) ? put_batch(wire) : get_batch(wire);
      run_.pause(milliseconds(below(20)));
    }
    return "OK, gone";
  }

  std::string tiny_key() { return "tiny-" + std::to_string(log_uniform(1, kKeys)); }

  void put_batch(Wire& wire) {
    proto::Out out;
    for (std::uint32_t id = 1; id <= kBatch; ++id) {
      const std::string key = tiny_key();
      const std::vector<std::byte> value =
          tiny_value(key, run_.options().seed, run_.new_id() << 16 | number_);
      wire.encode_put(out, id, key, value, chance(20) ? 500 + below(5'000) : 0);
    }
    wire.raw().send(out);
    for (std::uint32_t i = 0; i < kBatch; ++i) {
      const Frame answer = next(wire);
      run_.count("tiny_put", answer.is(Type::kStored) ? "OK" : status_of(answer));
    }
  }

  void get_batch(Wire& wire) {
    proto::Out out;
    std::vector<std::string> keys;
    for (std::uint32_t id = 1; id <= kBatch; ++id) {
      keys.push_back(tiny_key());
      proto::GetRequest get;
      get.key = proto::as_bytes(keys.back());
      get.credit_bytes = 4096;
      proto::encode(out, id, get);
    }
    wire.raw().send(out);
    for (std::uint32_t i = 0; i < kBatch; ++i) {
      const Frame answer = next(wire);
      run_.count("tiny_get", answer.is(Type::kValue) ? "OK" : status_of(answer));
      if (!answer.is(Type::kValue)) continue;
      const std::string& key = keys.at(answer.header.id - 1);
      const auto head = proto::decode_value(answer.payload);
      if (!head || !is_tiny_value(key, run_.options().seed, head->inline_bytes)) {
        run_.wrong(key + ": a tiny value that nobody wrote");
      }
    }
  }

  static Frame next(Wire& wire) {
    std::optional<Frame> frame = wire.raw().receive();
    if (!frame) throw std::runtime_error("the server closed it");
    return *std::move(frame);
  }
};

// ---- Comes and goes.
class PasserBy : public WireActor {
 public:
  PasserBy(Run& run, unsigned number) : WireActor(run, number, "passer_by") {}

 private:
  std::string act(Wire& wire) override {
    const std::string& key = run_.keys().name(any_key());
    const std::uint64_t what = below(4);
    if (what == 0) return "OK, gone";
    if (what == 1) {  // leaves before the answer
      proto::GetRequest get;
      get.key = proto::as_bytes(key);
      get.credit_bytes = static_cast<std::uint32_t>(log_uniform(1, 64 * kMiB));
      wire.raw().request(1u, get);
      return "OK, gone";
    }
    proto::KeyRequest stat;
    stat.key = proto::as_bytes(key);
    wire.raw().request(1u, Type::kStat, stat);
    const Frame answer = wire.raw().receive_for(1);
    return answer.is(Type::kInfo) ? "OK" : status_of(answer);
  }
};

}  // namespace

std::unique_ptr<Actor> slow_reader(Run& run, unsigned number) {
  return std::make_unique<SlowReader>(run, number);
}
std::unique_ptr<Actor> stalled_reader(Run& run, unsigned number) {
  return std::make_unique<StalledReader>(run, number);
}
std::unique_ptr<Actor> abandoning_writer(Run& run, unsigned number) {
  return std::make_unique<AbandoningWriter>(run, number);
}
std::unique_ptr<Actor> tiny_actor(Run& run, unsigned number) {
  return std::make_unique<TinyActor>(run, number);
}
std::unique_ptr<Actor> passer_by(Run& run, unsigned number) {
  return std::make_unique<PasserBy>(run, number);
}

}  // namespace cistern::soak
