// The sessions' epoll set over pairs of sockets: what it says, when, and to whom.
#include <sys/socket.h>

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include <gtest/gtest.h>

#include "server/net/readiness.h"

namespace cistern::net {
namespace {

using namespace std::chrono_literals;

// A socket in the set, its other end, and what was said of it.
struct Watched final : Readiness::Watcher {
  explicit Watched(Readiness& of) : readiness(of) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0) {
      throw std::system_error(errno, std::generic_category(), "socketpair");
    }
    ours.reset(ends[0]);
    theirs.reset(ends[1]);
    id = readiness.add(ours.get(), *this);
    is_in = true;
  }
  ~Watched() override { remove(); }
  void remove() {
    if (std::exchange(is_in, false)) readiness.remove(id, ours.get());
  }
  void on_ready(const Readiness::Events& events) override {
    EXPECT_TRUE(is_in);
    ++calls;
    readable += events.readable ? 1 : 0;
    last = events;
    if (then) then();
  }
  void say(std::string_view text = "x") const {
    EXPECT_EQ(::send(theirs.get(), text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }
  ssize_t take(std::size_t bytes) const {
    std::string into(bytes, '\0');
    return ::recv(ours.get(), into.data(), bytes, 0);
  }

  Readiness& readiness;
  UniqueFd ours, theirs;
  Readiness::Id id{};
  bool is_in = false;
  int calls = 0;
  int readable = 0;
  Readiness::Events last;
  std::function<void()> then;
};

class ReadinessTest : public ::testing::Test {
 protected:
  using Socket = std::unique_ptr<Watched>;

  // In the set, and told that it can be written, as every new one is.
  Socket watched() {
    auto socket = std::make_unique<Watched>(readiness_);
    EXPECT_TRUE(until([&] { return socket->calls == 1; }));
    EXPECT_TRUE(socket->last.writable);
    EXPECT_FALSE(socket->last.readable);
    return socket;
  }
  bool until(const std::function<bool()>& holds) {
    for (int turns = 0; turns < 10'000 && !holds(); ++turns) {
      if (loop_.context().run_one_for(10s) == 0) return false;
    }
    return holds();
  }
  // What was ready before this is called has been said when it returns.
  void settle() {
    const Socket last = watched();
    last->say();
    EXPECT_TRUE(until([&] { return last->readable == 1; }));
  }

  AsioLoop loop_;
  Readiness readiness_{loop_};
};

TEST_F(ReadinessTest, SaysWhatWasReadyBeforeItWasAdded) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
  const UniqueFd ours(ends[0]), theirs(ends[1]);
  ASSERT_EQ(::send(theirs.get(), "x", 1, 0), 1);
  struct Once final : Readiness::Watcher {
    void on_ready(const Readiness::Events& events) override { readable |= events.readable; }
    bool readable = false;
  } watcher;
  const Readiness::Id id = readiness_.add(ours.get(), watcher);
  EXPECT_TRUE(until([&] { return watcher.readable; }));
  readiness_.remove(id, ours.get());
}

TEST_F(ReadinessTest, SaysOnceForEachChange) {
  const Socket socket = watched();
  socket->say("abc");
  EXPECT_TRUE(until([&] { return socket->readable == 1; }));
  settle();
  EXPECT_EQ(socket->readable, 1);  // it still is, and isn't said again
  EXPECT_EQ(socket->take(2), 2);
  settle();
  EXPECT_EQ(socket->readable, 1);
  socket->say();
  EXPECT_TRUE(until([&] { return socket->readable == 2; }));
  EXPECT_EQ(socket->take(10), 2);
}

TEST_F(ReadinessTest, SaysThatTheSocketIsWritableAgain) {
  const Socket socket = watched();
  const std::string block(64 * 1024, 'x');
  int sent = 0;
  while (sent < 1000 && ::send(socket->ours.get(), block.data(), block.size(), 0) > 0) ++sent;
  ASSERT_EQ(errno, EAGAIN);
  const int before = socket->calls;
  settle();
  EXPECT_EQ(socket->calls, before);
  std::string into(1 << 20, '\0');
  while (::recv(socket->theirs.get(), into.data(), into.size(), 0) > 0) {
  }
  EXPECT_TRUE(until([&] { return socket->calls > before && socket->last.writable; }));
  EXPECT_FALSE(socket->last.readable);
}

TEST_F(ReadinessTest, TellsAnEndFromABreak) {
  const Socket half = watched();
  half->say("abc");
  ::shutdown(half->theirs.get(), SHUT_WR);
  EXPECT_TRUE(until([&] { return half->last.ended; }));
  EXPECT_TRUE(half->last.readable);
  EXPECT_FALSE(half->last.broken);
  EXPECT_EQ(half->take(10), 3);  // short, and the end stands behind it
  EXPECT_EQ(half->take(10), 0);

  const Socket closed = watched();
  closed->theirs.reset();
  EXPECT_TRUE(until([&] { return closed->last.broken; }));
  EXPECT_TRUE(closed->last.ended);
}

TEST_F(ReadinessTest, AnEndAfterTheReadIsSaid) {
  const Socket socket = watched();
  socket->say();
  EXPECT_TRUE(until([&] { return socket->readable == 1; }));
  EXPECT_FALSE(socket->last.ended);
  EXPECT_EQ(socket->take(10), 1);
  ::shutdown(socket->theirs.get(), SHUT_WR);
  EXPECT_TRUE(until([&] { return socket->last.ended; }));
}

// ---------------------------------------------------------------------------------------- Removal

TEST_F(ReadinessTest, OneMayRemoveAnotherOfItsBatch) {
  std::array<Socket, 2> pair{watched(), watched()};
  for (std::size_t i = 0; i < 2; ++i) {
    pair[i]->then = [&pair, i] { pair[1 - i]->remove(); };
    pair[i]->say();
  }
  settle();
  EXPECT_EQ(pair[0]->readable + pair[1]->readable, 1);
}

// The place of one that was removed is given again within the batch: what was seen of the old one
// isn't told to the new one.
TEST_F(ReadinessTest, ANewOneDoesNotInheritWhatWasSeen) {
  std::array<Socket, 2> pair{watched(), watched()};
  std::vector<Socket> added;
  for (std::size_t i = 0; i < 2; ++i) {
    pair[i]->then = [&, i] {
      const Readiness::Id place = pair[1 - i]->id;
      pair[1 - i]->remove();
      added.push_back(std::make_unique<Watched>(readiness_));
      EXPECT_EQ(added.back()->id, place);
    };
    pair[i]->say();
  }
  settle();
  ASSERT_EQ(added.size(), 1u);
  EXPECT_EQ(added.front()->readable, 0);
  added.front()->say();
  EXPECT_TRUE(until([&] { return added.front()->readable == 1; }));
}

TEST_F(ReadinessTest, OneMayRemoveAndDestroyItself) {
  Socket socket = watched();
  Socket successor;
  socket->then = [&] {
    // In the same place, and mostly with the same descriptors.
    const auto then = std::move(socket->then);
    socket.reset();
    successor = std::make_unique<Watched>(readiness_);
  };
  socket->say();
  EXPECT_TRUE(until([&] { return successor != nullptr; }));
  settle();
  EXPECT_EQ(successor->readable, 0);
}

TEST_F(ReadinessTest, ManyMayBeAddedWhileABatchIsTold) {
  std::vector<Socket> first;
  std::vector<Socket> added;
  for (int i = 0; i < 8; ++i) first.push_back(watched());
  first.front()->then = [&] {
    for (int i = 0; i < 100; ++i) added.push_back(std::make_unique<Watched>(readiness_));
  };
  for (const Socket& socket : first) socket->say();
  settle();
  for (const Socket& socket : first) EXPECT_EQ(socket->readable, 1);
  for (const Socket& socket : added) EXPECT_EQ(socket->calls, 1);
}

TEST_F(ReadinessTest, MoreThanABatchIsTold) {
  std::vector<Socket> sockets;
  for (int i = 0; i < 200; ++i) sockets.push_back(watched());
  for (const Socket& socket : sockets) socket->say();
  int readable = 0;
  EXPECT_TRUE(until([&] {
    readable = 0;
    for (const Socket& socket : sockets) readable += socket->readable;
    return readable >= 200;
  }));
  settle();
  for (const Socket& socket : sockets) EXPECT_EQ(socket->readable, 1);
}

// A busy set doesn't keep posted tasks waiting.
TEST_F(ReadinessTest, PostedTasksHaveTheirTurnBetweenBatches) {
  std::vector<Socket> sockets;
  for (int i = 0; i < 200; ++i) sockets.push_back(watched());
  for (const Socket& socket : sockets) {
    socket->then = [&socket] {  // for ever ready
      socket->take(1);
      socket->say();
    };
    socket->say();
  }
  bool ran = false;
  loop_.post([&] { ran = true; });
  EXPECT_TRUE(until([&] { return ran; }));
  for (const Socket& socket : sockets) socket->then = nullptr;
}

TEST_F(ReadinessTest, WhatTheKernelRefusesLeavesNothing) {
  const Socket socket = watched();
  EXPECT_THROW(readiness_.add(socket->ours.get(), *socket), std::system_error);  // it is there
  EXPECT_THROW(readiness_.add(-1, *socket), std::system_error);
  const Socket next = watched();
  socket->say();
  next->say();
  EXPECT_TRUE(until([&] { return socket->readable == 1 && next->readable == 1; }));
}

// As when a worker ends: the set goes first, the sockets are closed later. A bulk turn that was
// asked for doesn't come any more.
TEST(Readiness, MayGoBeforeItsSockets) {
  struct Nobody final : Readiness::Watcher {
    void on_ready(const Readiness::Events&) override { ADD_FAILURE(); }
    void on_bulk_turn() override { ADD_FAILURE(); }
  } nobody;
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
  const UniqueFd ours(ends[0]), theirs(ends[1]);
  AsioLoop loop;
  {
    Readiness readiness(loop);
    readiness.later(readiness.add(ours.get(), nobody));
  }
  loop.context().poll();
}

}  // namespace
}  // namespace cistern::net
