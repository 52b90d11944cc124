// Clients that keep to the rules, through the library.
#include <algorithm>
#include <optional>
#include <utility>

#include <cistern/client.h>
#include <fmt/format.h>

#include "tests/soak/run.h"

namespace cistern::soak {
namespace {

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;
constexpr std::uint64_t kLargeBytes = 2 * kMiB;
constexpr std::uint64_t kHugeBytes = 64 * kMiB;
constexpr std::size_t kPieceBytes = 256 * kKiB;
constexpr unsigned kThinkMillis = 40;
// The id of uploads that are never committed, so that no reader may see it.
constexpr std::uint64_t kNeverCommitted = ~std::uint64_t{0};

class LibraryActor : public Actor {
 public:
  LibraryActor(Run& run, unsigned number, unsigned owner)
      : Actor(run, number), owner_(owner), client_(options()) {}

 private:
  using Operation = void (LibraryActor::*)();
  struct Choice {
    unsigned percent;
    const char* name;
    Operation operation;
  };

  ClientOptions options() {
    return {.endpoint = endpoint(),
            .request_timeout = std::chrono::seconds(60),
            .stall_timeout = std::chrono::seconds(120)};
  }

  void step() override {
    static constexpr Choice kChoices[] = {
        {33, "get", &LibraryActor::get},
        {10, "range", &LibraryActor::get_range},
        {6, "get_abandoned", &LibraryActor::abandon_get},
        {20, "put", &LibraryActor::put_sized},
        {6, "put_unknown", &LibraryActor::put_unknown},
        {5, "put_cancelled", &LibraryActor::abandon_put},
        {6, "remove", &LibraryActor::remove},
        {6, "stat", &LibraryActor::stat},
        {5, "touch", &LibraryActor::touch},
        {3, "reconnect", &LibraryActor::reconnect},
    };
    std::uint64_t drawn = below(100);
    for (const Choice& choice : kChoices) {
      if (drawn >= choice.percent) {
        drawn -= choice.percent;
        continue;
      }
      attempt(choice);
      break;
    }
    run_.pause(std::chrono::milliseconds(below(kThinkMillis)));
  }

  void attempt(const Choice& choice) {
    try {
      (this->*choice.operation)();
      run_.count(choice.name, "OK");
    } catch (const Error& error) {
      run_.count(choice.name, name(error.status()));
      if (error.status() == Status::kCorrupt) run_.wrong(std::string("corrupt: ") + error.what());
      // Somebody who is told that there is no place for him doesn't come back at once.
      if (error.status() == Status::kTooManyConnections) {
        run_.pause(std::chrono::milliseconds(500 + below(1500)));
      }
    }
  }

  std::size_t key_to_write() {
    return chance(70) ? run_.keys().owned(owner_, below(1000)) : run_.keys().shared(random_());
  }

  // What is to be written next; a huge value only while there are few.
  struct Plan {
    Plan(Run& the_run, std::uint64_t the_size, bool huge)
        : run(the_run), size(the_size), is_huge(huge) {}
    ~Plan() {
      if (is_huge) run.end_huge();
    }
    Plan(const Plan&) = delete;
    Plan& operator=(const Plan&) = delete;
    Run& run;
    const std::uint64_t size;
    const bool is_huge;
  };
  Plan plan() {
    const std::uint64_t most = run_.options().max_value_bytes;
    const std::uint64_t drawn = below(100);
    if (drawn < 8) return Plan(run_, 0, false);
    if (drawn < 60) return Plan(run_, log_uniform(1, std::min(most, kMiB)), false);
    if (drawn >= 98 && most > kHugeBytes && run_.try_begin_huge()) {
      return Plan(run_, log_uniform(kHugeBytes, most), true);
    }
    return Plan(run_, log_uniform(1, std::min(most, kHugeBytes)), false);
  }

  // ---- Reading

  // The write that a head names, if a reader who began when `oldest` was the oldest may see it.
  Write judge_head(std::size_t key, const ValueInfo& info, std::uint64_t oldest) {
    const std::string& name = run_.keys().name(key);
    const Write write = write_of(name, info.metadata);
    const Order* const order = run_.keys().order(key);
    if (write.id == 0 || write.id == kNeverCommitted || write.size != info.size) {
      run_.wrong(fmt::format("{}: {} bytes with metadata {}", name, info.size, info.metadata));
    } else if (order != nullptr) {
      const std::uint64_t number = write.id & 0xffff'ffff;
      if (number < oldest || number > order->newest()) {
        run_.wrong(
            fmt::format("{}: write {} was read, and the oldest that may be seen is {}, the "
                        "newest {}",
                        name, number, oldest, order->newest()));
      }
    }
    return write;
  }

  // Reads up to `most` bytes of what `options` ask for, and compares them.
  void read(std::uint64_t most, const ReadOptions& options) {
    const std::size_t key = any_key();
    const std::string& name = run_.keys().name(key);
    const Order* const order = run_.keys().order(key);
    const std::uint64_t oldest = order == nullptr ? 0 : order->oldest();
    std::optional<Reader> reader = client_.open(name, options);
    if (!reader) return;
    const Write write = judge_head(key, reader->info(), oldest);
    std::uint64_t offset = options.range ? options.range->offset : 0;
    const std::uint64_t length = reader->length();
    std::uint64_t got = 0;
    while (got < most && !run_.is_over()) {
      const std::span<const std::byte> piece = reader->next(kPieceBytes);
      if (piece.empty()) {
        if (got != length) {
          run_.wrong(
              fmt::format("{}: write {} ended after {} of {} bytes", name, write.id, got, length));
        }
        break;
      }
      if (!is_content(piece, run_.options().seed, write.id, offset)) {
        run_.wrong(fmt::format("{}: {} bytes at {} are not those of write {} of {} bytes", name,
                               piece.size(), offset, write.id, write.size));
        break;
      }
      got += piece.size();
      offset += piece.size();
      run_.moved(piece.size(), 0);
    }
    reader->close();
  }

  void get() { read(~std::uint64_t{0}, window()); }
  void abandon_get() { read(log_uniform(1, 8 * kMiB), window()); }
  void get_range() {
    ReadOptions options = window();
    options.range = Range{log_uniform(1, 32 * kMiB) - 1, log_uniform(1, 16 * kMiB)};
    read(~std::uint64_t{0}, options);
  }
  ReadOptions window() {
    ReadOptions options;
    options.window_bytes = static_cast<std::uint32_t>(log_uniform(kMiB, 16 * kMiB));
    if (chance(20)) options.frame_bytes = static_cast<std::uint32_t>(log_uniform(kKiB, kMiB));
    return options;
  }

  // ---- Writing

  // The number by which this write of `key` can be judged, as the lower half of its id.
  Write begin_write(std::size_t key, std::uint64_t size) {
    Order* const order = run_.keys().order(key);
    const std::uint64_t number = order == nullptr ? run_.new_id() : order->begin();
    return {(std::uint64_t{number_} + 1) << 32 | number, size};
  }
  void acknowledged(std::size_t key, const Write& write) {
    Order* const order = run_.keys().order(key);
    if (order != nullptr) order->acknowledged(write.id & 0xffff'ffff);
  }

  // Writes the first `most` bytes; false when the run was over before.
  bool send(Writer& writer, const Write& write, std::uint64_t most) {
    std::vector<std::byte> piece(kPieceBytes);
    for (std::uint64_t sent = 0; sent < most;) {
      if (run_.is_over()) return false;
      const auto bytes =
          static_cast<std::size_t>(std::min<std::uint64_t>(kPieceBytes, most - sent));
      make_content(std::span(piece).first(bytes), run_.options().seed, write.id, sent);
      writer.write(std::span(piece).first(bytes));
      sent += bytes;
      run_.moved(0, bytes);
    }
    return true;
  }

  Writer begin_put(std::size_t key, const Write& write, bool is_sized) {
    PutOptions options;
    options.metadata = metadata_of(run_.keys().name(key), write);
    if (chance(15)) options.ttl = std::chrono::milliseconds(log_uniform(500, 20'000));
    if (chance(20)) options.frame_bytes = static_cast<std::uint32_t>(log_uniform(kKiB, kMiB));
    const auto size = is_sized ? std::optional(write.size) : std::nullopt;
    return client_.writer(run_.keys().name(key), size, options);
  }

  void put(bool is_sized) {
    const Plan planned = plan();
    const std::size_t key = key_to_write();
    const Write write = begin_write(key, planned.size);
    Writer writer = begin_put(key, write, is_sized);
    if (!send(writer, write, write.size)) return writer.abort();
    const Stored stored = writer.commit();
    if (stored.size != write.size) run_.wrong("STORED names another size");
    acknowledged(key, write);
    if (write.size >= kLargeBytes) run_.stored_large(key);
  }
  void put_sized() { put(true); }
  void put_unknown() { put(false); }

  // Half of it, and then no more: nothing may change.
  void abandon_put() {
    const Plan planned = plan();
    const std::size_t key = run_.keys().shared(random_());
    const Write write{kNeverCommitted, planned.size};
    Writer writer = begin_put(key, write, chance(50));
    send(writer, write, planned.size == 0 ? 0 : below(planned.size));
    writer.abort();
  }

  void remove() {
    const std::size_t key = key_to_write();
    Order* const order = run_.keys().order(key);
    const std::uint64_t number = order == nullptr ? 0 : order->begin();
    client_.remove(run_.keys().name(key));
    if (order != nullptr) order->acknowledged(number);
  }

  void stat() {
    const std::size_t key = any_key();
    const Order* const order = run_.keys().order(key);
    const std::uint64_t oldest = order == nullptr ? 0 : order->oldest();
    if (const auto info = client_.stat(run_.keys().name(key))) judge_head(key, *info, oldest);
  }

  void touch() {
    const auto ttl = std::chrono::milliseconds(chance(50) ? 0 : log_uniform(2'000, 60'000));
    client_.touch(run_.keys().name(any_key()), ttl);
  }

  void reconnect() {
    client_ = Client(options());
    client_.ping();
  }

  const unsigned owner_;
  Client client_;
};

}  // namespace

std::unique_ptr<Actor> library_actor(Run& run, unsigned number, unsigned owner) {
  return std::make_unique<LibraryActor>(run, number, owner);
}

}  // namespace cistern::soak
