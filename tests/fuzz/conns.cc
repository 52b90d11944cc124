#include <cstdlib>

#include "tests/fuzz/targets.h"
#include "tests/support/proto_pair.h"

namespace cistern::fuzz {
namespace {

using namespace proto;
using testing::Buffer;

// The harness notes broken promises; those about digests are the peer's, not the connection's.
void require_kept(const std::vector<std::string>& broken_promises) {
  for (const std::string& promise : broken_promises) {
    if (!promise.ends_with("digest")) {
      std::cerr << promise << "\n";
      std::abort();
    }
  }
}

testing::Split split_of(unsigned choice) {
  if (choice == 0) return testing::all_at_once();
  return [choice, n = 0u](std::size_t) mutable {
    n = n * 1103515245u + choice;
    return std::size_t{1} + (n >> 16) % (choice < 128 ? 16 : 3'000);
  };
}

Buffer hello() {
  Buffer out;
  encode(out, Hello{.features = kKnownFeatures});
  return out;
}

// Answers what is open, by the number of the round.
void answer_some(testing::ServerSide& server, unsigned round) {
  const std::set<std::uint32_t> open = server.open;
  for (const std::uint32_t id : open) {
    switch ((id + round) % 7) {
      case 0:
        server.uploads.erase(id);
        server.sources.erase(id);
        server.open.erase(id);
        server.conn.answer(id, Error{Status::kTimeout, "late"});
        break;
      case 1:
        if (server.uploads.contains(id)) server.grant(id, 1 + id % 5'000);
        break;
      default:
        break;
    }
  }
}

void answer_by_hand(Bytes wire, const testing::Split& split) {
  testing::ServerSide server;
  server.by_hand = true;
  Buffer left = hello();
  testing::append(left, wire);
  for (unsigned round = 0; !left.empty() && !server.conn.failed(); ++round) {
    const std::size_t take = std::min(left.size(), split(left.size()));
    Buffer part(left.begin(), left.begin() + static_cast<std::ptrdiff_t>(take));
    left.erase(left.begin(), left.begin() + static_cast<std::ptrdiff_t>(take));
    testing::feed(server.conn, part, testing::all_at_once(),
                  [&] { return server.conn.process(200); });
    answer_some(server, round);
    server.output();
  }
  server.conn.drop(Error{Status::kCancelled, {}});
  if (!server.open.empty()) std::abort();
  require_kept(server.broken_promises);
}

Buffer answers_to(Bytes wire, bool greet, const testing::Split& split) {
  testing::ServerSide server;
  server.values["k"] = {testing::make_value(10'000), 7, {}};
  server.values["s"] = {testing::make_value(10), 8, testing::buffer("{}")};
  Buffer left = greet ? hello() : Buffer();
  testing::append(left, wire);
  testing::feed(server.conn, left, split, [&] { return server.conn.process(1 << 30); });
  const Buffer out = server.output();
  if (server.conn.failed() && !server.open.empty()) std::abort();
  server.conn.drop(Error{Status::kCancelled, {}});
  require_kept(server.broken_promises);
  return out;
}

}  // namespace

void server_conn(Bytes input) {
  if (input.size() < 2 || input.size() > 100'000) return;
  const auto choice = static_cast<unsigned>(input[0]);
  const bool greet = input[1] != std::byte{0};
  const Bytes wire = input.subspan(2);
  if (choice == 255) return answer_by_hand(wire, split_of(7));
  const Buffer whole = answers_to(wire, greet, testing::all_at_once());
  if (whole != answers_to(wire, greet, split_of(choice))) std::abort();
}

void client_conn(Bytes input) {
  if (input.size() < 2 || input.size() > 100'000) return;
  const auto choice = static_cast<unsigned>(input[0]);
  const testing::Split split = split_of(choice);
  testing::ClientSide client;
  client.conn.hello("fuzz");
  client.by_hand = choice % 2 == 0;
  client.get("k", 5'000);
  client.put("k", testing::make_value(10'000), 4096);
  client.conn.stat(KeyRequest{as_bytes("k")});
  client.conn.remove(KeyRequest{as_bytes("k")});
  client.conn.ping(as_bytes("x"));
  client.conn.stats();
  client.get("k", 100, 1024, Range{5, 10});
  client.put_inline("k", testing::make_value(10), 4096);
  client.conn.explain(KeyRequest{as_bytes("k")});
  const unsigned requests = 9;
  Buffer left;
  if (input[1] != std::byte{0}) {
    const Welcome welcome{.max_value_bytes = 1 << 20,
                          .max_frame_bytes = static_cast<std::uint32_t>(kMinFrameBytes),
                          .chunk_bytes = 4096,
                          .name = "s"};
    encode(left, welcome);
  }
  testing::append(left, input.subspan(2));
  for (unsigned round = 0; !left.empty() && !client.conn.failed(); ++round) {
    const std::size_t take = std::min(left.size(), split(left.size()));
    Buffer part(left.begin(), left.begin() + static_cast<std::ptrdiff_t>(take));
    left.erase(left.begin(), left.begin() + static_cast<std::ptrdiff_t>(take));
    testing::feed(client.conn, part, testing::all_at_once(), [&] {
      client.conn.process();
      return true;
    });
    if (choice % 4 == 3 && round % 8 == 7) client.conn.cancel(1 + round / 8 % requests);
    testing::collect_all(client.conn);
  }
  client.conn.drop(Error{Status::kConnectionLost, {}});
  if (client.conn.open_requests() != 0 || !client.lost) std::abort();
  require_kept(client.broken_promises);
}

}  // namespace cistern::fuzz
