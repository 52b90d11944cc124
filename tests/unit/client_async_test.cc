// The asynchronous client: callbacks, futures and coroutines, many at once, cancelled, on threads.
#include <atomic>
#include <chrono>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <asio/co_spawn.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/use_future.hpp>
#include <cistern/async_client.h>
#include <gtest/gtest.h>

#include "tests/support/test_server.h"

namespace cistern {
namespace {

using namespace std::chrono_literals;
using test::TestServer;

constexpr std::size_t kChunk = proto::kDefaultChunkBytes;

std::string random_text(std::size_t size, unsigned seed = 1) {
  std::mt19937_64 random(seed);
  std::string text(size, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

Status status_of(const std::exception_ptr& error) {
  if (error == nullptr) return Status::kOk;
  try {
    std::rethrow_exception(error);
  } catch (const Error& e) {
    return e.status();
  }
}

struct AsyncClientTest : testing::Test {
  TestServer server;
  asio::io_context io;
  AsyncClient client{io.get_executor(), {.endpoint = server.endpoint()}};

  // Runs the loop until `done`. A future may be made ready by another thread, so it looks again.
  template <typename Done>
  void run_until(const Done& done) {
    while (!done()) {
      if (io.stopped()) io.restart();
      io.run_one_for(5ms);
    }
  }
  template <typename T>
  T result(std::future<T> future) {
    run_until([&] { return future.wait_for(0s) == std::future_status::ready; });
    return future.get();
  }
};

TEST_F(AsyncClientTest, EveryOperationWorksWithFutures) {
  const std::string text = random_text(3 * kChunk + 1);
  const Stored stored =
      result(client.async_put("k", as_bytes(text), {.metadata = R"({"a":1})"}, asio::use_future));
  EXPECT_EQ(stored.size, text.size());
  const auto value = result(client.async_get("k", asio::use_future));
  ASSERT_TRUE(value);
  EXPECT_EQ(value->text(), text);
  EXPECT_EQ(value->metadata, R"({"a":1})");
  const ReadOptions range{.range = Range{.offset = kChunk - 1, .length = 2}};
  EXPECT_EQ(result(client.async_get("k", range, asio::use_future))->text(),
            text.substr(kChunk - 1, 2));
  const ReadOptions same{.if_changed = stored.version};
  EXPECT_TRUE(result(client.async_get("k", same, asio::use_future))->not_modified);
  EXPECT_EQ(result(client.async_stat("k", asio::use_future))->version, stored.version);
  EXPECT_TRUE(result(client.async_touch("k", 10s, asio::use_future))->expires_at);
  EXPECT_GT(result(client.async_ping(asio::use_future)).count(), 0);
  EXPECT_EQ(result(client.async_stats(asio::use_future)), R"({"test":true})");
  EXPECT_EQ(result(client.async_explain("key", asio::use_future)), "{}");
  EXPECT_TRUE(result(client.async_remove("k", asio::use_future)));
  EXPECT_FALSE(result(client.async_remove("k", asio::use_future)));
  EXPECT_FALSE(result(client.async_get("k", asio::use_future)));
  EXPECT_FALSE(result(client.async_open("k", asio::use_future)));
  EXPECT_FALSE(result(client.async_stat("k", asio::use_future)));
  EXPECT_FALSE(result(client.async_touch("k", 10s, asio::use_future)));
  EXPECT_EQ(server.counts().connections, 1);
}

asio::awaitable<std::string> copy_by_pieces(AsyncClient& client, std::size_t size) {
  std::string copied;
  std::vector<std::byte> piece(100'000);
  auto reader = co_await client.async_open("from", asio::use_awaitable);
  AsyncWriter writer = client.writer("to", size);
  while (reader) {
    const std::size_t got = co_await reader->async_read(piece, asio::use_awaitable);
    if (got == 0) break;
    const auto part = std::span<const std::byte>(piece).first(got);
    co_await writer.async_write(part, asio::use_awaitable);
    copied.append(reinterpret_cast<const char*>(part.data()), part.size());
  }
  const Stored stored = co_await writer.async_commit(asio::use_awaitable);
  EXPECT_EQ(stored.size, size);
  co_return copied;
}

TEST_F(AsyncClientTest, StreamsInCoroutines) {
  const std::string text = random_text(6 * kChunk + 99);
  server.store("from", text);
  EXPECT_EQ(result(asio::co_spawn(io, copy_by_pieces(client, text.size()), asio::use_future)),
            text);
  EXPECT_EQ(*server.find("to")->bytes, text);
}

asio::awaitable<Status> status_of_a_get(AsyncClient& client, std::string key) {
  try {
    const auto value = co_await client.async_get(key, asio::use_awaitable);
    co_return value ? Status::kOk : Status::kNotFound;
  } catch (const Error& error) {
    co_return error.status();
  }
}

TEST_F(AsyncClientTest, ErrorsAreThrownInCoroutines) {
  EXPECT_EQ(result(asio::co_spawn(io, status_of_a_get(client, "none"), asio::use_future)),
            Status::kNotFound);
  EXPECT_EQ(
      result(asio::co_spawn(io, status_of_a_get(client, std::string(2000, 'k')), asio::use_future)),
      Status::kKeyTooLarge);
}

TEST_F(AsyncClientTest, ManyRequestsShareOneConnectionBeyondItsStreamLimit) {
  const std::string large = random_text(2 * kChunk, 2);
  server.store("large", large);
  server.store("small", "s");
  int done = 0;
  constexpr int kRequests = 600;  // the server allows 16 at a time
  for (int i = 0; i < kRequests; ++i) {
    const bool is_large = i % 60 == 0;
    client.async_get(is_large ? "large" : "small",
                     [&, is_large](std::exception_ptr error, std::optional<Value> value) {
                       EXPECT_EQ(error, nullptr);
                       ASSERT_TRUE(value);
                       EXPECT_EQ(value->text(), is_large ? std::string_view(large) : "s");
                       ++done;
                     });
  }
  EXPECT_EQ(done, 0);  // never from within the call
  run_until([&] { return done == kRequests; });
  EXPECT_EQ(server.counts().connections, 1);
}

TEST_F(AsyncClientTest, AnswersMayComeInAnyOrder) {
  server.store("k", "v");
  server.set_faults({.silent = true});
  std::vector<int> order;
  for (int i = 0; i < 5; ++i) {
    client.async_stat("k", [&order, i](std::exception_ptr error, std::optional<ValueInfo> info) {
      EXPECT_EQ(error, nullptr);
      EXPECT_TRUE(info);
      order.push_back(i);
    });
  }
  run_until([&] { return server.counts().requests == 5; });
  server.set_faults({});
  server.resume();  // the latest first
  run_until([&] { return order.size() == 5; });
  EXPECT_EQ(order, (std::vector<int>{4, 3, 2, 1, 0}));
}

TEST_F(AsyncClientTest, DestroyingAReaderCancelsItsReadAndTheTransfer) {
  server.store("k", random_text(8 * kChunk));
  server.set_faults({.stall_get_after = 1000});
  auto reader = result(client.async_open("k", asio::use_future));
  ASSERT_TRUE(reader);
  std::vector<std::byte> piece(1000);
  std::optional<Status> ended;
  reader->async_read(piece, [&](std::exception_ptr error, std::size_t got) {
    EXPECT_EQ(got, 0u);
    ended = status_of(error);
  });
  io.poll();
  EXPECT_FALSE(ended);
  reader.reset();
  run_until([&] { return ended.has_value(); });
  EXPECT_EQ(*ended, Status::kCancelled);
  result(client.async_ping(asio::use_future));
  EXPECT_EQ(server.counts().aborts, 1);
}

TEST_F(AsyncClientTest, DroppingAWriterStoresNothing) {
  {
    AsyncWriter writer = client.writer("k");
    const std::string text = random_text(2 * kChunk);
    auto written = writer.async_write(as_bytes(text), asio::use_future);
    run_until([&] { return written.wait_for(0s) == std::future_status::ready; });
    written.get();
  }
  result(client.async_ping(asio::use_future));
  EXPECT_EQ(server.counts().aborts, 1);
  EXPECT_FALSE(server.find("k"));
}

TEST_F(AsyncClientTest, AWriteOfTheWrongSizeIsRefused) {
  AsyncWriter writer = client.writer("k", 5);
  auto written = writer.async_write(as_bytes("too long"), asio::use_future);
  run_until([&] { return written.wait_for(0s) == std::future_status::ready; });
  EXPECT_THROW(written.get(), Error);
  AsyncWriter other = client.writer("k", 50'000);
  EXPECT_THROW(result(other.async_commit(asio::use_future)), Error);
  EXPECT_FALSE(server.find("k"));
}

TEST_F(AsyncClientTest, ClosingTheClientEndsEverythingAndLetsTheLoopEnd) {
  server.store("k", random_text(8 * kChunk));
  auto reader = result(client.async_open("k", asio::use_future));
  server.set_faults({.silent = true});
  std::vector<Status> ended;
  for (int i = 0; i < 40; ++i) {  // some sent, some waiting for room
    client.async_stat("k", [&](std::exception_ptr error, std::optional<ValueInfo>) {
      ended.push_back(status_of(error));
    });
  }
  io.poll();
  client.close();
  client.async_ping([&](std::exception_ptr error, std::chrono::nanoseconds) {
    ended.push_back(status_of(error));
  });
  io.restart();
  io.run();  // returns: nothing is left that counts as work
  EXPECT_EQ(ended, std::vector<Status>(41, Status::kCancelled));
}

TEST(AsyncClientLifetime, AnExecutorThatIsDestroyedFirstLeavesNothingBehind) {
  TestServer server;
  server.store("k", random_text(8 * kChunk));
  std::optional<AsyncClient> client;
  bool called = false;
  {
    asio::io_context io;
    client.emplace(io.get_executor(), ClientOptions{.endpoint = server.endpoint()});
    client->async_get("k", [&](std::exception_ptr, std::optional<Value>) { called = true; });
    const std::string text = random_text(2 * kChunk);
    client->async_put("p", as_bytes(text), [&](std::exception_ptr, Stored) { called = true; });
    for (int i = 0; i < 5; ++i) io.run_one();
    client.reset();
  }
  EXPECT_FALSE(called);
}

TEST(AsyncClientThreads, AnyThreadMayUseIt) {
  TestServer server;
  asio::thread_pool pool(3);
  {
    AsyncClient client(pool.get_executor(), {.endpoint = server.endpoint()});
    std::vector<std::thread> threads;
    std::atomic<int> right{0};
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < 20; ++i) {
          const std::string key = "key" + std::to_string(t);
          const std::string text =
              random_text(i % 4 == 0 ? 2 * kChunk : 500, static_cast<unsigned>(100 * t + i));
          client.async_put(key, as_bytes(text), asio::use_future).get();
          const auto value = client.async_get(key, asio::use_future).get();
          if (value && value->text() == text) ++right;
          auto reader = client.async_open(key, asio::use_future).get();
          std::vector<std::byte> piece(1000);
          reader->async_read(piece, asio::use_future).get();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(right, 80);
  }
  pool.join();
}

TEST(AsyncClientEndpoints, ABadOneIsAUsageError) {
  asio::io_context io;
  EXPECT_THROW(AsyncClient(io.get_executor(), {.endpoint = "nonsense"}), Error);
}

}  // namespace
}  // namespace cistern
