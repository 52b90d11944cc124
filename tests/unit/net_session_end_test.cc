// What comes at once, and what is left when the client stops sending or taking: over TCP and over
// the unix socket. The worker is held while bytes and the end pile up, so that it finds them
// together.
#include <filesystem>
#include <future>

#include <gtest/gtest.h>

#include "tests/unit/net_fixture.h"

namespace cistern::net {
namespace {

class SessionEndTest : public ServerTest, public ::testing::WithParamInterface<const char*> {
 protected:
  SessionEndTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "session.XXXXXX").string();
    dir_ = ::mkdtemp(pattern.data());
    options_.workers = 1;
    if (is_unix()) options_.listen = {proto::Endpoint::unix_socket((dir_ / "socket").string())};
    options_.session.stats_json = [this] {
      reached_.set_value();
      released_.get_future().wait_for(20s);
      return std::string("{}");
    };
  }
  ~SessionEndTest() override {
    server_.reset();
    std::filesystem::remove_all(dir_);
  }
  static bool is_unix() { return std::string_view(GetParam()) == "unix"; }

  // Until release(), the worker does nothing.
  void hold(const RawClient& by) {
    by.key_request(1, Type::kStats, "");
    ASSERT_EQ(reached_.get_future().wait_for(20s), std::future_status::ready);
  }
  void release() { released_.set_value(); }

  static void add_put(Out& out, std::uint32_t id, std::string_view key, Bytes value) {
    proto::PutRequest put;
    put.key = proto::as_bytes(key);
    put.size = value.size();
    put.is_inline = true;
    put.inline_bytes = value;
    put.inline_digest =
        proto::ValueHasher::of_single(proto::chunk_digest(value), kChunk, value.size());
    proto::encode(out, id, put);
  }

 private:
  std::filesystem::path dir_;
  std::promise<void> reached_;
  std::promise<void> released_;
};

INSTANTIATE_TEST_SUITE_P(Over, SessionEndTest, ::testing::Values("tcp", "unix"),
                         [](const auto& each) { return std::string(each.param); });

// A client that shuts its sending side has closed; what came before that is done.
TEST_P(SessionEndTest, WhatWasSentBeforeTheEndIsDone) {
  start();
  RawClient other = greeted();
  RawClient client = greeted();
  hold(other);
  const auto value = some_bytes(100);
  Out puts;
  for (std::uint32_t id = 1; id <= 100; ++id) add_put(puts, id, std::to_string(id), value);
  client.send(puts);
  ::shutdown(client.fd(), SHUT_WR);
  release();
  EXPECT_TRUE(eventually([&] { return closes(CloseReason::kPeerClosed) == 1; }));
  EXPECT_EQ(requests(base::Op::kPut, Status::kOk), 100u);
  EXPECT_TRUE(client.ended());
}

TEST_P(SessionEndTest, AnEndThatComesLaterIsSeen) {
  start();
  RawClient client = greeted();
  client.plain(1, Type::kPing);
  ASSERT_TRUE(client.receive());
  ::shutdown(client.fd(), SHUT_WR);
  EXPECT_TRUE(client.ended());
  EXPECT_TRUE(eventually([&] { return closes(CloseReason::kPeerClosed) == 1; }));
}

TEST_P(SessionEndTest, AClientThatIsGoneIsLetGo) {
  start();
  RawClient other = greeted();
  RawClient client = greeted();
  hold(other);
  Out puts;
  add_put(puts, 1, "k", some_bytes(100));
  client.send(puts);
  client.close();
  release();
  EXPECT_TRUE(eventually(
      [&] { return closes(CloseReason::kPeerClosed) + closes(CloseReason::kPeerFailed) == 1; }));
  EXPECT_EQ(requests(base::Op::kPut, Status::kOk), 1u);
}

// More than a turn reads, all there before the first turn: no event comes for the rest.
TEST_P(SessionEndTest, ReadsOnWhereATurnEnded) {
  start();
  RawClient other = greeted();
  RawClient client = greeted();
  const int large = 2 << 20;
  ::setsockopt(client.fd(), SOL_SOCKET, SO_SNDBUF, &large, sizeof large);
  hold(other);
  Out credits;
  while (credits.size() < 600 * 1024) proto::encode_credit(credits, 77, 1);  // of nothing: ignored
  proto::encode_plain(credits, 5, Type::kPing, {});
  client.send(credits);
  release();
  const auto pong = client.receive();
  ASSERT_TRUE(pong);
  EXPECT_EQ(pong->type(), Type::kPong);
}

// The answers fill the socket, reading stops, the requests fill it the other way; then the client
// takes them.
TEST_P(SessionEndTest, GoesOnWhenTheClientTakesItsAnswers) {
  start();
  release();
  RawClient client = greeted();
  const int small = 64 * 1024;
  ::setsockopt(client.fd(), SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
  ::setsockopt(client.fd(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  ASSERT_EQ(client.put(1, "k", some_bytes(1000), kChunk)->type(), Type::kStored);
  Out get;
  proto::GetRequest request;
  request.key = proto::as_bytes("k");
  request.credit_bytes = 4096;
  proto::encode(get, 2, request);
  Out all;
  for (std::size_t i = 0; i < 40'000; ++i) all.insert(all.end(), get.begin(), get.end());
  Bytes left = all;
  const auto send_some = [&](std::chrono::milliseconds patience) {
    while (!left.empty()) {
      pollfd wait{client.fd(), POLLOUT, 0};
      if (::poll(&wait, 1, static_cast<int>(patience.count())) <= 0) return;
      const ssize_t sent =
          ::send(client.fd(), left.data(), left.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent > 0) left = left.subspan(static_cast<std::size_t>(sent));
    }
  };
  send_some(100ms);
  ASSERT_FALSE(left.empty());  // stopped
  for (std::size_t answers = 0; answers < 40'000; ++answers) {
    const auto answer = client.receive();
    ASSERT_TRUE(answer) << answers;
    ASSERT_EQ(answer->type(), Type::kValue);
    send_some(0ms);
  }
}

// Closing a socket with unread bytes resets it, and the reset would overtake the error.
TEST_P(SessionEndTest, TheLastErrorArrivesBeforeUnreadBytesAreDropped) {
  start();
  RawClient other = greeted();
  RawClient client = greeted();
  hold(other);
  Out bytes;
  proto::encode_plain(bytes, 0, Type::kPing, {});  // out of place
  bytes.resize(150 * 1024);
  client.send(bytes);
  release();
  const auto error = client.receive();
  ASSERT_TRUE(error);
  EXPECT_EQ(error->type(), Type::kError);
  EXPECT_EQ(error->id(), 0u);
  EXPECT_EQ(error->status(), Status::kProtocolError);
  char byte = 0;
  EXPECT_EQ(::recv(client.fd(), &byte, 1, 0), 0) << errno;  // an end, no reset
}

}  // namespace
}  // namespace cistern::net
