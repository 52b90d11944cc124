// The server over real sockets: what a client sees of requests, streams, limits and the end.
#include <gtest/gtest.h>

#include "tests/unit/net_fixture.h"

namespace cistern::net {
namespace {

TEST_F(ServerTest, GreetsWithItsLimits) {
  start();
  RawClient client = connect();
  const auto welcome = client.hello();
  ASSERT_TRUE(welcome);
  EXPECT_EQ(welcome->version, proto::kProtocolVersion);
  EXPECT_EQ(welcome->max_value_bytes, 64 * proto::kMiB);
  EXPECT_EQ(welcome->chunk_bytes, kChunk);
  EXPECT_EQ(welcome->max_streams, 128u);
  EXPECT_EQ(welcome->name, "cisternd/test");
}

TEST_F(ServerTest, StoresAndReturnsSmallValuesInOneFrame) {
  start();
  RawClient client = connect();
  ASSERT_TRUE(client.hello());
  const auto value = some_bytes(100);
  const auto stored = client.put(1, "k", value, kChunk);
  ASSERT_TRUE(stored);
  ASSERT_EQ(stored->type(), Type::kStored) << stored->text();

  client.get(2, "k");
  const auto answer = client.receive();
  ASSERT_TRUE(answer);
  ASSERT_EQ(answer->type(), Type::kValue);
  EXPECT_EQ(answer->id(), 2u);
  const auto head = proto::decode_value(answer->payload);
  ASSERT_TRUE(head);
  EXPECT_TRUE((head->flags & proto::kValueInline) != 0);
  EXPECT_TRUE(std::ranges::equal(head->inline_bytes, value));
  EXPECT_EQ(head->inline_digest,
            proto::ValueHasher::of_single(proto::chunk_digest(value), kChunk, value.size()));
  EXPECT_EQ(requests(base::Op::kGet, Status::kOk), 1u);
  EXPECT_EQ(requests(base::Op::kPut, Status::kOk), 1u);
  EXPECT_EQ(open_streams(), 0);
}

TEST_F(ServerTest, AnswersWhatIsNotThere) {
  start();
  RawClient client = connect();
  ASSERT_TRUE(client.hello());
  client.get(1, "nothing");
  const auto answer = client.receive();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->type(), Type::kError);
  EXPECT_EQ(answer->status(), Status::kNotFound);
  EXPECT_EQ(requests(base::Op::kGet, Status::kNotFound), 1u);
}

TEST_F(ServerTest, DeletesTouchesAndDescribes) {
  start();
  RawClient client = greeted();
  ASSERT_EQ(client.put(1, "k", some_bytes(10), kChunk)->type(), Type::kStored);
  proto::TouchRequest touch;
  touch.key = proto::as_bytes("k");
  touch.ttl_ms = 60'000;
  client.request(2, touch);
  EXPECT_EQ(client.receive()->type(), Type::kDone);
  client.key_request(3, Type::kStat, "k");
  const auto info = client.receive();
  ASSERT_TRUE(info && info->type() == Type::kInfo);
  EXPECT_EQ(proto::decode_info(info->payload)->size, 10u);
  EXPECT_GT(proto::decode_info(info->payload)->expires_at_ms, 0u);
  client.key_request(4, Type::kDelete, "k");
  EXPECT_EQ(client.receive()->type(), Type::kDone);
  client.key_request(5, Type::kStat, "k");
  EXPECT_EQ(client.receive()->status(), Status::kNotFound);
  client.key_request(6, Type::kStats, "");
  const auto stats = client.receive();
  ASSERT_TRUE(stats && stats->type() == Type::kStatsResult);
  EXPECT_EQ(stats->text(), R"({"answer":42})");
}

TEST_F(ServerTest, ExplainsKeys) {
  start();
  RawClient client = connect();
  Out hello;
  proto::encode(hello, proto::Hello{.features = proto::kFeatureExplain});
  client.send(hello);
  ASSERT_EQ(client.receive()->type(), Type::kWelcome);
  ASSERT_EQ(client.put(1, "k", some_bytes(10), kChunk)->type(), Type::kStored);
  client.key_request(2, Type::kExplain, "k");
  const auto there = client.receive();
  ASSERT_TRUE(there && there->type() == Type::kExplanation);
  EXPECT_NE(there->text().find(R"("resident":true)"), std::string::npos) << there->text();
  client.key_request(3, Type::kExplain, "none");
  const auto absent = client.receive();
  ASSERT_TRUE(absent && absent->type() == Type::kExplanation);
  EXPECT_NE(absent->text().find(R"("resident":false)"), std::string::npos) << absent->text();
  EXPECT_EQ(requests(base::Op::kExplain, Status::kOk), 2u);

  RawClient older = greeted();
  older.key_request(1, Type::kExplain, "k");
  EXPECT_EQ(older.receive()->status(), Status::kUnsupported);
  EXPECT_EQ(requests(base::Op::kExplain, Status::kUnsupported), 1u);
}

// One read and one write serve a whole batch.
TEST_F(ServerTest, AnswersPipelinedRequestsTogether) {
  start();
  RawClient client = greeted();
  ASSERT_EQ(client.put(1, "k", some_bytes(100), kChunk)->type(), Type::kStored);
  Out gets;
  for (std::uint32_t id = 1; id <= 100; ++id) {
    proto::GetRequest get;
    get.key = proto::as_bytes("k");
    get.credit_bytes = 1000;
    proto::encode(gets, id, get);
  }
  client.send(gets);
  std::vector<std::byte> answers(1 << 20);
  std::size_t have = 0;
  std::size_t reads = 0;
  std::size_t frame_bytes = 0;
  while (frame_bytes == 0 || have < 100 * frame_bytes) {
    const ssize_t got = ::recv(client.fd(), answers.data() + have, answers.size() - have, 0);
    ASSERT_GT(got, 0);
    have += static_cast<std::size_t>(got);
    ++reads;
    frame_bytes = proto::kHeaderBytes + proto::decode_header(answers.data()).length;
  }
  EXPECT_EQ(have, 100 * frame_bytes);
  EXPECT_LE(reads, 4u);
}

TEST_F(ServerTest, BoundsTheStreamsOfAConnection) {
  options_.session.limits.max_streams = 2;
  start();
  RawClient client = greeted();
  for (std::uint32_t id = 1; id <= 3; ++id) {
    proto::PutRequest put;
    const std::string key = "k" + std::to_string(id);
    put.key = proto::as_bytes(key);
    put.size = 100'000;
    client.request(id, put);
  }
  std::vector<Status> refused;
  for (int i = 0; i < 3; ++i) {
    const auto frame = client.receive();
    ASSERT_TRUE(frame);
    if (frame->type() == Type::kError) refused.push_back(frame->status());
  }
  EXPECT_EQ(refused, std::vector{Status::kTooManyStreams});
  EXPECT_EQ(requests(base::Op::kPut, Status::kTooManyStreams), 1u);
  client.plain(9, Type::kPing);
  EXPECT_EQ(client.receive()->type(), Type::kPong);
  EXPECT_EQ(requests(base::Op::kPing, Status::kOk), 1u);
}

TEST_F(ServerTest, TellsTheConnectionThatIsOneTooMany) {
  options_.max_connections = 2;
  start();
  RawClient first = greeted();
  RawClient second = greeted();
  RawClient third = connect();
  Out hello;
  proto::encode(hello, proto::Hello{.name = "third"});
  third.send(hello);
  const auto frame = third.receive();
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->type(), Type::kError);
  EXPECT_EQ(frame->id(), 0u);
  EXPECT_EQ(frame->status(), Status::kTooManyConnections);
  EXPECT_NE(frame->text().find("limits.max_connections is 2"), std::string::npos);
  EXPECT_TRUE(third.ended(2s));
  // There is room again once one has left.
  first.close();
  EXPECT_TRUE(eventually([&] { return server_->connections() == 1; }));
  RawClient fourth = connect();
  EXPECT_TRUE(fourth.hello());
}

TEST_F(ServerTest, RefusesConnectionsThatMemoryHasNoRoomFor) {
  budgets_.connections = account_bytes(1) + kConnectionBytes / 2;
  start();
  RawClient first = greeted();
  RawClient second = connect();
  const auto frame = second.receive();
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->status(), Status::kTooManyConnections);
  EXPECT_NE(frame->text().find("memory.limit"), std::string::npos);
  // The first one still serves.
  EXPECT_EQ(first.put(1, "k", some_bytes(100), kChunk)->type(), Type::kStored);
}

TEST_F(ServerTest, SpreadsConnectionsOverTheWorkers) {
  start();
  std::vector<RawClient> clients;
  for (int i = 0; i < 6; ++i) clients.push_back(greeted());
  for (const auto& worker : server_->workers()) EXPECT_EQ(worker->connections(), 3u);
}

TEST_F(ServerTest, TellsAnHttpClientThatItIsWrong) {
  start();
  RawClient client = connect();
  client.send(proto::as_bytes("GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n"));
  const auto frame = client.receive();
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->type(), Type::kError);
  EXPECT_EQ(frame->id(), 0u);
  EXPECT_EQ(frame->status(), Status::kProtocolError);
  EXPECT_TRUE(client.ended(2s));
  EXPECT_TRUE(eventually([&] { return closes(CloseReason::kProtocolError) == 1; }));
}

TEST_F(ServerTest, ClosesWhoDoesNotGreet) {
  options_.session.request_timeout = 100ms;
  start();
  RawClient client = connect();
  client.send(proto::as_bytes("\x1"));
  EXPECT_TRUE(client.ended(5s));
  EXPECT_TRUE(eventually([&] { return closes(CloseReason::kHelloTimeout) == 1; }));
}

TEST_F(ServerTest, AsksIdleConnectionsToLeave) {
  options_.session.idle_timeout = 100ms;
  start();
  RawClient client = greeted();
  const auto frame = client.receive();
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->type(), Type::kGoaway);
  EXPECT_NE(frame->text().find("limits.idle_timeout"), std::string::npos);
  // A request that was on its way is refused, not lost.
  client.get(1, "k");
  const auto answer = client.receive();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->type(), Type::kError);
  EXPECT_EQ(answer->id(), 1u);
  EXPECT_TRUE(client.ended(5s));
  EXPECT_TRUE(eventually([&] { return closes(CloseReason::kIdle) == 1; }));
}

TEST_F(ServerTest, DrainsWhatIsOpenAndRefusesWhatIsNew) {
  start();
  RawClient client = greeted();
  const auto value = some_bytes(100'000);
  proto::PutRequest put;
  put.key = proto::as_bytes("k");
  put.size = value.size();
  client.request(1, put);
  EXPECT_TRUE(eventually([&] { return open_streams() == 1; }));
  const proto::Endpoint endpoint = server_->endpoints().front();

  std::thread drain([&] { server_->drain(20s); });
  const auto credit = client.receive();
  ASSERT_TRUE(credit && credit->type() == Type::kCredit);
  const auto goaway = client.receive();
  ASSERT_TRUE(goaway && goaway->type() == Type::kGoaway);
  EXPECT_EQ(goaway->status(), Status::kShuttingDown);
  EXPECT_FALSE(RawClient(endpoint).connected());
  client.get(2, "k");
  EXPECT_EQ(client.receive()->status(), Status::kShuttingDown);

  // The upload that was open may finish: its credit covers it.
  ASSERT_GE(*proto::decode_credit(credit->payload), value.size());
  Out frames;
  proto::ValueHasher hasher;
  for (std::size_t at = 0; at < value.size(); at += kChunk) {
    const Bytes chunk = Bytes(value).subspan(at, std::min<std::size_t>(kChunk, value.size() - at));
    hasher.add(proto::chunk_digest(chunk));
    proto::encode_data_head(frames, 1, chunk.size(), proto::chunk_digest(chunk));
    frames.insert(frames.end(), chunk.begin(), chunk.end());
  }
  proto::encode(frames, 1, proto::End{hasher.finish(kChunk, value.size()), value.size()});
  client.send(frames);
  std::optional<Frame> answer = client.receive();
  while (answer && answer->type() == Type::kCredit) answer = client.receive();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->type(), Type::kStored);
  client.close();
  drain.join();
  EXPECT_EQ(closes(CloseReason::kDrainCut), 0u);
  EXPECT_EQ(server_->connections(), 0u);
}

TEST_F(ServerTest, CutsWhatOutlivesTheDrain) {
  start();
  RawClient client = greeted();
  proto::PutRequest put;
  put.key = proto::as_bytes("k");
  put.size = 200'000;
  client.request(1, put);
  EXPECT_TRUE(eventually([&] { return open_streams() == 1; }));
  const auto began = std::chrono::steady_clock::now();
  server_->drain(100ms);
  EXPECT_LT(std::chrono::steady_clock::now() - began, 5s);
  EXPECT_EQ(closes(CloseReason::kDrainCut), 1u);
  EXPECT_EQ(open_streams(), 0);
}

}  // namespace
}  // namespace cistern::net
