// Every operation through every fault of the second tier: what is answered, how soon, what is left
// behind, and whether hits in L1 are served all the while. It prints the table; FAULTS.md has a
// copy.
//
// Faults and operations are tables; a second tier is a SecondTier.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <future>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/cpp/client.h"
#include "proto/status.h"
#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/support/proxy.h"
#include "tests/support/redis_server.h"
#include "tests/support/values.h"

namespace cistern::testing {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using Bytes = std::vector<std::byte>;

constexpr std::size_t kSmall = 3000;
constexpr std::size_t kLarge = 9 * 64 * 1024 + 77;
const Millis kPatience(60'000);
#ifdef CISTERN_SANITIZED
constexpr int kSlowness = 4;
#else
constexpr int kSlowness = 1;
#endif
constexpr Millis kConnectTimeout = kSlowness * 1000ms;
constexpr Millis kOpTimeout = kSlowness * 1500ms;
// The longest way through the daemon: it waits for a connection, or for the answer of one
// operation, and then for that of another; the rest is for a busy machine.
constexpr Millis kMostWait = kConnectTimeout + 3 * kOpTimeout + 10s;

// The server behind the proxy.
struct SecondTier {
  std::uint16_t port;
  std::function<std::string(std::uint16_t port)> config;  // the daemon's `l2` section
  std::function<void()> freeze, thaw, forget_all;
  std::function<void(bool)> full;
};

SecondTier redis_tier(RedisServer& redis) {
  return {.port = redis.port(),
          .config =
              [](std::uint16_t port) {
                return fmt::format(
                    "l2: {{kind: redis, redis: {{url: \"redis://127.0.0.1:{}/0\", "
                    "connect_timeout: {}ms, op_timeout: {}ms}}}}\n",
                    port, kConnectTimeout.count(), kOpTimeout.count());
              },
          .freeze = [&redis] { redis.freeze(); },
          .thaw = [&redis] { redis.thaw(); },
          .forget_all = [&redis] { redis.command({"FLUSHDB"}); },
          .full =
              [&redis](bool on) {
                redis.command({"CONFIG", "SET", "maxmemory", on ? "1" : "0"});
              }};
}

enum class Kind { kRead, kWrite };

struct Operation {
  const char* name;
  Kind kind;
  std::size_t size;      // of the value that is there before
  std::size_t new_size;  // of the one that is written; 0: none is
  bool removes;
  // Throws Error; false when there is none. `version` is of the value that is there.
  std::function<bool(Client&, const std::string& key, Version version)> run;
};

Bytes old_value(const Operation& op) { return value_of(1, op.size); }
Bytes new_value(const Operation& op) { return value_of(2, op.new_size); }

bool read_whole(Client& client, const std::string& key, std::size_t size) {
  const std::optional<Value> value = client.get(key);
  EXPECT_TRUE(!value || value->bytes == value_of(1, size)) << "wrong bytes of " << key;
  return value.has_value();
}

const std::vector<Operation>& operations() {
  static const std::vector<Operation> all = {
      {"get small", Kind::kRead, kSmall, 0, false,
       [](Client& c, const std::string& key, Version) { return read_whole(c, key, kSmall); }},
      {"get large", Kind::kRead, kLarge, 0, false,
       [](Client& c, const std::string& key, Version) { return read_whole(c, key, kLarge); }},
      {"get range", Kind::kRead, kLarge, 0, false,
       [](Client& c, const std::string& key, Version) {
         const auto value = c.get(key, {.range = Range{100'000, 200'000}});
         const Bytes whole = value_of(1, kLarge);
         EXPECT_TRUE(!value ||
                     std::ranges::equal(value->bytes, std::span(whole).subspan(100'000, 200'000)));
         return value.has_value();
       }},
      {"stat", Kind::kRead, kLarge, 0, false,
       [](Client& c, const std::string& key, Version) { return c.stat(key).has_value(); }},
      {"put small", Kind::kWrite, kSmall, kSmall, false,
       [](Client& c, const std::string& key, Version) {
         return c.put(key, value_of(2, kSmall)).in_l2;
       }},
      {"put large", Kind::kWrite, kLarge, kLarge, false,
       [](Client& c, const std::string& key, Version) {
         return c.put(key, value_of(2, kLarge)).in_l2;
       }},
      {"put if-version", Kind::kWrite, kSmall, kSmall, false,
       [](Client& c, const std::string& key, Version version) {
         return c.put(key, value_of(2, kSmall), {.if_version = version}).in_l2;
       }},
      {"delete", Kind::kWrite, kSmall, 0, true,
       [](Client& c, const std::string& key, Version) { return c.remove(key); }},
      {"touch", Kind::kWrite, kLarge, 0, false,
       [](Client& c, const std::string& key, Version) { return c.touch(key, 1h).has_value(); }},
  };
  return all;
}

using Codes = std::set<std::string>;
const Codes kFine = {"OK"};
const Codes kNoAnswer = {"L2_TIMEOUT", "L2_UNAVAILABLE"};
const Codes kNoCommit = {"L2_TIMEOUT", "L2_UNAVAILABLE", "OUTCOME_UNKNOWN"};

struct Fault {
  const char* name;
  std::function<void(Proxy&, SecondTier&)> begin, end;
  std::function<Codes(const Operation&)> allowed;
  bool forgets = false;  // what was there may be gone
};

std::function<Codes(const Operation&)> codes(Codes reads, Codes writes) {
  return [=](const Operation& op) { return op.kind == Kind::kRead ? reads : writes; };
}

std::vector<Fault> faults() {
  const auto clear = [](Proxy& proxy, SecondTier&) { proxy.clear_faults(); };
  return {
      {
          "none",
          [](Proxy&, SecondTier&) {},
          [](Proxy&, SecondTier&) {},
          codes(kFine, kFine),
      },
      {"delay of 20 to 60 ms", [](Proxy& p, SecondTier&) { p.delay_replies(20ms, 60ms, 1); }, clear,
       codes(kFine, kFine)},
      // A large value takes longer than op_timeout, and moves all the time.
      {"trickle of 4 KiB each 20 ms",
       [](Proxy& p, SecondTier&) { p.throttle_replies(4 * 1024, 20ms); }, clear,
       codes(kFine, kFine)},
      {"stall", [](Proxy& p, SecondTier&) { p.freeze(true); },
       [](Proxy& p, SecondTier&) { p.freeze(false); }, codes(kNoAnswer, kNoCommit)},
      {"replies swallowed", [](Proxy& p, SecondTier&) { p.swallow_replies(); },
       [](Proxy& p, SecondTier&) {
         p.clear_faults();
         p.cut();
       },
       codes(kNoAnswer, kNoCommit)},
      {"cut after 1,000 bytes", [](Proxy& p, SecondTier&) { p.cut_after(1000); }, clear,
       codes({"OK", "L2_TIMEOUT", "L2_UNAVAILABLE"},
             {"OK", "L2_TIMEOUT", "L2_UNAVAILABLE", "OUTCOME_UNKNOWN"})},
      {"one bit flipped", [](Proxy& p, SecondTier&) { p.corrupt_bulks(2000); }, clear,
       [](const Operation& op) {
         // The manifest of a large value is small, and passes; chunks and inline values don't.
         const bool reads_value = op.kind == Kind::kRead && op.name != std::string_view("stat");
         return reads_value ? Codes{"VALUE_LOST"} : kFine;
       },
       true},
      {"replies garbled", [](Proxy& p, SecondTier&) { p.garble_replies(); },
       [](Proxy& p, SecondTier&) {
         p.clear_faults();
         p.cut();
       },
       codes({"L2_UNAVAILABLE", "L2_ERROR", "L2_TIMEOUT"},
             {"L2_UNAVAILABLE", "L2_ERROR", "L2_TIMEOUT", "OUTCOME_UNKNOWN"})},
      {"connections refused",
       [](Proxy& p, SecondTier&) {
         p.refuse(true);
         p.cut();
       },
       [](Proxy& p, SecondTier&) { p.refuse(false); },
       codes({"L2_UNAVAILABLE"}, {"L2_UNAVAILABLE", "OUTCOME_UNKNOWN"})},
      {"black hole for new connections",
       [](Proxy& p, SecondTier&) {
         p.black_hole(true);
         p.cut();
       },
       [](Proxy& p, SecondTier&) { p.black_hole(false); },
       codes({"L2_UNAVAILABLE"}, {"L2_UNAVAILABLE", "OUTCOME_UNKNOWN"})},
      {"SIGSTOP", [](Proxy&, SecondTier& l2) { l2.freeze(); },
       [](Proxy&, SecondTier& l2) { l2.thaw(); }, codes(kNoAnswer, kNoCommit)},
      {"full, without eviction", [](Proxy&, SecondTier& l2) { l2.full(true); },
       [](Proxy&, SecondTier& l2) { l2.full(false); },
       [](const Operation& op) {
         return op.new_size > 0 || op.name == std::string_view("touch") ? Codes{"L2_ERROR"} : kFine;
       }},
      {"everything forgotten", [](Proxy&, SecondTier& l2) { l2.forget_all(); },
       [](Proxy&, SecondTier&) {},
       [](const Operation& op) {
         if (op.name == std::string_view("put if-version")) return Codes{"CONDITION_FAILED"};
         return op.new_size > 0 ? kFine : Codes{"NOT_FOUND"};
       },
       true},
  };
}

// FAULT_TABLE_ONLY is a part of the name of the one to try. With a sanitizer some will do.
bool is_tried(const Fault& fault) {
  const std::string name = fault.name;
  const char* const only = std::getenv("FAULT_TABLE_ONLY");
  if (only != nullptr) return name.find(only) != name.npos;
  const std::set<std::string> some = {"none", "replies swallowed", "one bit flipped", "SIGSTOP",
                                      "connections refused"};
  return kSlowness == 1 || some.contains(name);
}

// At once, so that it's there whatever comes next.
void print(const std::string& row) {
  fmt::print("{}", row);
  std::fflush(stdout);
}

struct Outcome {
  std::string code;
  Millis time{0};
  std::string message;
};

std::string wire_name(Status status) {
  return std::string(proto::name(static_cast<proto::Status>(status)));
}

Outcome run(const Operation& op, const std::string& endpoint, const std::string& key,
            Version version) {
  Client client({.endpoint = endpoint});
  client.ping();
  const auto begin = Clock::now();
  Outcome outcome;
  try {
    outcome.code = op.run(client, key, version) ? "OK" : "NOT_FOUND";
  } catch (const Error& error) {
    outcome.code = wire_name(error.status());
    outcome.message = error.what();
    const bool of_the_value = error.status() == Status::kConditionFailed;
    EXPECT_TRUE(of_the_value || error.retryable()) << error.what();
    EXPECT_TRUE(of_the_value || !outcome.message.empty());
  }
  outcome.time = std::chrono::duration_cast<Millis>(Clock::now() - begin);
  return outcome;
}

// Hits in L1, all the while. Where L2 forgets everything, L1 is told of it: the value is put anew.
class Prober {
 public:
  Prober(const std::string& endpoint, bool is_forgotten) : client_({.endpoint = endpoint}) {
    client_.put("hot", value_of(9, kSmall));
    thread_ = std::thread([this, is_forgotten] {
      while (!stop_) {
        const auto begin = Clock::now();
        const std::optional<Value> value = client_.get("hot");
        if (!value && is_forgotten) {
          client_.put("hot", value_of(9, kSmall));
          continue;
        }
        EXPECT_TRUE(value && value->bytes == value_of(9, kSmall));
        times_.push_back(
            std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin));
        std::this_thread::sleep_for(1ms);  // a pace, not an order of events
      }
    });
  }
  ~Prober() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }
  // The times of all hits, the shortest first.
  std::vector<std::chrono::microseconds> end() {
    stop_ = true;
    thread_.join();
    std::ranges::sort(times_);
    return times_;
  }

 private:
  Client client_;
  std::atomic<bool> stop_{false};
  std::vector<std::chrono::microseconds> times_;
  std::thread thread_;
};

class FaultTable : public ::testing::Test {
 protected:
  static std::string common() { return "l1: {max_bytes: 16MiB}\nstorage: {chunk_bytes: 64KiB}\n"; }
  static bool works(const std::string& endpoint) {
    try {
      Client client({.endpoint = endpoint});
      client.put("recovery probe", value_of(3, kLarge));
      return client.get("recovery probe").has_value();
    } catch (const Error&) {
      return false;
    }
  }

  // Through another daemon, so that L1 of the one under test has none of them.
  std::vector<Version> prepare(const std::string& fault) {
    std::vector<Version> versions;
    Client writer({.endpoint = direct_.endpoint()});
    for (const Operation& op : operations()) {
      versions.push_back(writer.put(key_of(fault, op), old_value(op)).version);
    }
    return versions;
  }
  static std::string key_of(const std::string& fault, const Operation& op) {
    return fault + "/" + op.name;
  }

  // What a daemon finds under the key now: the old value, the new one, or nothing, as the outcome
  // allows.
  std::string look(const std::string& endpoint, const Fault& fault, const Operation& op,
                   const Outcome& outcome) {
    Client client({.endpoint = endpoint});
    std::optional<Value> value;
    try {
      value = client.get(key_of(fault.name, op));
    } catch (const Error& error) {
      EXPECT_EQ(error.status(), Status::kValueLost) << error.what();
    }
    const bool is_old = value && value->bytes == old_value(op);
    const bool is_new = value && op.new_size > 0 && value->bytes == new_value(op);
    EXPECT_TRUE(!value || is_old || is_new) << "wrong bytes";
    const bool done = outcome.code == "OK" && op.kind == Kind::kWrite;
    const bool open = outcome.code == "OUTCOME_UNKNOWN" || outcome.code == "VALUE_LOST";
    if (done && op.new_size > 0) {
      EXPECT_TRUE(is_new) << "what was acknowledged is not there";
    } else if (done && op.removes) {
      EXPECT_FALSE(value) << "what was deleted is there";
    } else if (!open && !fault.forgets) {
      EXPECT_TRUE(is_old) << "an operation that failed, or only read, changed something";
    }
    return is_new ? "new value" : is_old ? "old value" : "nothing";
  }

  void expect_nothing_left() {
    EXPECT_TRUE(eventually(
        [&] {
          return daemon_.in_transfers() == 0 &&
                 daemon_.metric("cistern_ledger_bytes", {"account=\"l2_buffers\""}) == 0 &&
                 daemon_.metric("cistern_ledger_waiting") == 0;
        },
        kPatience))
        << daemon_.admin("/metrics");
  }

  void expect_hits(Prober& prober) {
    const auto times = prober.end();
    ASSERT_FALSE(times.empty());
    EXPECT_LT(times[times.size() / 2], kConnectTimeout / 2) << "hits wait for the second tier";
    EXPECT_LT(times.back(), 10s);
  }

  RedisServer redis_{{"--maxmemory-policy", "noeviction", "--repl-diskless-sync-delay", "0"}};
  SecondTier tier_ = redis_tier(redis_);
  Proxy proxy_{tier_.port};
  Daemon direct_{{.config = common() + tier_.config(tier_.port), .server = {}}};
  Daemon daemon_{{.config = common() + tier_.config(proxy_.port()), .server = {}}};
};

TEST_F(FaultTable, EveryOperationThroughEveryFault) {
  print("| fault | operation | answer | ms | afterwards |\n|---|---|---|---|---|\n");
  for (const Fault& fault : faults()) {
    if (!is_tried(fault)) continue;
    SCOPED_TRACE(fault.name);
    const std::vector<Version> versions = prepare(fault.name);
    ASSERT_TRUE(eventually([&] { return works(daemon_.endpoint()); }, kPatience));
    Prober prober(daemon_.endpoint(), fault.forgets);
    fault.begin(proxy_, tier_);
    std::vector<std::future<Outcome>> running;
    for (std::size_t i = 0; i < operations().size(); ++i) {
      const Operation& op = operations()[i];
      running.push_back(std::async(std::launch::async, [&, i] {
        return run(op, daemon_.endpoint(), key_of(fault.name, op), versions[i]);
      }));
    }
    std::vector<Outcome> outcomes;
    for (auto& each : running) outcomes.push_back(each.get());
    expect_hits(prober);
    fault.end(proxy_, tier_);
    ASSERT_TRUE(eventually([&] { return works(daemon_.endpoint()); }, kPatience));
    Daemon cold({.config = common() + tier_.config(tier_.port), .server = {}});
    for (std::size_t i = 0; i < operations().size(); ++i) {
      const Operation& op = operations()[i];
      SCOPED_TRACE(op.name);
      const Outcome& outcome = outcomes[i];
      EXPECT_TRUE(fault.allowed(op).contains(outcome.code))
          << outcome.code << " " << outcome.message;
      EXPECT_LT(outcome.time, kMostWait);
      const std::string found = look(cold.endpoint(), fault, op, outcome);
      // A lost value's manifest is removed when it is found so, and perhaps after the answer.
      if (outcome.code != "VALUE_LOST") {
        EXPECT_EQ(look(daemon_.endpoint(), fault, op, outcome), found);
      }
      print(fmt::format("| {} | {} | {} | {} | {} |\n", fault.name, op.name, outcome.code,
                        outcome.time.count(), found));
    }
    expect_nothing_left();
    if (HasFailure()) break;
  }
}

// What a replica hadn't got yet is lost with its primary, whole values at a time: the daemon that
// wrote it may still have it in L1, and nobody reads a mixture.
TEST_F(FaultTable, FailoverToAReplicaThatLags) {
  RedisServer replica;
  Proxy link(redis_.port());
  replica.command({"REPLICAOF", "127.0.0.1", std::to_string(link.port())});
  ASSERT_TRUE(eventually([&] { return replica.info("master_link_status") == "up"; }, kPatience));
  Client client({.endpoint = daemon_.endpoint()});
  for (const std::size_t size : {kSmall, kLarge}) {
    client.put("k" + std::to_string(size), value_of(1, size));
  }
  ASSERT_TRUE(eventually(
      [&] { return replica.keys("cistern:*").size() == redis_.keys("cistern:*").size(); },
      kPatience));
  link.freeze(true);
  for (const std::size_t size : {kSmall, kLarge}) {
    client.put("k" + std::to_string(size), value_of(2, size));
  }
  proxy_.set_upstream(replica.port());
  redis_.kill();
  proxy_.cut();
  // A replica that nobody has promoted takes no writes, and says so.
  std::string refused;
  EXPECT_TRUE(eventually(
      [&] {
        try {
          client.put("new", value_of(1, kSmall));
        } catch (const Error& error) {
          EXPECT_TRUE(error.retryable()) << error.what();
          refused = error.what();
        }
        return refused.find("replica") != std::string::npos;
      },
      kPatience))
      << refused;
  replica.command({"REPLICAOF", "NO", "ONE"});
  ASSERT_TRUE(eventually([&] { return works(daemon_.endpoint()); }, kPatience));
  Daemon cold({.config = common() + tier_.config(replica.port()), .server = {}});
  Client reader({.endpoint = cold.endpoint()});
  for (const std::size_t size : {kSmall, kLarge}) {
    EXPECT_EQ(reader.get("k" + std::to_string(size))->bytes, value_of(1, size));
  }
  expect_nothing_left();
}

// The room ends in the middle of a PUT: Redis takes its first chunks and refuses the others.
TEST_F(FaultTable, FullInTheMiddleOfAPut) {
  Client client({.endpoint = daemon_.endpoint()});
  const Bytes before = value_of(1, kLarge);
  const Bytes bytes = value_of(2, 4 * 1024 * 1024);
  client.put("k", before);
  Writer writer = client.writer("k", bytes.size());
  writer.write(std::span(bytes).first(bytes.size() / 2));
  ASSERT_TRUE(eventually([&] { return redis_.keys("cistern:c:*").size() > 20; }, kPatience));
  tier_.full(true);
  try {
    writer.write(std::span(bytes).subspan(bytes.size() / 2));
    writer.commit();
    ADD_FAILURE() << "it was stored";
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), Status::kL2Error) << error.what();
    EXPECT_THAT(error.what(), ::testing::HasSubstr("maxmemory"));
  }
  EXPECT_EQ(client.get("k")->bytes, before);
  expect_nothing_left();
  // The chunks that had got there are let go of, though Redis is full.
  EXPECT_TRUE(eventually(
      [&] { return redis_.keys("cistern:c:*").size() == (kLarge + 65535) / 65536; }, kPatience));
  tier_.full(false);
  client.put("k", bytes);
  EXPECT_EQ(client.get("k")->bytes, bytes);
}

}  // namespace
}  // namespace cistern::testing
