// The client against servers, connections and bytes that fail.
#include <chrono>
#include <functional>
#include <random>
#include <string>
#include <thread>

#include <cistern/client.h>
#include <gtest/gtest.h>

#include "tests/support/test_server.h"

namespace cistern {
namespace {

using namespace std::chrono_literals;
using test::Faults;
using test::TestServer;

constexpr std::size_t kChunk = proto::kDefaultChunkBytes;

std::string random_text(std::size_t size) {
  std::mt19937_64 random(size);
  std::string text(size, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

Status status_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_FALSE(error.message().empty());
    return error.status();
  }
  return Status::kOk;
}

// What a reader hands out until it fails, and how.
struct Outcome {
  std::string bytes;
  Status status = Status::kOk;
};
Outcome drain(Reader& reader) {
  Outcome outcome;
  outcome.status = status_of([&] {
    while (true) {
      const auto piece = reader.next();
      if (piece.empty()) return;
      outcome.bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
    }
  });
  return outcome;
}

struct FaultyServer : testing::Test {
  TestServer server;
  ClientOptions options{.endpoint = server.endpoint()};
  Client client{options};
};

TEST_F(FaultyServer, AConnectionThatIsCutInTheMiddleOfAValueIsAnError) {
  const std::string text = random_text(5 * kChunk);
  server.store("k", text);
  server.set_faults({.cut_get_after = 2 * kChunk + 1000});
  auto reader = client.open("k");
  const Outcome outcome = drain(*reader);
  EXPECT_EQ(outcome.status, Status::kConnectionLost);
  // Verified bytes only, and from the front.
  EXPECT_LE(outcome.bytes.size(), 2 * kChunk);
  EXPECT_EQ(outcome.bytes, text.substr(0, outcome.bytes.size()));
  EXPECT_EQ(status_of([&] { client.get("k"); }), Status::kConnectionLost);

  server.set_faults({});
  EXPECT_EQ(client.get("k")->text(), text);  // the client is as good as new
}

TEST_F(FaultyServer, ACorruptedByteIsNeverHandedOut) {
  const std::string text = random_text(3 * kChunk + 5);
  server.store("k", text);
  server.store("small", "some bytes");
  for (const std::uint64_t at : {std::uint64_t{0}, 2 * kChunk - 1, 3 * kChunk + 4}) {
    SCOPED_TRACE(at);
    server.set_faults({.corrupt_byte_at = at});
    auto reader = client.open("k");
    const Outcome outcome = drain(*reader);
    EXPECT_EQ(outcome.status, Status::kCorrupt);
    EXPECT_LE(outcome.bytes.size(), at / kChunk * kChunk);
    EXPECT_EQ(outcome.bytes, text.substr(0, outcome.bytes.size()));
    EXPECT_EQ(status_of([&] { client.get("k"); }), Status::kCorrupt);
    EXPECT_EQ(status_of([&] { client.get("k", {.range = Range{.offset = at, .length = 1}}); }),
              Status::kCorrupt);
  }
  server.set_faults({.corrupt_byte_at = 3});
  EXPECT_EQ(status_of([&] { client.get("small"); }), Status::kCorrupt);
  EXPECT_EQ(status_of([&] { client.open("small"); }), Status::kCorrupt);
  EXPECT_EQ(server.counts().connections, 1);
}

TEST_F(FaultyServer, AWrongDigestOfTheWholeValueIsAnErrorAtTheEnd) {
  const std::string text = random_text(2 * kChunk + 5);
  server.store("k", text);
  server.store("small", "some bytes");
  server.set_faults({.wrong_value_digest = true});
  auto reader = client.open("k");
  EXPECT_EQ(drain(*reader).status, Status::kCorrupt);
  EXPECT_EQ(status_of([&] { client.get("k"); }), Status::kCorrupt);
  EXPECT_EQ(status_of([&] { client.get("small"); }), Status::kCorrupt);
}

TEST_F(FaultyServer, AServerThatStallsRunsIntoTheStallTimeout) {
  server.store("k", random_text(5 * kChunk));
  server.set_faults({.stall_get_after = kChunk + 1, .no_credit = true});
  options.stall_timeout = 500ms;
  Client impatient(options);
  auto reader = impatient.open("k");
  const Outcome outcome = drain(*reader);
  EXPECT_EQ(outcome.status, Status::kDeadline);
  EXPECT_EQ(outcome.bytes.size(), kChunk);
  EXPECT_EQ(status_of([&] { impatient.put("p", as_bytes(std::string(100'000, 'x'))); }),
            Status::kDeadline);
  EXPECT_EQ(status_of([&] { impatient.get("k"); }), Status::kDeadline);
  impatient.ping();
  EXPECT_EQ(server.counts().connections, 1);
  EXPECT_EQ(server.counts().aborts, 3);  // the server was told of each
}

TEST_F(FaultyServer, TheCallersOwnSlownessIsNoStall) {
  const std::string text = random_text(5 * kChunk);
  server.store("k", text);
  options.stall_timeout = 500ms;
  Client client2(options);
  auto reader = client2.open("k");
  Writer writer = client2.writer("w");
  writer.write(as_bytes(std::string_view(text).substr(0, kChunk)));
  client2.ping();  // the server has seen the PUT
  // Busy elsewhere for longer than that.
  server.set_faults({.silent = true});
  EXPECT_EQ(status_of([&] { client.stat("k", {.timeout = 800ms}); }), Status::kDeadline);
  server.set_faults({});
  EXPECT_EQ(drain(*reader).bytes, text);
  writer.write(as_bytes(std::string_view(text).substr(kChunk)));
  writer.commit();
  EXPECT_EQ(*server.find("w")->bytes, text);
}

TEST_F(FaultyServer, RequestsHaveATimeout) {
  server.store("k", "v");
  server.set_faults({.silent = true});
  options.request_timeout = 100ms;
  Client impatient(options);
  EXPECT_EQ(status_of([&] { impatient.get("k"); }), Status::kDeadline);
  EXPECT_EQ(status_of([&] { impatient.stat("k"); }), Status::kDeadline);
  EXPECT_EQ(status_of([&] { client.remove("k", {.timeout = 50ms}); }), Status::kDeadline);
  EXPECT_EQ(status_of([&] { client.put("k", {}, {.timeout = 50ms}); }), Status::kDeadline);
  EXPECT_EQ(status_of([&] { client.get("k", {.timeout = 50ms}); }), Status::kDeadline);
  server.set_faults({});
  EXPECT_EQ(client.get("k")->text(), "v");
}

TEST_F(FaultyServer, ATransferCanHaveATimeoutInAll) {
  server.store("k", random_text(5 * kChunk));
  server.set_faults({.stall_get_after = 1});
  EXPECT_EQ(status_of([&] { client.get("k", {.timeout = 100ms}); }), Status::kDeadline);
  auto reader = client.open("k", {.timeout = 100ms});
  EXPECT_EQ(drain(*reader).status, Status::kDeadline);
}

TEST_F(FaultyServer, ASilentConnectionIsReplaced) {
  server.store("k", "v");
  server.set_faults({.silent = true});
  options.connect_timeout = 300ms;
  options.request_timeout = 800ms;
  Client impatient(options);
  EXPECT_EQ(status_of([&] { impatient.get("k"); }), Status::kDeadline);
  server.set_faults({});
  EXPECT_EQ(impatient.get("k")->text(), "v");
  EXPECT_EQ(server.counts().connections, 2);
}

TEST_F(FaultyServer, OnlyWhatIsSafeIsRepeatedOnceAfterALostConnection) {
  server.store("k", "v");
  const auto requests = [&](const std::function<void()>& call) {
    const int before = server.counts().requests;
    const Status status = status_of(call);
    return std::make_pair(status, server.counts().requests - before);
  };
  using Pair = std::pair<Status, int>;
  server.set_faults({.close_on_request = 1});
  EXPECT_EQ(requests([&] { client.get("k"); }), Pair(Status::kOk, 2));
  server.set_faults({.close_on_request = 1});
  EXPECT_EQ(requests([&] { client.open("k"); }), Pair(Status::kOk, 2));
  server.set_faults({.close_on_request = 1});
  EXPECT_EQ(requests([&] { client.stat("k"); }), Pair(Status::kOk, 2));
  server.set_faults({.close_on_request = 1});
  EXPECT_EQ(requests([&] { client.stats(); }), Pair(Status::kOk, 2));
  server.set_faults({.close_on_request = 1});
  EXPECT_EQ(requests([&] { client.explain("k"); }), Pair(Status::kOk, 2));
  server.set_faults({.close_on_request = 2});
  EXPECT_EQ(requests([&] { client.get("k"); }), Pair(Status::kConnectionLost, 2));

  server.set_faults({.close_on_request = 1});
  EXPECT_EQ(requests([&] { client.put("k", as_bytes("w")); }), Pair(Status::kConnectionLost, 1));
  server.set_faults({.close_on_request = 1});
  EXPECT_EQ(requests([&] { client.touch("k", 1s); }), Pair(Status::kConnectionLost, 1));
  server.set_faults({.close_on_request = 1});
  EXPECT_EQ(requests([&] { client.remove("k"); }), Pair(Status::kConnectionLost, 1));
  EXPECT_TRUE(server.find("k"));
}

TEST_F(FaultyServer, AConnectionThatWasClosedWhileIdleIsNotNoticedByAnyCall) {
  client.put("k", as_bytes("1"));
  server.drop_connections();
  client.put("k", as_bytes("2"));  // not repeatable, but nothing was sent into the dead one
  server.drop_connections();
  EXPECT_TRUE(client.touch("k", 10s));
  server.drop_connections();
  Writer writer = client.writer("k");
  writer.write(as_bytes(random_text(2 * kChunk)));
  writer.commit();
  server.drop_connections();
  EXPECT_TRUE(client.remove("k"));
  EXPECT_EQ(server.counts().connections, 5);
}

TEST_F(FaultyServer, OpenStreamsGoOnAfterGoAwayAndNewRequestsGoElsewhere) {
  const std::string text = random_text(8 * kChunk);
  server.store("k", text);
  auto reader = client.open("k");
  std::string got;
  const auto first = reader->next();
  got.append(reinterpret_cast<const char*>(first.data()), first.size());
  server.go_away();
  client.put("new", as_bytes("v"));  // may cross the GOAWAY on its way, and is then sent again
  EXPECT_TRUE(client.stat("k"));
  EXPECT_EQ(server.counts().connections, 2);
  const Outcome rest = drain(*reader);
  EXPECT_EQ(rest.status, Status::kOk);
  EXPECT_EQ(got + rest.bytes, text);
  EXPECT_EQ(server.counts().connections, 2);
}

TEST_F(FaultyServer, ARefusalInTheMiddleOfAPutReachesTheWriter) {
  client.put("k", as_bytes("old"));
  server.set_faults({.refuse_put = proto::Error{proto::Status::kNoRoom, "no memory for it"},
                     .refuse_put_after = kChunk});
  const std::string text = random_text(64 * kChunk);
  EXPECT_EQ(status_of([&] { client.put("k", as_bytes(text)); }), Status::kNoRoom);
  EXPECT_EQ(status_of([&] {
              Writer writer = client.writer("k");
              for (int i = 0; i < 64; ++i) writer.write(as_bytes(text.substr(0, kChunk)));
              writer.commit();
            }),
            Status::kNoRoom);
  EXPECT_EQ(client.get("k")->text(), "old");
  EXPECT_EQ(server.counts().connections, 1);
}

TEST_F(FaultyServer, ARefusedConnectionSaysWhy) {
  server.set_faults({.refuse_connection = proto::Error{proto::Status::kTooManyConnections,
                                                       "limits.max_connections (1) are open"}});
  EXPECT_EQ(status_of([&] { client.get("k"); }), Status::kTooManyConnections);
  server.set_faults({});
  EXPECT_FALSE(client.get("k"));
}

TEST(FaultyNetwork, AServerThatComesBackIsFoundAgain) {
  auto server = std::make_unique<TestServer>();
  const std::uint16_t port = server->port();
  Client client({.endpoint = server->endpoint()});
  client.put("k", as_bytes("v"));
  server.reset();
  EXPECT_EQ(status_of([&] { client.put("k", as_bytes("v")); }), Status::kConnectFailed);
  EXPECT_EQ(status_of([&] { client.get("k"); }), Status::kConnectFailed);
  server = std::make_unique<TestServer>(TestServer::default_limits(), port);
  client.put("k", as_bytes("v"));
  EXPECT_EQ(client.get("k")->text(), "v");
}

TEST(FaultyNetwork, ConnectingEndsWithinItsTimeout) {
  asio::io_context io;
  // The kernel completes the connection; nobody ever says WELCOME.
  asio::ip::tcp::acceptor mute(io, {asio::ip::address_v4::loopback(), 0});
  Client client({.endpoint = "tcp://localhost:" + std::to_string(mute.local_endpoint().port()),
                 .connect_timeout = 100ms});
  EXPECT_EQ(status_of([&] { client.ping(); }), Status::kConnectFailed);
  Client nowhere({.endpoint = "unix:///nonexistent/cistern.sock"});
  EXPECT_EQ(status_of([&] { nowhere.ping(); }), Status::kConnectFailed);
  Client nobody({.endpoint = "tcp://no-such-host.invalid:1", .connect_timeout = 2s});
  EXPECT_EQ(status_of([&] { nobody.ping(); }), Status::kConnectFailed);
}

TEST(FaultyNetwork, APeerThatSpeaksSomethingElseIsAProtocolError) {
  asio::io_context io;
  asio::ip::tcp::acceptor acceptor(io, {asio::ip::address_v4::loopback(), 0});
  std::thread server([&] {
    asio::ip::tcp::socket socket = acceptor.accept();
    const std::string reply = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    asio::write(socket, asio::buffer(reply));
    char byte;
    std::error_code ended;
    while (!ended) socket.read_some(asio::buffer(&byte, 1), ended);
  });
  {
    Client client(
        {.endpoint = "tcp://127.0.0.1:" + std::to_string(acceptor.local_endpoint().port())});
    EXPECT_EQ(status_of([&] { client.ping(); }), Status::kProtocolError);
  }
  server.join();
}

}  // namespace
}  // namespace cistern
