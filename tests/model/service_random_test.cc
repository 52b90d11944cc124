// The service against a history of what was written: two workers, a few keys, and in any order
// GETs, PUTs, DELETEs, TOUCHes, clients that stand still or leave, L2 that stops before or after
// any step or fails, evictions, and time. No GET may return what was surely replaced before it
// began, or anything that nobody wrote.
//
// CISTERN_TEST_SEED=N runs one seed again.
#include <cstdlib>
#include <map>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/history.h"
#include "tests/support/service_fixture.h"

namespace cistern::testing {
namespace {

using namespace std::chrono_literals;

constexpr int kSteps = 500;
#ifdef CISTERN_SANITIZED
constexpr std::uint64_t kRuns = 15;
#else
constexpr std::uint64_t kRuns = 100;
#endif
constexpr std::array<std::size_t, 5> kSizes = {std::size_t{100}, std::size_t{9 * kKiB},
                                               3 * kChunk + 1, 12 * kChunk + 7,
                                               std::size_t{3 * kMiB}};
constexpr std::array kStops = {
    std::pair(Step::kManifest, Point::kBefore), std::pair(Step::kManifest, Point::kAfter),
    std::pair(Step::kRead, Point::kBefore),     std::pair(Step::kRead, Point::kAfter),
    std::pair(Step::kCommit, Point::kBefore),   std::pair(Step::kCommit, Point::kAfter),
    std::pair(Step::kRemove, Point::kBefore),   std::pair(Step::kRemove, Point::kAfter),
    std::pair(Step::kWrite, Point::kBefore),    std::pair(Step::kWrite, Point::kAfter)};

class Play {
 public:
  explicit Play(std::uint64_t seed) : random_(seed), workers_(setup()) {}

  void run() {
    for (int step = 0; step < kSteps; ++step) one_step();
    for (std::size_t worker = 0; worker < 2; ++worker) {
      for (const auto& [step, point] : kStops) workers_.store(worker).resume(step, point);
    }
    for (int turn = 0; turn < 20000 && !all_over(); ++turn) {
      for (auto& get : gets_) pull(get, ~std::size_t{0});
      for (auto& put : puts_) send(put);
      if (turn % 10 == 9) {
        workers_.advance(100ms);
      } else {
        workers_.settle();
      }
    }
    EXPECT_TRUE(all_over()) << "something waits for ever";
    for (auto& get : gets_) note(get);
    for (auto& put : puts_) note(put);
    for (std::size_t key = 0; key < kKeys; ++key) {
      for (const std::string& violation : violations(histories_[key])) {
        ADD_FAILURE() << name(key) << ": " << violation;
      }
    }
  }

 private:
  static constexpr std::size_t kKeys = 2;

  struct Get {
    std::size_t key;
    Read read;
    std::unique_ptr<Getter> getter;
    bool noted = false;
  };
  struct Put {
    std::size_t key;
    std::size_t place;  // in the history
    std::unique_ptr<Putter> putter;
    bool noted = false;
  };

  std::uint64_t any(std::uint64_t below) { return random_() % below; }

  ServiceSetup setup() {
    ServiceSetup setup;
    setup.l1_bytes = any(2) == 0 ? 2 * kMiB : 8 * kMiB;
    // From a single window on, which has to hold a PUT's chunks that may yet be inline, too.
    setup.transfer_bytes = any(2) == 0 ? 4 * base::Chunk::allocated_for(kChunk) : 4 * kMiB;
    setup.held_bytes = any(2) == 0 ? 0 : setup.transfer_bytes / 2;
    setup.negative_ttl = any(2) == 0 ? 0s : 1h;
    setup.ttl_jitter = any(2) == 0 ? 0 : 0.3;
    return setup;
  }
  static std::string name(std::size_t key) { return "k" + std::to_string(key); }
  std::size_t some_worker() { return any(2); }
  Instant now() { return ++instant_; }

  void one_step() {
    switch (any(20)) {
      case 0:
      case 1:
      case 2:
      case 3:
        return begin_get();
      case 4:
      case 5:
        return begin_put();
      case 6:
        return begin_remove();
      case 7:
        return begin_touch();
      case 8:
      case 9:
      case 10:
        if (!gets_.empty()) pull(gets_[any(gets_.size())], any(4 * kChunk) + 1);
        return;
      case 11:
        if (!puts_.empty()) send(puts_[any(puts_.size())]);
        return;
      case 12:
        return leave();
      case 13:
        return workers_.settle();
      case 14:
        return workers_.advance(std::array<base::Duration, 4>{1ms, 50ms, 100ms, 1s}[any(4)]);
      case 15: {
        const auto& [step, point] = kStops[any(kStops.size())];
        return workers_.store(some_worker()).pause(step, point);
      }
      case 16: {
        const auto& [step, point] = kStops[any(kStops.size())];
        return workers_.store(some_worker()).resume(step, point);
      }
      case 17:
        if (any(4) == 0) {
          workers_.store(some_worker())
              .fail_next(any(2) == 0 ? Step::kRead : Step::kManifest, Status::kL2Timeout);
        } else if (any(4) == 0) {
          workers_.store(some_worker()).unknown_next(any(2) == 0);
        }
        return;
      case 18:
        return workers_.forget_in_l1(name(any(kKeys)));
      default:
        for (std::uint64_t i = any(12); i > 0; --i) workers_.loop(some_worker()).run_one();
    }
  }

  void begin_get() {
    Get get{any(kKeys), {}, nullptr};
    get.read.began = now();
    get.getter = workers_.get(name(get.key), {}, some_worker());
    get.getter->on_outcome = [this, getter = get.getter.get()] { ended_[getter] = now(); };
    gets_.push_back(std::move(get));
    note(gets_.back());
  }
  // Its first bytes say whose it is; all of them have to be that write's.
  void note(Get& get) {
    Getter& getter = *get.getter;
    if (get.noted || (!getter.ended && !getter.error)) return;
    get.noted = true;
    // A small value's, and an absence's, when it was answered.
    const auto answered = getter.small || getter.error ? ended_.find(&getter) : ended_.end();
    get.read.ended = answered != ended_.end() ? answered->second : now();
    if (getter.error) {
      if (getter.error->status == Status::kNotFound) {
        histories_[get.key].reads.push_back(get.read);
      } else {
        EXPECT_EQ(getter.error->status, Status::kL2Timeout) << getter.error->message;
      }
      return;
    }
    const auto found = written_.find(getter.bytes);
    ASSERT_NE(found, written_.end()) << "bytes that nobody wrote";
    get.read.id = found->second;
    histories_[get.key].reads.push_back(get.read);
  }
  void pull(Get& get, std::size_t most) {
    get.getter->pull(most);
    if (any(2) == 0) get.getter->sent();
    if (most == ~std::size_t{0}) get.getter->sent();
    note(get);
  }

  Write& begin_write(std::size_t key, bool removes) {
    Write write;
    write.id = ++last_id_;
    write.removes = removes;
    write.began = now();
    histories_[key].writes.push_back(write);
    return histories_[key].writes.back();
  }
  void begin_put() {
    const std::size_t key = any(kKeys);
    const std::uint64_t id = begin_write(key, false).id;
    const std::string text = text_of(id, kSizes[any(kSizes.size())]);
    written_[text] = id;
    Put put{key, histories_[key].writes.size() - 1, nullptr};
    put.putter = text.size() <= proto::kMaxInlineBytes
                     ? workers_.put_inline(name(key), text, {}, some_worker())
                     : workers_.open(name(key), text, {}, any(4) != 0, some_worker());
    // At once, and not when the client happens to look.
    put.putter->on_outcome = [this, key, place = put.place, putter = put.putter.get()] {
      if (putter->stored) histories_[key].writes[place].acked = now();
    };
    puts_.push_back(std::move(put));
    note(puts_.back());
  }
  void send(Put& put) {
    Putter& putter = *put.putter;
    if (putter.upload && !putter.answered()) {
      putter.send();
      if (putter.sent == putter.text.size() && !putter.answered()) putter.end();
    }
    note(put);
  }
  void note(Put& put) {
    if (put.noted || !put.putter->answered()) return;
    put.noted = true;
  }
  void begin_remove() {
    const std::size_t key = any(kKeys);
    begin_write(key, true);
    const std::size_t place = histories_[key].writes.size() - 1;
    operations_.push_back(workers_.service(some_worker())
                              .remove({proto::as_bytes(names_[key]), {}},
                                      [this, key, place](const proto::Result<proto::Done>& done) {
                                        if (done || done.error().status == Status::kNotFound) {
                                          histories_[key].writes[place].acked = now();
                                        }
                                      }));
  }
  void begin_touch() {
    operations_.push_back(
        workers_.service(some_worker())
            .touch({proto::as_bytes(names_[any(kKeys)]), any(2) == 0 ? 0 : 3'600'000u, {}},
                   [](const proto::Result<proto::Done>&) {}));
  }
  void leave() {
    if (any(2) == 0 && !gets_.empty()) {
      Get& get = gets_[any(gets_.size())];
      if (!get.noted) get.getter->leave();
      get.noted = true;
    } else if (!puts_.empty()) {
      // What has begun to commit runs on: it was never acknowledged, and may be there.
      Put& put = puts_[any(puts_.size())];
      if (!put.noted) put.putter->leave();
      put.noted = true;
    }
  }
  bool all_over() const {
    return std::ranges::all_of(gets_, [](const Get& get) { return get.noted; }) &&
           std::ranges::all_of(puts_, [](const Put& put) { return put.noted; });
  }

  std::mt19937_64 random_;
  const std::array<std::string, kKeys> names_ = {name(0), name(1)};
  Instant instant_ = 0;
  std::uint64_t last_id_ = 0;
  std::map<std::string, std::uint64_t> written_;
  std::map<const Getter*, Instant> ended_;
  std::array<History, kKeys> histories_;
  Workers workers_;
  std::vector<Get> gets_;
  std::vector<Put> puts_;
  std::vector<service::OperationPtr> operations_;
};

TEST(ServiceModel, NoReadReturnsWhatWasReplacedBeforeItBegan) {
  if (const char* const seed = std::getenv("CISTERN_TEST_SEED")) {
    Play(std::strtoull(seed, nullptr, 10)).run();
    return;
  }
  const std::uint64_t first = std::random_device{}() % 1'000'000'000;
  for (std::uint64_t seed = first; seed < first + kRuns; ++seed) {
    SCOPED_TRACE(::testing::Message() << "CISTERN_TEST_SEED=" << seed);
    Play(seed).run();
    if (::testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace cistern::testing
