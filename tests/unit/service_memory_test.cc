// The ledger at the limit where one transfer fits and no second.
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/service_fixture.h"

namespace cistern::testing {
namespace {

constexpr std::size_t kPastL1 = 12 * kMiB;

ServiceSetup for_one_transfer() {
  ServiceSetup setup;
  setup.transfer_bytes = 2 * base::Chunk::allocated_for(kChunk);  // the least window there is
  return setup;
}

// What is under way, turned until all have their answer; in which order they had it.
class Crowd {
 public:
  explicit Crowd(Workers& workers) : workers_(workers) {}

  void put(const std::string& key, const std::string& text) {
    puts_.push_back({key, workers_.open(key, text)});
  }
  void get(const std::string& key) { gets_.push_back({key, workers_.get(key)}); }

  std::vector<std::string> run() {
    std::vector<std::string> order;
    for (int turn = 0; turn < 10'000 && order.size() < puts_.size() + gets_.size(); ++turn) {
      workers_.settle();
      unsigned moving = 0;
      for (auto& [key, put] : puts_) {
        if (!put->answered() && !put->ended && !put->send() && put->sent == put->text.size()) {
          put->end();
        }
        moving += put->sent > 0 && put->sent < put->text.size() ? 1 : 0;
        note(order, "put " + key, put->answered());
      }
      for (auto& [key, get] : gets_) {
        get->pull();
        get->sent();
        moving += !get->bytes.empty() && !get->ended ? 1 : 0;
        note(order, "get " + key, get->ended || get->error);
      }
      EXPECT_LE(moving, 1u) << "in turn " << turn;
    }
    return order;
  }
  const Putter& putter(std::size_t i) const { return *puts_[i].second; }
  const Getter& getter(std::size_t i) const { return *gets_[i].second; }

 private:
  static void note(std::vector<std::string>& order, const std::string& what, bool is_over) {
    if (is_over && std::ranges::find(order, what) == order.end()) order.push_back(what);
  }

  Workers& workers_;
  std::vector<std::pair<std::string, std::unique_ptr<Putter>>> puts_;
  std::vector<std::pair<std::string, std::unique_ptr<Getter>>> gets_;
};

TEST(OneTransferAtATime, AllFinishOneAfterTheOther) {
  Workers workers(for_one_transfer());
  ASSERT_TRUE(workers.put("a", text_of(1, kPastL1))->stored);
  ASSERT_TRUE(workers.put("b", text_of(2, kPastL1))->stored);
  Crowd crowd(workers);
  crowd.put("c", text_of(3, kPastL1));
  crowd.put("d", text_of(4, kPastL1));
  crowd.get("a");
  crowd.get("b");
  EXPECT_EQ(crowd.run(), (std::vector<std::string>{"put c", "put d", "get a", "get b"}));
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(crowd.putter(i).stored);
    EXPECT_TRUE(crowd.getter(i).bytes == text_of(i + 1, kPastL1));
  }
  EXPECT_EQ(workers.ledger().waiting(), 0u);
  EXPECT_GE(workers.ledger().waits_total(), 3u);
  EXPECT_TRUE(workers.read("c")->bytes == text_of(3, kPastL1));
  EXPECT_TRUE(workers.read("d")->bytes == text_of(4, kPastL1));
  // And nothing is left in any account: ~Workers looks.
}

TEST(OneTransferAtATime, ThatWhichLeavesTheQueueLetsTheNextBy) {
  Workers workers(for_one_transfer());
  ASSERT_TRUE(workers.put("a", text_of(1, kPastL1))->stored);
  auto first = workers.open("b", text_of(2, kPastL1));
  auto second = workers.open("c", text_of(3, kPastL1));
  const auto third = workers.get("a");
  workers.settle();
  EXPECT_EQ(workers.ledger().waiting(), 2u);
  second->leave();
  first->leave();
  workers.finish(*third);
  EXPECT_TRUE(third->bytes == text_of(1, kPastL1));
}

// "Try again" would never help.
TEST(TransferTooLarge, AnUploadIsRefusedForEver) {
  ServiceSetup setup = for_one_transfer();
  setup.transfer_bytes -= 1;
  Workers workers(setup);
  const auto put = workers.open("k", text_of(1, kPastL1));
  workers.settle();
  ASSERT_EQ(put->status(), Status::kTransferTooLarge);
  EXPECT_FALSE(proto::is_retryable(put->status()));
  EXPECT_EQ(put->credit, 0u);
  for (const std::string& part : {std::to_string(setup.transfer_bytes), std::string("memory.limit"),
                                  std::string("storage.chunk_bytes")}) {
    EXPECT_NE(put->error->message.find(part), std::string::npos) << put->error->message;
  }
}

}  // namespace
}  // namespace cistern::testing
