// PUT: what is stored, what is refused, and what is left when it fails.
#include <string>

#include <gtest/gtest.h>

#include "tests/support/service_fixture.h"

namespace cistern::testing {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kLarge = 5 * kChunk + 17;

ServiceSetup without_l2() {
  ServiceSetup setup;
  setup.with_l2 = false;
  return setup;
}

class Both : public ::testing::TestWithParam<bool> {
 protected:
  ServiceSetup setup_ = [] {
    ServiceSetup setup;
    setup.with_l2 = GetParam();
    return setup;
  }();
};
INSTANTIATE_TEST_SUITE_P(Tiers, Both, ::testing::Bool(),
                         [](const auto& each) { return each.param ? "WithL2" : "None"; });

TEST_P(Both, KeepsValuesOfEverySize) {
  Workers workers(setup_);
  std::uint64_t seed = 0;
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{1}, 4 * kKiB, 4 * kKiB + 1, 16 * kKiB, 16 * kKiB + 1,
        std::size_t{kChunk}, std::size_t{kChunk} + 1, std::size_t{kLarge}}) {
    for (const bool size_known : {true, false}) {
      SCOPED_TRACE(size);
      const std::string text = text_of(++seed, size);
      const auto put = workers.stream("k", text, {}, size_known);
      ASSERT_TRUE(put->stored) << put->error->message;
      EXPECT_EQ(put->stored->size, size);
      const auto hit = workers.read("k");
      EXPECT_TRUE(hit->bytes == text);
      EXPECT_EQ(hit->flags, proto::kInL1);
      EXPECT_EQ(hit->meta->version, put->stored->version);
      if (!GetParam()) continue;
      workers.forget_in_l1("k");
      EXPECT_TRUE(workers.read("k", {}, 1)->bytes == text);
      EXPECT_EQ(workers.read("k", {}, 1)->flags, proto::kInL1);
    }
  }
}

// Evicting for it takes long, and others have their turn meanwhile.
TEST_P(Both, RoomForALargeValueIsMadeInSteps) {
  Workers workers(setup_);
  constexpr int kEntries = 7000;
  for (int i = 0; i < kEntries; ++i) workers.put("s" + std::to_string(i), std::string(1000, 's'));
  const std::string last = "s" + std::to_string(kEntries - 1);
  std::uint64_t items = workers.cache().stats().items;
  ASSERT_GT(items, 6000u);

  auto putter = workers.open("big", text_of(1, 4 * kMiB));
  int steps = 0;
  do {
    const std::uint64_t left = workers.cache().stats().items;
    EXPECT_LE(items - left, 600u);
    items = left;
    EXPECT_EQ(workers.get(last)->flags, proto::kInL1);
    ++steps;
  } while (putter->credit == 0 && workers.loop().run_one());
  EXPECT_GT(steps, 8);
  workers.send_all(*putter);
  workers.settle();
  ASSERT_TRUE(putter->stored);
  EXPECT_TRUE(workers.in_l1("big"));

  // One who leaves meanwhile stops it.
  auto leaver = workers.open("bigger", text_of(2, 6 * kMiB));
  EXPECT_EQ(leaver->credit, 0u);
  leaver->leave();
  workers.settle();
  EXPECT_TRUE(workers.in_l1("big"));
  EXPECT_EQ(workers.cache().stats().reserved_bytes, 0u);
}

TEST_P(Both, InlinePutsAreVerified) {
  Workers workers(setup_);
  workers.put("k", "old");
  Putter putter;
  const proto::PutRequest request{.key = proto::as_bytes("k"),
                                  .size = 3,
                                  .is_inline = true,
                                  .inline_digest = digest_of("newer"),
                                  .inline_bytes = proto::as_bytes("new")};
  EXPECT_EQ(workers.service().put_inline(request, putter), nullptr);
  EXPECT_EQ(putter.status(), Status::kDigestMismatch);
  EXPECT_TRUE(workers.read("k")->bytes == "old");
}

TEST_P(Both, InlineValuesOfSeveralSmallChunks) {
  setup_.chunk_bytes = 4 * kKiB;
  Workers workers(setup_);
  const std::string text = text_of(1, 3 * 4 * kKiB + 5);
  ASSERT_TRUE(workers.put("k", text)->stored);
  EXPECT_TRUE(workers.read("k")->bytes == text);
  workers.forget_in_l1("k");
  EXPECT_TRUE(workers.read("k")->bytes == (GetParam() ? text : ""));
}

TEST_P(Both, RefusesWhatIsMalformed) {
  Workers workers(setup_);
  EXPECT_EQ(workers.put_inline("", "x")->status(), Status::kBadRequest);
  EXPECT_EQ(workers.put_inline("k", "x", {.if_absent = true, .if_version = 1})->status(),
            Status::kBadRequest);
  EXPECT_EQ(workers.put_inline("k", "x", {.ttl_ms = proto::kMaxTtlMs + 1})->status(),
            Status::kBadRequest);
  for (const char* const metadata : {"[]", "{", "x", "{} {}", "\xff"}) {
    EXPECT_EQ(workers.put_inline("k", "x", {.metadata = proto::as_bytes(metadata)})->status(),
              Status::kBadRequest);
  }
  EXPECT_TRUE(workers.put("k", "x", {.metadata = proto::as_bytes(R"({"a": 1})")})->stored);
}

TEST_P(Both, AnUploadThatFailsOrLeavesChangesNothing) {
  Workers workers(setup_);
  const std::string old = text_of(1, kLarge);
  ASSERT_TRUE(workers.put("k", old)->stored);
  const std::size_t chunks = workers.l2().chunks_at(workers.loop().now());
  const auto unchanged = [&] {
    workers.settle();
    EXPECT_TRUE(workers.read("k")->bytes == old);
    workers.advance(2ms);
    EXPECT_EQ(workers.l2().chunks_at(workers.loop().now()), chunks);
    EXPECT_EQ(workers.ledger().transferring(), 0u);
  };
  const std::string text = text_of(2, kLarge);

  for (const bool size_known : {true, false}) {
    for (std::size_t sent = 0; sent < text.size(); sent += kChunk / 2) {
      auto left = workers.open("k", text, {}, size_known);
      for (std::size_t at = 0; at < sent; at += kChunk / 4) {
        workers.settle();
        left->send(kChunk / 4);
      }
      left->leave();
      unchanged();
    }
    auto spoilt = workers.open("k", text, {}, size_known);
    workers.settle();
    spoilt->send(~std::size_t{0}, true);
    EXPECT_EQ(spoilt->status(), Status::kDigestMismatch);
    spoilt->leave();
    unchanged();

    auto wrong_end = workers.open("k", text, {}, size_known);
    while (wrong_end->sent < text.size()) {
      workers.settle();
      wrong_end->send();
    }
    wrong_end->upload->end({digest_of("other"), text.size()});
    EXPECT_EQ(wrong_end->status(), Status::kDigestMismatch);
    wrong_end->leave();
    unchanged();
  }
  auto early = workers.open("k", text);
  workers.settle();
  early->send(kChunk);
  early->upload->end({digest_of(text), text.size()});
  EXPECT_EQ(early->status(), Status::kSizeMismatch);
  early->leave();
  unchanged();
}

TEST_P(Both, AClientMayGoFromWithinItsOwnAnswer) {
  Workers workers(setup_);
  for (const std::size_t size : {std::size_t{50}, std::size_t{kLarge}}) {
    auto put = workers.open("k", text_of(1, size));
    put->on_outcome = [&] { put->leave(); };
    workers.send_all(*put);
    workers.settle();
    EXPECT_TRUE(put->stored);
    workers.forget_in_l1("k");
    auto get = workers.get("k");
    get->on_outcome = [&] { get->leave(); };
    workers.settle();
    EXPECT_TRUE(get->meta || !GetParam());
  }
  auto spoilt = workers.open("k", text_of(2, kLarge));
  spoilt->on_outcome = [&] { spoilt->leave(); };
  workers.settle();
  spoilt->send(~std::size_t{0}, true);
  EXPECT_TRUE(spoilt->error);
}

TEST_P(Both, TooLargeRemovesTheOlderValueIfTheConditionHolds) {
  setup_.max_value_bytes = 4 * kChunk;
  const std::string large(setup_.max_value_bytes + 1, 'x');
  for (const bool size_known : {true, false}) {
    Workers workers(setup_);
    const auto old = workers.put("k", "old");
    EXPECT_EQ(workers.stream("k", large, {.if_absent = true}, size_known)->status(),
              Status::kValueTooLarge);
    EXPECT_EQ(
        workers.stream("k", large, {.if_version = old->stored->version + 1}, size_known)->status(),
        Status::kValueTooLarge);
    EXPECT_TRUE(workers.read("k")->bytes == "old");
    const auto put = workers.stream("k", large, {}, size_known);
    EXPECT_EQ(put->status(), Status::kValueTooLarge);
    EXPECT_NE(put->error->message.find("limits.max_value_bytes"), std::string::npos);
    EXPECT_NE(put->error->message.find(std::to_string(large.size())), std::string::npos);
    EXPECT_EQ(workers.read("k")->status(), Status::kNotFound);
    EXPECT_FALSE(workers.l2().manifests.contains("k"));
    // What is exactly as large as the limit is stored.
    EXPECT_TRUE(workers.stream("k", large.substr(1), {}, size_known)->stored);
  }
}

TEST(Put, TooLargeIsRetryableWhenTheOlderValueCannotBeRemoved) {
  ServiceSetup setup;
  setup.max_value_bytes = 4 * kChunk;
  Workers workers(setup);
  workers.put("k", "old");
  workers.store().fail_next(Step::kRemove, Status::kL2Timeout);
  const auto put = workers.stream("k", std::string(setup.max_value_bytes + 1, 'x'));
  EXPECT_EQ(put->status(), Status::kL2Timeout);
  EXPECT_TRUE(workers.read("k")->bytes == "old");
}

TEST(Put, NoneRefusesWhatCannotFitBeforeItsPayloadAndEvictsNothing) {
  Workers workers(without_l2());
  workers.put("other", text_of(1, 4 * kMiB));
  workers.put("k", "old");
  const auto put = workers.open("k", std::string(9 * kMiB, 'x'));
  EXPECT_EQ(put->status(), Status::kValueTooLarge);
  EXPECT_EQ(put->upload, nullptr);
  EXPECT_EQ(put->credit, 0u);
  EXPECT_NE(put->error->message.find("l1.max_bytes"), std::string::npos);
  EXPECT_TRUE(workers.in_l1("other"));
  EXPECT_FALSE(workers.in_l1("k"));
  EXPECT_EQ(workers.metrics().puts_rejected[base::status_index(Status::kValueTooLarge)].get(), 1u);
}

TEST(Put, NoneOfUnknownSizeGrowsByEvictingUpToTheWholeBudget) {
  Workers workers(without_l2());
  workers.put("other", text_of(1, 4 * kMiB));
  const auto fits = workers.stream("k", text_of(2, 7 * kMiB), {}, false);
  EXPECT_TRUE(fits->stored) << fits->error->message;
  EXPECT_FALSE(workers.in_l1("other"));
  EXPECT_TRUE(workers.read("k")->bytes == fits->text);
  const auto not_any_more = workers.stream("k", text_of(3, 9 * kMiB), {}, false);
  EXPECT_EQ(not_any_more->status(), Status::kValueTooLarge);
  EXPECT_FALSE(workers.in_l1("k"));
}

TEST(Put, NoneWithoutRoomNowIsRetryableAndLeavesTheOldValue) {
  Workers workers(without_l2());
  workers.put("k", "old");
  auto first = workers.open("a", text_of(1, 7 * kMiB));  // holds its room
  for (const bool size_known : {true, false}) {
    const auto second = workers.stream("k", text_of(2, 3 * kMiB), {}, size_known);
    EXPECT_EQ(second->status(), Status::kNoRoom);
    // Growing evicts, the key's own old value last.
    if (size_known) {
      EXPECT_TRUE(workers.read("k")->bytes == "old");
    } else {
      EXPECT_FALSE(workers.in_l1("k"));
    }
  }
  workers.send_all(*first);
  EXPECT_TRUE(first->stored);
}

TEST(Put, LargerThanL1IsStreamedPastItAndDropsTheOlderEntry) {
  Workers workers;
  workers.put("other", "x");
  workers.put("k", "old");
  const std::string text = text_of(1, 12 * kMiB);
  auto put = workers.open("k", text);
  workers.settle();
  put->send();
  EXPECT_TRUE(workers.in_l1("k"));  // until the commit
  EXPECT_LE(workers.ledger().transferring(), 4 * base::Chunk::allocated_for(kChunk));
  workers.send_all(*put);
  workers.settle();
  ASSERT_TRUE(put->stored) << put->error->message;
  EXPECT_EQ(put->stored->flags, proto::kInL2);
  EXPECT_FALSE(workers.in_l1("k"));
  EXPECT_TRUE(workers.in_l1("other"));
  EXPECT_EQ(workers.metrics().l1_bypassed.get(), 1u);
  EXPECT_TRUE(workers.read("k")->bytes == text);
  EXPECT_FALSE(workers.in_l1("k"));
}

TEST(Put, UnknownSizeBesideL2IsKeptUpToAnEighth) {
  Workers workers;
  EXPECT_EQ(workers.stream("k", text_of(1, 700 * kKiB), {}, false)->stored->flags,
            proto::kInL1 | proto::kInL2);
  EXPECT_EQ(workers.stream("k", text_of(2, 1200 * kKiB), {}, false)->stored->flags, proto::kInL2);
  EXPECT_TRUE(workers.read("k")->bytes == text_of(2, 1200 * kKiB));
}

TEST(Put, CreditNeverPassesTheMemoryThatL2sWritesLeave) {
  Workers workers;
  workers.store().pause(Step::kWrite, Point::kAfter);
  auto put = workers.open("k", text_of(1, 12 * kMiB));
  for (int turn = 0; turn < 50; ++turn) {
    workers.settle();
    put->send();
  }
  EXPECT_EQ(put->sent, 4u * kChunk);
  EXPECT_EQ(workers.ledger().transferring(), 4 * base::Chunk::allocated_for(kChunk));
  put->leave();
  workers.store().resume(Step::kWrite, Point::kAfter);
}

TEST(Put, WaitsForItsWindowHoldingNothing) {
  ServiceSetup setup;
  setup.transfer_bytes = 2 * base::Chunk::allocated_for(kChunk);
  Workers workers(setup);
  auto first = workers.open("a", text_of(1, 12 * kMiB));
  workers.settle();
  auto second = workers.open("b", text_of(2, 12 * kMiB));
  workers.settle();
  EXPECT_GT(first->credit, 0u);
  EXPECT_EQ(second->credit, 0u);
  EXPECT_EQ(workers.ledger().waiting(), 1u);
  first->leave();
  workers.settle();
  EXPECT_GT(second->credit, 0u);
  workers.send_all(*second);
  workers.settle();
  EXPECT_TRUE(second->stored);
}

// A turn that takes long must not gather small values that no account knows.
TEST(Put, StreamedSmallValuesAreAccountedWhileTheyWaitForTheirTurn) {
  constexpr std::size_t kSmall = 10 * kKiB;
  Workers workers;
  workers.store().pause(Step::kCommit, Point::kBefore);
  std::vector<std::unique_ptr<Putter>> putters;
  for (const bool size_known : {true, false, true, false}) {
    putters.push_back(workers.stream("k", text_of(1, kSmall), {}, size_known));
    EXPECT_FALSE(putters.back()->answered());
  }
  const std::uint64_t used = workers.ledger().transferring();
  EXPECT_EQ(used, putters.size() * kSmall);
  // Their clients need not stay for it.
  for (auto& putter : putters) putter->leave();
  EXPECT_EQ(workers.ledger().transferring(), used);
  workers.store().resume(Step::kCommit, Point::kBefore);
  workers.settle();
  EXPECT_TRUE(workers.read("k")->bytes == text_of(1, kSmall));
}

TEST(Put, InlineValuesThatWaitAreBoundedWithTheirMetadata) {
  const std::string metadata = "{\"a\":\"" + std::string(8 * kKiB, 'x') + "\"}";
  for (const std::string& each : {metadata, std::string()}) {
    Workers workers;
    workers.store().pause(Step::kCommit, Point::kBefore);
    std::vector<std::unique_ptr<Putter>> putters;
    // Each copy of key and metadata, and the write itself.
    const std::size_t cost = 3 * (1 + each.size()) + kKiB;
    const std::size_t most = ServiceSetup().l2_buffer_bytes / cost;
    for (std::size_t i = 0; i <= most; ++i) {
      putters.push_back(workers.put_inline("k", "", {.metadata = proto::as_bytes(each)}));
    }
    EXPECT_FALSE(putters[most - 1]->answered());
    EXPECT_EQ(workers.ledger().used(base::Account::kL2Buffers), most * cost);
    EXPECT_EQ(workers.ledger().transferring(), 0u);
    ASSERT_EQ(putters[most]->status(), Status::kNoRoom);
    EXPECT_NE(putters[most]->error->message.find(std::to_string(most * cost)), std::string::npos)
        << putters[most]->error->message;
    workers.store().resume(Step::kCommit, Point::kBefore);
    workers.settle();
    EXPECT_TRUE(putters[0]->stored);
    EXPECT_TRUE(workers.put("k", "")->stored);
  }
}

TEST(Put, AFailedChunkWriteFailsThePutAndReleasesItsChunks) {
  Workers workers;
  workers.put("k", "old");
  workers.store().fail_next(Step::kWrite, Status::kL2Timeout);
  const auto put = workers.stream("k", text_of(1, kLarge));
  EXPECT_EQ(put->status(), Status::kL2Timeout);
  put->leave();
  workers.settle();
  workers.advance(2ms);
  EXPECT_EQ(workers.l2().chunks_at(workers.loop().now()), 0u);
  EXPECT_TRUE(workers.read("k")->bytes == "old");
}

TEST(Put, AFailedRaiseIsNotAcknowledged) {
  Workers workers;
  workers.store().fail_next(Step::kExpire, Status::kL2Timeout);
  EXPECT_EQ(workers.put("k", text_of(1, kLarge))->status(), Status::kOutcomeUnknown);
  EXPECT_TRUE(workers.read("k")->bytes == text_of(1, kLarge));
  // It was tried again.
  workers.advance(20min);
  workers.forget_in_l1("k");
  EXPECT_TRUE(workers.read("k")->bytes == text_of(1, kLarge));
}

TEST(Put, ChunksThatL2LostBeforeTheCommitAreNotAcknowledged) {
  Workers workers;
  workers.store().pause(Step::kCommit, Point::kBefore);
  auto put = workers.open("k", text_of(1, kLarge));
  workers.send_all(*put);
  workers.settle();
  workers.l2().chunks.erase(workers.l2().chunks.begin());
  workers.store().resume(Step::kCommit, Point::kBefore);
  workers.settle();
  EXPECT_EQ(put->status(), Status::kValueLost);
  EXPECT_EQ(workers.read("k")->status(), Status::kNotFound);
}

TEST(Put, ChunksOfASlowUploadAreRenewedAndReplacedOnesReleased) {
  Workers workers;
  ASSERT_TRUE(workers.put("k", text_of(1, kLarge))->stored);
  auto put = workers.open("k", text_of(2, kLarge));
  workers.settle();
  put->send(2 * kChunk);
  for (int i = 0; i < 30; ++i) workers.advance(1min);
  workers.send_all(*put);
  workers.settle();
  ASSERT_TRUE(put->stored) << put->error->message;
  EXPECT_EQ(workers.l2().chunks_at(workers.loop().now()), 12u);
  workers.advance(61s);  // the grace
  EXPECT_EQ(workers.l2().chunks_at(workers.loop().now()), 6u);
  EXPECT_EQ(workers.remove("k"), Status::kOk);
  workers.advance(61s);
  EXPECT_EQ(workers.l2().chunks_at(workers.loop().now()), 0u);
}

}  // namespace
}  // namespace cistern::testing
