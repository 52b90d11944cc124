// Every pause point of a fill against every operation on its key, forced. A reader and one that has
// joined it are stopped at the pause; the operation runs to its end through the other worker;
// somebody asks after it was acknowledged, while the fill still stands there, and again when all is
// over. The tables say what each of them sees.
#include <array>
#include <functional>
#include <optional>
#include <string>

#include <gtest/gtest.h>

#include "tests/support/service_fixture.h"

namespace cistern::testing {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kLarge = 11 * kChunk + 17;  // 12 chunks, kept in L1
constexpr std::size_t kHuge = 12 * kMiB + 5;      // passes by L1

enum class Operation {
  kPutSmall,
  kPutLarge,
  kPutHuge,
  kPutTooLarge,
  kDelete,
  kTouch,
  kExpiry,
  kUnknownPut,
  kLost
};
constexpr std::array kOperations = {
    Operation::kPutSmall,    Operation::kPutLarge,   Operation::kPutHuge,
    Operation::kPutTooLarge, Operation::kDelete,     Operation::kTouch,
    Operation::kExpiry,      Operation::kUnknownPut, Operation::kLost};

enum class Pause {
  kManifestAsked,     // the question is on its way to L2
  kManifestAnswered,  // the answer is on its way back
  kMakingRoom,        // L1 evicts for it
  kAdmission,         // it waits for its window's memory
  kFirstAsked,        // a chunk's question, and its answer
  kFirstAnswered,
  kMiddleAsked,
  kMiddleAnswered,
  kLastAsked,
  kLastAnswered,  // what remains is the publication
  kWindowFull,    // the one that joined has read nothing
  kLetGo,         // and was let go of, and has not come for more
  kParked,        // its window was given to somebody else
  kPublished,     // all is in L1, and the readers have not read it yet
};

// What a reader sees: the value from before the operation, the one that it wrote, nothing, or that
// the value is lost. Always whole.
enum class Sees { kOld, kNew, kNone, kLost };
constexpr Sees O = Sees::kOld, N = Sees::kNew, A = Sees::kNone, L = Sees::kLost;

struct Row {
  Pause pause;
  // What the readers of the fill see, by operation.
  std::array<Sees, kOperations.size()> readers;
};

// What who asks after the operation sees, wherever the fill stands.
//                                   small large huge too-large delete touch expiry unknown lost
constexpr std::array<Sees, 9> kAfter = {N, N, N, A, A, O, A, O, A};

constexpr Row kKept[] = {
    //                        PUT small large huge too-large delete touch expiry unknown lost
    {Pause::kManifestAsked, {N, N, N, A, A, O, A, O, A}},
    {Pause::kManifestAnswered, {O, O, O, O, O, O, A, O, L}},
    {Pause::kMakingRoom, {O, O, O, O, O, O, A, O, L}},
    {Pause::kFirstAsked, {O, O, O, O, O, O, O, O, L}},
    {Pause::kFirstAnswered, {O, O, O, O, O, O, O, O, L}},
    {Pause::kMiddleAsked, {O, O, O, O, O, O, O, O, L}},
    {Pause::kMiddleAnswered, {O, O, O, O, O, O, O, O, L}},
    {Pause::kLastAsked, {O, O, O, O, O, O, O, O, L}},
    {Pause::kLastAnswered, {O, O, O, O, O, O, O, O, O}},
    {Pause::kPublished, {O, O, O, O, O, O, O, O, O}},
};

constexpr Row kPassing[] = {
    //                        PUT small large huge too-large delete touch expiry unknown lost
    {Pause::kManifestAsked, {N, N, N, A, A, O, A, O, A}},
    {Pause::kManifestAnswered, {O, O, O, O, O, O, A, O, L}},
    {Pause::kAdmission, {O, O, O, O, O, O, O, O, L}},
    {Pause::kFirstAsked, {O, O, O, O, O, O, O, O, L}},
    {Pause::kFirstAnswered, {O, O, O, O, O, O, O, O, L}},
    {Pause::kMiddleAsked, {O, O, O, O, O, O, O, O, L}},
    {Pause::kMiddleAnswered, {O, O, O, O, O, O, O, O, L}},
    {Pause::kWindowFull, {O, O, O, O, O, O, O, O, L}},
    {Pause::kLetGo, {O, O, O, O, O, O, O, O, L}},
    {Pause::kParked, {O, O, O, O, O, O, O, O, L}},
};

class Scene : public Workers {
 public:
  Scene(std::size_t size, Pause pause) : Workers(setup(pause)), pause_(pause) {
    old_ = text_of(1, size);
    EXPECT_TRUE(put("k", old_, {.ttl_ms = 3'600'000})->stored);
    forget_in_l1("k");
  }

  // Two readers, stopped; both begin on worker 0, whose L2 or loop stands still.
  void begin() {
    switch (pause_) {
      case Pause::kManifestAsked:
        return begin_at(Step::kManifest, Point::kBefore, 0);
      case Pause::kManifestAnswered:
        return begin_at(Step::kManifest, Point::kAfter, 0);
      case Pause::kFirstAsked:
        return begin_at(Step::kRead, Point::kBefore, 0);
      case Pause::kFirstAnswered:
        return begin_at(Step::kRead, Point::kAfter, 0);
      case Pause::kMiddleAsked:
        return begin_at(Step::kRead, Point::kBefore, 4);
      case Pause::kMiddleAnswered:
        return begin_at(Step::kRead, Point::kAfter, 4);
      case Pause::kLastAsked:
        return begin_at(Step::kRead, Point::kBefore, 11);
      case Pause::kLastAnswered:
        return begin_at(Step::kRead, Point::kAfter, 11);
      case Pause::kMakingRoom: {
        for (int i = 0; i < 2000; ++i) put("fill" + std::to_string(i), text_of(3, 4000));
        store(0).pause(Step::kManifest, Point::kAfter);
        join();
        settle();
        store(0).let_one(Step::kManifest, Point::kAfter);
        store(0).resume(Step::kManifest, Point::kAfter);
        while (cache().stats().reserved_bytes == 0) ASSERT_TRUE(loop(0).run_one());
        EXPECT_FALSE(first_->answered());
        return stand_still(0, true);
      }
      case Pause::kAdmission:
        taken_ = ledger().try_reserve(base::Account::kUploads, 4 * kMiB - kChunk);
        join();
        settle();
        EXPECT_EQ(ledger().waiting(), 1u);
        return;
      case Pause::kWindowFull:
      case Pause::kLetGo:
        join();
        for (int i = 0; i < 40; ++i) pull(*first_, kChunk);
        if (pause_ == Pause::kLetGo) {
          advance(100ms);
          for (int i = 0; i < 40; ++i) pull(*first_, kChunk);
        }
        EXPECT_EQ(first_->bytes.size() > 20 * kChunk, pause_ == Pause::kLetGo);
        return;
      case Pause::kParked:
        join();
        pull(*first_, kChunk / 2);
        // Somebody wants more than there is.
        ticket_ = ledger().wait(base::Account::kUploads, 4 * kMiB, loop(1),
                                [this](base::Reservation granted) { taken_ = std::move(granted); });
        advance(2s);
        EXPECT_TRUE(taken_);
        taken_.release();
        return;
      case Pause::kPublished:
        join();
        settle();
        EXPECT_TRUE(in_l1("k"));
        return;
    }
  }

  // Through worker 1, to its end.
  void run(Operation operation) {
    switch (operation) {
      case Operation::kPutSmall:
        return write(100);
      case Operation::kPutLarge:
        return write(5 * kChunk);
      case Operation::kPutHuge:
        return write(9 * kMiB);
      case Operation::kPutTooLarge: {
        const auto put =
            open("k", std::string(shared().options.max_value_bytes + 1, 'x'), {}, true, 1);
        settle();
        EXPECT_EQ(put->status(), Status::kValueTooLarge);
        return;
      }
      case Operation::kDelete:
        EXPECT_EQ(remove("k", {}, 1), Status::kOk);
        return;
      case Operation::kTouch:
        EXPECT_EQ(touch_elsewhere(1'800'000), Status::kOk);
        return;
      case Operation::kExpiry:
        // Chunks outlive their value by the grace, which is what the readers have.
        return advance(1h);
      case Operation::kUnknownPut: {
        store(1).unknown_next(false);
        const auto put = put_inline("k", "may be", {}, 1);
        settle();
        EXPECT_EQ(put->status(), Status::kOutcomeUnknown);
        return;
      }
      case Operation::kLost: {
        // Found missing by whoever would make the value live longer.
        l2().chunks.erase(std::prev(l2().chunks.end()));
        EXPECT_EQ(touch_elsewhere(7'200'000), Status::kValueLost);
        return;
      }
    }
  }

  void resume() {
    for (const Step step : {Step::kManifest, Step::kRead}) {
      for (const Point point : {Point::kBefore, Point::kAfter}) store(0).resume(step, point);
    }
    stand_still(0, false);
    taken_.release();
    ticket_.reset();
  }

  // To their ends, with whatever time that takes.
  void finish_slowly(Getter& getter) {
    for (int turn = 0; turn < 3000 && !getter.ended && !getter.error; ++turn) {
      settle();
      getter.pull();
      getter.sent();
      if (turn % 100 == 99) advance(100ms);
    }
  }
  void expect(Getter& getter, Sees sees, const char* who) {
    SCOPED_TRACE(who);
    switch (sees) {
      case Sees::kOld:
        EXPECT_EQ(getter.status(), Status::kOk);
        EXPECT_TRUE(getter.bytes == old_);
        return;
      case Sees::kNew:
        EXPECT_EQ(getter.status(), Status::kOk);
        EXPECT_TRUE(getter.bytes == new_);
        return;
      case Sees::kNone:
        EXPECT_EQ(getter.status(), Status::kNotFound);
        return;
      case Sees::kLost:
        EXPECT_EQ(getter.status(), Status::kValueLost);
        EXPECT_FALSE(getter.ended);
        EXPECT_TRUE(old_.starts_with(getter.bytes));
        return;
    }
  }
  Getter& first() { return *first_; }
  Getter& joined() { return *joined_; }

 private:
  static ServiceSetup setup(Pause) { return {}; }

  void join() {
    first_ = get("k");
    joined_ = get("k", {}, 1);  // on another loop than the fill
    settle();
  }
  // Stopped once `chunks` of them have come.
  void begin_at(Step step, Point point, std::size_t chunks) {
    store(0).pause(step, point);
    join();
    for (std::size_t i = 0; i < chunks; ++i) {
      store(0).let_one(step, point);
      settle();
      // A passing one moves with its readers.
      pull(*first_, kChunk);
      pull(*joined_, kChunk);
    }
    EXPECT_GE(store(0).held(step, point), 1u);
  }
  void pull(Getter& getter, std::size_t bytes) {
    getter.pull(bytes);
    getter.sent();
    settle();
  }
  Status touch_elsewhere(std::uint64_t ttl_ms) {
    Status status = Status::kInternal;
    const auto touch = service(1).touch({proto::as_bytes("k"), ttl_ms, {}},
                                        [&](const proto::Result<proto::Done>& done) {
                                          status = done ? Status::kOk : done.error().status;
                                        });
    settle();
    return status;
  }
  void write(std::size_t size) {
    new_ = text_of(2, size);
    const auto put = size <= proto::kMaxInlineBytes ? put_inline("k", new_, {}, 1)
                                                    : open("k", new_, {}, true, 1);
    if (put->upload) send_all(*put);
    settle();
    if (pause_ == Pause::kAdmission && !put->stored) {
      // It waits for memory behind the fill, so that the two go on together.
      taken_.release();
      finish_slowly(*first_);
      send_all(*put);
      settle();
    }
    ASSERT_TRUE(put->stored) << (put->error ? put->error->message : "unanswered");
  }

  const Pause pause_;
  std::string old_, new_;
  std::unique_ptr<Getter> first_, joined_;
  base::Reservation taken_;
  std::shared_ptr<base::Ledger::Ticket> ticket_;
};

void check(std::size_t size, const Row& row, std::size_t column) {
  const Operation operation = kOperations[column];
  SCOPED_TRACE(::testing::Message() << "size " << size << " pause " << static_cast<int>(row.pause)
                                    << " operation " << static_cast<int>(operation));
  Scene scene(size, row.pause);
  scene.begin();
  if (::testing::Test::HasFatalFailure()) return;
  scene.run(operation);
  // While the fill stands where it stood.
  auto after = scene.get("k", {}, 1);
  scene.finish(*after);
  const bool in_time = after->ended || after->error;
  scene.resume();
  scene.finish_slowly(*after);
  scene.expect(*after, kAfter[column], "who asks after the operation");
  // Nobody waits for the fill that stands; but for memory that the test itself holds, and for the
  // answer to a question that is still good when nothing but time has changed.
  const bool shares = operation == Operation::kExpiry && row.pause < Pause::kAdmission;
  EXPECT_TRUE(in_time || row.pause == Pause::kAdmission || shares);
  scene.finish_slowly(scene.first());
  scene.finish_slowly(scene.joined());
  scene.expect(scene.first(), row.readers[column], "who began the fill");
  scene.expect(scene.joined(), row.readers[column], "who joined it");
  for (const std::size_t worker : {0, 1}) {
    auto last = scene.read("k", {}, worker);
    scene.finish_slowly(*last);
    scene.expect(*last, kAfter[column], "who asks at the end");
  }
}

TEST(Interleavings, OfAKeptFill) {
  for (const Row& row : kKept) {
    for (std::size_t column = 0; column < kOperations.size(); ++column) check(kLarge, row, column);
  }
}

TEST(Interleavings, OfAPassingFill) {
  for (const Row& row : kPassing) {
    for (std::size_t column = 0; column < kOperations.size(); ++column) check(kHuge, row, column);
  }
}

}  // namespace
}  // namespace cistern::testing
