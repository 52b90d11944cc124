// Every interleaving of a miss with a write of its key, forced: whatever was in flight, after the
// write's answer no GET returns what was there before.
#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/service_fixture.h"

namespace cistern::testing {
namespace {

constexpr std::size_t kSmall = 100;
constexpr std::size_t kInline = 9 * kKiB;
constexpr std::size_t kLarge = 5 * kChunk + 17;

struct Stop {
  Step step;
  Point point;
};
const std::vector<Stop> kStopsOfMiss = {{Step::kManifest, Point::kBefore},
                                        {Step::kManifest, Point::kAfter},
                                        {Step::kRead, Point::kBefore},
                                        {Step::kRead, Point::kAfter}};
const std::vector<Stop> kStopsOfWrite = {
    {Step::kWrite, Point::kBefore},    {Step::kWrite, Point::kAfter},
    {Step::kCommit, Point::kBefore},   {Step::kCommit, Point::kAfter},
    {Step::kExpire, Point::kBefore},   {Step::kExpire, Point::kAfter},
    {Step::kRemove, Point::kBefore},   {Step::kRemove, Point::kAfter},
    {Step::kManifest, Point::kBefore}, {Step::kManifest, Point::kAfter}};

enum class Kind { kPut, kRemove, kTooLarge, kTouch };

// A write on worker 1 that may take its time, and what a GET must see after it.
struct Writer {
  Workers& workers;
  Kind kind;
  std::string text;
  std::unique_ptr<Putter> putter{};
  std::shared_ptr<std::optional<Status>> status = std::make_shared<std::optional<Status>>();
  service::OperationPtr operation{};

  void start() {
    const base::Bytes key = proto::as_bytes("k");
    const auto note = [to = status](const proto::Result<proto::Done>& done) {
      *to = done ? Status::kOk : done.error().status;
    };
    switch (kind) {
      case Kind::kPut:
        if (text.size() <= proto::kMaxInlineBytes) {
          putter = workers.put_inline("k", text, {}, 1);
        } else {
          putter = workers.open("k", text, {}, true, 1);
          workers.send_all(*putter);
        }
        break;
      case Kind::kRemove:
        operation = workers.service(1).remove({key, {}}, note);
        break;
      case Kind::kTooLarge:
        putter = workers.open("k", std::string(workers.shared().options.max_value_bytes + 1, 'x'),
                              {}, true, 1);
        break;
      case Kind::kTouch:
        operation = workers.service(1).touch({key, 1000, {}}, note);
        break;
    }
  }
  void check() {
    workers.settle();
    if (putter) workers.send_all(*putter);
    workers.settle();
    if (kind == Kind::kTooLarge) {
      EXPECT_EQ(putter->status(), Status::kValueTooLarge);
    } else if (putter) {
      ASSERT_TRUE(putter->stored) << (putter->error ? putter->error->message : "unanswered");
    } else {
      EXPECT_EQ(*status, Status::kOk);
    }
    // Twice: from wherever it is, and from what that left in L1.
    for (int i = 0; i < 2; ++i) {
      const auto got = workers.read("k");
      if (kind == Kind::kPut) {
        EXPECT_TRUE(got->bytes == text);
        EXPECT_EQ(got->meta->version, putter->stored->version);
      } else if (kind == Kind::kTouch) {
        EXPECT_EQ(got->meta->expires_at_ms, workers.loop().unix_ms() + 1000);
      } else {
        EXPECT_EQ(got->status(), Status::kNotFound);
      }
    }
  }
};

void for_all(const std::function<void(Kind, std::size_t, std::size_t, Stop)>& test,
             const std::vector<Stop>& stops) {
  for (const Kind kind : {Kind::kPut, Kind::kRemove, Kind::kTooLarge, Kind::kTouch}) {
    for (const std::size_t old_size : {kSmall, kInline, kLarge}) {
      for (const std::size_t new_size : {kSmall, kInline, kLarge}) {
        if (kind != Kind::kPut && new_size != kSmall) continue;
        for (const Stop& stop : stops) {
          SCOPED_TRACE(::testing::Message()
                       << "kind " << static_cast<int>(kind) << " old " << old_size << " new "
                       << new_size << " step " << static_cast<int>(stop.step) << " point "
                       << static_cast<int>(stop.point));
          test(kind, old_size, new_size, stop);
        }
      }
    }
  }
}

TEST(Races, AMissStoppedAnywherePublishesNothingOlderThanAWrite) {
  for_all(
      [](Kind kind, std::size_t old_size, std::size_t new_size, Stop stop) {
        Workers workers;
        const std::string old = text_of(1, old_size);
        ASSERT_TRUE(workers.put("k", old)->stored);
        workers.forget_in_l1("k");

        workers.store(0).pause(stop.step, stop.point);
        const auto miss = workers.get("k");
        workers.settle();
        Writer writer{workers, kind, text_of(2, new_size)};
        writer.start();
        workers.settle();
        workers.store(0).resume(stop.step, stop.point);
        workers.finish(*miss);
        // It has the old value or the new one, whole, or none, never a mix.
        EXPECT_TRUE(miss->error || miss->bytes == old || miss->bytes == writer.text);
        miss->leave();
        writer.check();
      },
      kStopsOfMiss);
}

TEST(Races, AMissWithinAWriteStoppedAnywherePublishesNothingOlder) {
  for_all(
      [](Kind kind, std::size_t old_size, std::size_t new_size, Stop stop) {
        Workers workers;
        const std::string old = text_of(1, old_size);
        ASSERT_TRUE(workers.put("k", old)->stored);
        workers.forget_in_l1("k");

        workers.store(1).pause(stop.step, stop.point);
        Writer writer{workers, kind, text_of(2, new_size)};
        writer.start();
        workers.settle();
        const auto miss = workers.read("k");
        EXPECT_TRUE(miss->error || miss->bytes == old || miss->bytes == writer.text);
        miss->leave();
        workers.store(1).resume(stop.step, stop.point);
        writer.check();
      },
      kStopsOfWrite);
}

TEST(Races, AMissWithoutAWritePublishes) {
  for (const std::size_t size : {kSmall, kInline, kLarge}) {
    Workers workers;
    workers.put("k", text_of(1, size));
    workers.forget_in_l1("k");
    EXPECT_EQ(workers.read("k")->flags, proto::kInL2);
    EXPECT_EQ(workers.read("k")->flags, proto::kInL1);
  }
}

TEST(Races, TwoPutsPublishInTheOrderOfTheirCommits) {
  for (const std::size_t size : {kSmall, kLarge}) {
    Workers workers;
    workers.store(0).pause(Step::kCommit, Point::kAfter);
    auto first = workers.open("k", text_of(1, size));
    workers.send_all(*first);
    workers.settle();
    ASSERT_EQ(workers.store(0).held(Step::kCommit, Point::kAfter), 1u);

    auto second = workers.open("k", text_of(2, size), {}, true, 1);
    workers.send_all(*second);
    workers.settle();
    EXPECT_EQ(workers.store(1).count(Step::kCommit), 0u);  // waits for its turn
    EXPECT_FALSE(second->answered());

    workers.store(0).resume(Step::kCommit, Point::kAfter);
    workers.settle();
    ASSERT_TRUE(first->stored && second->stored);
    EXPECT_TRUE(workers.read("k")->bytes == second->text);
    EXPECT_EQ(workers.read("k")->flags, proto::kInL1);
    EXPECT_EQ(workers.l2().manifests.at("k").meta.version, second->stored->version);
  }
}

TEST(Races, AWriterThatLeavesTheQueueIsPassedOver) {
  Workers workers;
  workers.store(0).pause(Step::kCommit, Point::kBefore);
  auto first = workers.put_inline("k", "1");
  auto second = workers.put_inline("k", "2", {}, 1);
  auto third = workers.put_inline("k", "3");
  second->leave();
  workers.settle();
  workers.store(0).resume(Step::kCommit, Point::kBefore);
  workers.settle();
  EXPECT_TRUE(first->stored && third->stored);
  EXPECT_FALSE(second->answered());
  EXPECT_TRUE(workers.read("k")->bytes == "3");
  EXPECT_EQ(workers.store(1).count(Step::kCommit), 0u);
}

TEST(Races, ACommitThatHasBegunRunsOnWithoutItsClient) {
  Workers workers;
  workers.store().pause(Step::kCommit, Point::kBefore);
  auto put = workers.put_inline("k", "1");
  workers.settle();
  put->leave();
  workers.store().resume(Step::kCommit, Point::kBefore);
  workers.settle();
  EXPECT_FALSE(put->answered());
  EXPECT_EQ(workers.read("k")->flags, proto::kInL1);
}

TEST(Races, AnUnknownCommitLeavesNothingInL1) {
  for (const bool happens : {false, true}) {
    for (const std::size_t size : {kSmall, kLarge}) {
      Workers workers;
      workers.put("k", "old");
      ASSERT_TRUE(workers.in_l1("k"));
      workers.store().unknown_next(happens);
      const auto put = workers.put("k", text_of(2, size));
      EXPECT_EQ(put->status(), Status::kOutcomeUnknown);
      EXPECT_FALSE(workers.in_l1("k"));
      EXPECT_TRUE(workers.read("k")->bytes == (happens ? text_of(2, size) : "old"));

      workers.store().unknown_next(happens);
      EXPECT_EQ(workers.remove("k"), Status::kOutcomeUnknown);
      EXPECT_FALSE(workers.in_l1("k"));
    }
  }
}

}  // namespace
}  // namespace cistern::testing
