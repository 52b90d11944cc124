#include "tests/support/workload.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <random>
#include <thread>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "client/cpp/client.h"

namespace cistern::testing {
namespace {

// The bytes of a value follow from the id of its write, so that any part can be checked.
std::vector<std::byte> content(std::uint64_t id, std::uint64_t size) {
  std::vector<std::byte> bytes(size);
  std::uint64_t state = id * 0x9E3779B97F4A7C15u + 1;
  for (std::size_t at = 0; at < size; at += 8) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    std::memcpy(bytes.data() + at, &state, std::min<std::size_t>(8, size - at));
  }
  return bytes;
}

bool outcome_is_unknown(Status status) {
  switch (status) {
    case Status::kOutcomeUnknown:
    case Status::kConnectionLost:
    case Status::kDeadline:
    case Status::kTimeout:
    case Status::kInternal:
    case Status::kValueLost:  // found out after it could be read
      return true;
    default:
      return false;
  }
}

// A total order of all that the clients begin and end, in nanoseconds of the monotonic clock.
std::atomic<Instant> last_tick{0};
Instant tick() {
  const Instant now = std::chrono::steady_clock::now().time_since_epoch().count();
  Instant last = last_tick.load();
  Instant next = 0;
  do {
    next = std::max(now, last + 1);
  } while (!last_tick.compare_exchange_weak(last, next));
  return next;
}

class Actor {
 public:
  Actor(const WorkloadOptions& options, unsigned number)
      : options_(options),
        number_(number),
        random_(options.seed * 1000 + number),
        client_({.endpoint = options.endpoints[number % options.endpoints.size()]}) {}

  void run() {
    const auto until = std::chrono::steady_clock::now() + options_.duration;
    while (std::chrono::steady_clock::now() < until) step();
  }

  WorkloadResult result;

 private:
  unsigned place() const { return static_cast<unsigned>(number_ % options_.endpoints.size()); }
  std::uint64_t below(std::uint64_t bound) { return random_() % bound; }

  std::uint64_t random_size() {
    if (below(16) == 0) return 0;
    const double top = std::log2(static_cast<double>(options_.max_value_bytes) + 1);
    const double exponent = std::uniform_real_distribution<double>(0, top)(random_);
    return std::min(options_.max_value_bytes, static_cast<std::uint64_t>(std::exp2(exponent)));
  }

  std::uint64_t next_id() { return (std::uint64_t{number_} + 1) << 32 | ++sequence_; }

  void step() {
    const unsigned key_number = static_cast<unsigned>(below(options_.keys));
    const std::string key = fmt::format("key-{}", key_number);
    History& history = result.by_key[key_number];
    const std::uint64_t choice = below(100);
    if (choice < 40) return get(key, history);
    if (choice < 50) return get_range(key, history);
    if (choice < 55) return touch(key);
    if (choice < 65) return remove(key, history);
    PutOptions put;
    if (choice < 70) put.if_absent = true;
    if (choice >= 70 && choice < 75) {
      const auto seen = versions_.find(key);
      if (seen != versions_.end()) put.if_version = seen->second;
    }
    if (below(4) == 0) put.ttl = std::chrono::hours(1);
    return this->put(key, history, std::move(put));
  }

  // Runs one operation and counts how it ended. Empty when it succeeded.
  template <typename Operation>
  std::optional<Status> attempt(const std::string& name, Operation&& operation) {
    try {
      operation();
      ++result.done[name];
      return std::nullopt;
    } catch (const Error& error) {
      ++result.failed[fmt::format("{} {}", name, cistern::name(error.status()))];
      const bool lost = error.status() == Status::kValueLost && !options_.absent_is_allowed;
      if (lost || error.status() == Status::kCorrupt || error.status() == Status::kProtocolError) {
        result.wrong.push_back(fmt::format("{}: {}", name, error.what()));
      }
      return error.status();
    }
  }

  // The write that a value's metadata names, once its bytes were found to be that write's.
  std::optional<std::uint64_t> check(const std::string& key, const Value& value,
                                     std::uint64_t offset) {
    const auto metadata = nlohmann::json::parse(value.metadata, nullptr, false);
    if (!metadata.is_object() || !metadata.contains("id")) {
      result.wrong.push_back(key + ": metadata \"" + value.metadata + "\"");
      return std::nullopt;
    }
    const auto id = metadata["id"].get<std::uint64_t>();
    const auto size = metadata["size"].get<std::uint64_t>();
    const std::vector<std::byte> whole = content(id, size);
    const bool same =
        value.size == size && offset <= size && value.bytes.size() <= size - offset &&
        std::ranges::equal(value.bytes, std::span(whole).subspan(offset, value.bytes.size()));
    if (!same) {
      result.wrong.push_back(fmt::format("{}: {} bytes at {} are not those of write {} of {} bytes",
                                         key, value.bytes.size(), offset, id, size));
    }
    versions_[key] = value.version;
    return id;
  }

  void record(const std::string& key, History& history, const std::optional<Value>& value,
              std::uint64_t offset, Instant began) {
    Read read{std::nullopt, began, tick(), place()};
    if (value) read.id = check(key, *value, offset);
    if (!value || read.id) history.reads.push_back(read);
  }

  void get(const std::string& key, History& history) {
    const Instant began = tick();
    attempt("get", [&] { record(key, history, client_.get(key), 0, began); });
  }

  void get_range(const std::string& key, History& history) {
    const Instant began = tick();
    ReadOptions options;
    options.range = Range{below(options_.max_value_bytes / 64 + 1), 1 + below(100'000)};
    attempt("range", [&] {
      try {
        record(key, history, client_.get(key, options), options.range->offset, began);
      } catch (const Error& error) {
        if (error.status() != Status::kRangeInvalid) throw;  // the value is shorter than that
      }
    });
  }

  void put(const std::string& key, History& history, PutOptions options) {
    const std::uint64_t id = next_id();
    const std::uint64_t size = random_size();
    const std::vector<std::byte> bytes = content(id, size);
    options.metadata = fmt::format(R"({{"id":{},"size":{}}})", id, size);
    const bool unknown_size = below(4) == 0;
    Write write{id, false, tick(), kNever, place()};
    const auto failure = attempt("put", [&] {
      if (!unknown_size) {
        versions_[key] = client_.put(key, bytes, options).version;
      } else {
        Writer writer = client_.writer(key, std::nullopt, options);
        writer.write(bytes);
        versions_[key] = writer.commit().version;
      }
      write.acked = tick();
    });
    if (!failure || outcome_is_unknown(*failure)) history.writes.push_back(write);
  }

  void remove(const std::string& key, History& history) {
    Write write{next_id(), true, tick(), kNever, place()};
    const auto failure = attempt("remove", [&] {
      client_.remove(key);
      write.acked = tick();
    });
    if (!failure || outcome_is_unknown(*failure)) history.writes.push_back(write);
  }

  void touch(const std::string& key) {
    const auto ttl = below(2) == 0 ? std::chrono::milliseconds(0) : std::chrono::hours(2);
    attempt("touch", [&] { client_.touch(key, ttl); });
  }

  const WorkloadOptions& options_;
  const unsigned number_;
  std::mt19937_64 random_;
  Client client_;
  std::uint32_t sequence_ = 0;
  std::map<std::string, Version> versions_;
};

}  // namespace

std::vector<std::string> WorkloadResult::violations() const {
  std::vector<std::string> all = wrong;
  for (const auto& [key, history] : by_key) {
    for (const std::string& violation : testing::violations(history)) {
      all.push_back(fmt::format("key-{}: {}", key, violation));
    }
  }
  return all;
}

std::string WorkloadResult::summary() const {
  std::string text;
  for (const auto& [name, count] : done) text += fmt::format("{} {}  ", name, count);
  for (const auto& [name, count] : failed) text += fmt::format("[{}: {}]  ", name, count);
  return text;
}

WorkloadResult run_workload(const WorkloadOptions& options) {
  std::vector<std::unique_ptr<Actor>> actors;
  for (unsigned i = 0; i < options.clients; ++i) {
    actors.push_back(std::make_unique<Actor>(options, i));
  }
  std::vector<std::thread> threads;
  for (const auto& actor : actors) threads.emplace_back([&actor] { actor->run(); });
  for (std::thread& thread : threads) thread.join();

  WorkloadResult all;
  for (const auto& actor : actors) {
    WorkloadResult& part = actor->result;
    all.wrong.insert(all.wrong.end(), part.wrong.begin(), part.wrong.end());
    for (const auto& [name, count] : part.done) all.done[name] += count;
    for (const auto& [name, count] : part.failed) all.failed[name] += count;
    for (auto& [key, history] : part.by_key) {
      History& merged = all.by_key[key];
      merged.absent_is_allowed = options.absent_is_allowed;
      merged.staleness = options.staleness.count();
      merged.writes.insert(merged.writes.end(), history.writes.begin(), history.writes.end());
      merged.reads.insert(merged.reads.end(), history.reads.begin(), history.reads.end());
    }
  }
  return all;
}

}  // namespace cistern::testing
