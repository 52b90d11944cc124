// Sessions while others have all the memory of connections: what each has in any case is enough for
// all that it asks for, one after the other.
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/net_fixture.h"

namespace cistern::net {
namespace {

class ShortOfMemory : public ServerTest {
 protected:
  void SetUp() override {
    options_.workers = 1;
    options_.session.stats_json = [this] { return statistics_; };
    start();
    client_.emplace(greeted());
    ASSERT_EQ(client_->put(1, "large", large_, kChunk)->type(), Type::kStored);
    ASSERT_EQ(client_->put(1, "small", some_bytes(2000), kChunk)->type(), Type::kStored);
    // Till then it has more than it needs.
    ASSERT_TRUE(eventually([&] { return used() == kConnectionBytes; }));
    const std::uint64_t free = ledger_->budgets().connections - used();
    others_ = ledger_->try_reserve(base::Account::kConnections, free);
    ASSERT_TRUE(others_);
  }

  std::uint64_t used() const { return ledger_->used(base::Account::kConnections); }

  void expect_large_values(std::uint32_t count) {
    for (std::uint32_t id = 1; id <= count; ++id) client_->get(id, "large");
    for (std::uint32_t i = 0; i < count; ++i) {
      const auto answer = client_->receive();
      ASSERT_TRUE(answer) << i;
      ASSERT_EQ(answer->type(), Type::kValue) << i << ": " << answer->text();
    }
  }

  const std::vector<std::byte> large_ = some_bytes(proto::kMaxInlineBytes);
  std::string statistics_ = "{}";
  std::optional<RawClient> client_;
  base::Reservation others_;
};

TEST_F(ShortOfMemory, AnswersValuesInTurn) {
  expect_large_values(100);
  EXPECT_EQ(client_->put(1, "other", some_bytes(8000), kChunk)->type(), Type::kStored);
  // Its bytes may have to wait for the second tier.
  EXPECT_EQ(client_->put(2, "other", large_, kChunk)->status(), Status::kNoRoom);
}

// It waits for those that are owed, and reads on. (All requests fit the kernel's buffer: one that
// is full loses the peer's acknowledgements together with what it has no room for.)
TEST_F(ShortOfMemory, AnswersEachOfALongPipelineThatIsNotRead) {
  expect_large_values(4);
  constexpr std::uint32_t kRequests = 1500;
  const std::uint64_t before = requests(base::Op::kGet, Status::kOk);
  Out all;
  for (std::uint32_t id = 1; id <= kRequests; ++id) {
    proto::GetRequest get;
    get.key = proto::as_bytes("small");
    get.credit_bytes = 1 << 20;
    proto::encode(all, id, get);
  }
  ASSERT_GT(all.size(), kFramesBytes);
  client_->send(all);
  // The client takes nothing, so the answers come to an end, long before all are given.
  std::uint64_t given = 0;
  EXPECT_TRUE(eventually([&] {
    const std::uint64_t last = std::exchange(given, requests(base::Op::kGet, Status::kOk));
    return given > before && given == last;
  }));
  EXPECT_LT(given - before, kRequests);
  for (std::uint32_t i = 0; i < kRequests; ++i) {
    const auto answer = client_->receive();
    ASSERT_TRUE(answer) << i;
    ASSERT_EQ(answer->type(), Type::kValue) << i << ": " << answer->text();
  }
}

TEST_F(ShortOfMemory, SaysSoOfAnAnswerThatIsTooLarge) {
  statistics_ = std::string(60'000, ' ');
  client_->key_request(1, Type::kStats, "");
  const auto answer = client_->receive();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->id(), 1u);
  EXPECT_EQ(answer->status(), Status::kNoRoom);
  others_.release();
  client_->key_request(2, Type::kStats, "");
  EXPECT_EQ(client_->receive()->type(), Type::kStatsResult);
}

TEST_F(ShortOfMemory, SaysWhyItClosesWhoSendsMoreThanItCanKeep) {
  const std::vector<std::byte> part = some_bytes(50'000);
  Out head;
  proto::encode_plain(head, 1, Type::kPut, part);
  head.resize(head.size() - 1);  // all but the end
  client_->send(head);
  const auto error = client_->receive();
  ASSERT_TRUE(error);
  EXPECT_EQ(error->type(), Type::kError);
  EXPECT_EQ(error->id(), 0u);
  EXPECT_EQ(error->status(), Status::kNoRoom);
  EXPECT_NE(error->text().find("memory.limit"), std::string::npos);
  EXPECT_TRUE(client_->ended());
  EXPECT_TRUE(eventually([&] { return closes(CloseReason::kNoMemory) == 1; }));
}

TEST_F(ShortOfMemory, TurnsNewcomersAway) {
  RawClient other = connect();
  const auto refusal = other.receive();
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->status(), Status::kTooManyConnections);
  others_.release();
  EXPECT_TRUE(connect().hello());
}

TEST_F(ShortOfMemory, GivesBackAllButWhatAConnectionHasAnyway) {
  others_.release();
  expect_large_values(100);
  EXPECT_TRUE(eventually([&] { return used() == kConnectionBytes; }));
}

}  // namespace
}  // namespace cistern::net
