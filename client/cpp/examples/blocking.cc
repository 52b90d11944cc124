// Stores a value, reads it back whole and then piece by piece. Usage: blocking [ENDPOINT]
#include <array>
#include <chrono>
#include <iostream>

#include <cistern/client.h>

int main(int argc, char** argv) try {
  cistern::Client client({.endpoint = argc > 1 ? argv[1] : "tcp://127.0.0.1:7400"});

  client.put("greeting", cistern::as_bytes("Hello from Cistern\n"),
             {.ttl = std::chrono::minutes(5), .metadata = R"({"language":"en"})"});
  if (const auto value = client.get("greeting")) std::cout << value->text();

  // Values of any size: a writer takes pieces, a reader hands out verified ones, and neither holds
  // more than a few chunks.
  const std::string line(1000, 'x');
  cistern::Writer writer = client.writer("large");
  for (int i = 0; i < 5000; ++i) writer.write(cistern::as_bytes(line));
  const cistern::Stored stored = writer.commit();

  std::uint64_t total = 0;
  if (auto reader = client.open("large")) {
    std::array<std::byte, 65536> piece;
    while (const std::size_t got = reader->read(piece)) total += got;
  }
  std::cout << "large: stored " << stored.size << " bytes, read " << total << "\n";

  client.remove("large");
  return total == stored.size ? 0 : 1;
} catch (const cistern::Error& error) {
  std::cerr << error.what() << (error.retryable() ? " (try again)\n" : "\n");
  return error.retryable() ? 4 : 3;
}
