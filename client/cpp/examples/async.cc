// Many requests at once over one connection, with coroutines. Usage: async [ENDPOINT]
#include <iostream>
#include <string>
#include <vector>

#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/use_awaitable.hpp>
#include <cistern/async_client.h>

asio::awaitable<std::size_t> copy(cistern::AsyncClient& client) {
  const std::string text(3'000'000, 'c');
  co_await client.async_put("source", cistern::as_bytes(text), asio::use_awaitable);

  std::size_t copied = 0;
  std::vector<std::byte> piece(65536);
  cistern::AsyncWriter writer = client.writer("copy", text.size());
  auto reader = co_await client.async_open("source", asio::use_awaitable);
  while (reader) {
    const std::size_t got = co_await reader->async_read(piece, asio::use_awaitable);
    if (got == 0) break;  // all of it was received, and verified
    const auto part = std::span<const std::byte>(piece).first(got);
    co_await writer.async_write(part, asio::use_awaitable);
    copied += got;
  }
  co_await writer.async_commit(asio::use_awaitable);
  co_return copied;
}

int main(int argc, char** argv) try {
  asio::io_context io;
  cistern::AsyncClient client(io.get_executor(),
                              {.endpoint = argc > 1 ? argv[1] : "tcp://127.0.0.1:7400"});

  std::exception_ptr failed;
  asio::co_spawn(io, copy(client), [&](std::exception_ptr error, std::size_t bytes) {
    failed = error;
    if (!error) std::cout << "copied " << bytes << " bytes\n";
    client.close();  // an open connection counts as work: without this run() would not return
  });
  for (int i = 0; i < 100; ++i) {  // meanwhile, on the same connection
    client.async_stat("source", [](std::exception_ptr, std::optional<cistern::ValueInfo>) {});
  }
  io.run();
  if (failed) std::rethrow_exception(failed);
  return 0;
} catch (const cistern::Error& error) {
  std::cerr << error.what() << (error.retryable() ? " (try again)\n" : "\n");
  return error.retryable() ? 4 : 3;
}
