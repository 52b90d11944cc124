// Three memcached servers behind one daemon: what is left when one of them is killed.
#include <algorithm>
#include <cmath>
#include <random>

#include <gtest/gtest.h>

#include "client/cpp/client.h"
#include "client/cpp/error.h"
#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/support/memcached_server.h"

namespace cistern::testing {
namespace {

#ifdef CISTERN_SANITIZED
constexpr std::size_t kValues = 60;
constexpr std::size_t kValueBytes = 1024 * 1024 + 77;
#else
constexpr std::size_t kValues = 300;
constexpr std::size_t kValueBytes = 16 * 1024 * 1024;
#endif
const Millis kPatience(60'000);

std::string key_of(std::size_t i) { return "value:" + std::to_string(i); }

class Fleet : public ::testing::Test {
 protected:
  Fleet() : bytes_(kValueBytes) {
    std::mt19937_64 random(1);
    for (std::byte& byte : bytes_) byte = static_cast<std::byte>(random());
  }
  // Each value has its number at the front, at the back and in the middle.
  const std::vector<std::byte>& value(std::size_t i) {
    for (const std::size_t at : {std::size_t{0}, kValueBytes / 2, kValueBytes - 8}) {
      for (std::size_t b = 0; b < 8; ++b) bytes_[at + b] = static_cast<std::byte>(i >> (8 * b));
    }
    return bytes_;
  }
  // All of its bytes are compared. kOk, or why it can't be read.
  Status read(Client& client, std::size_t i) {
    try {
      auto reader = client.open(key_of(i));
      if (!reader) return Status::kNotFound;
      const std::vector<std::byte>& expected = value(i);
      std::size_t at = 0;
      for (auto next = reader->next(); !next.empty(); next = reader->next()) {
        const bool is_same =
            at + next.size() <= expected.size() &&
            std::equal(next.begin(), next.end(), expected.begin() + static_cast<long>(at));
        EXPECT_TRUE(is_same) << key_of(i) << " at " << at;
        at += next.size();
      }
      EXPECT_EQ(at, expected.size()) << key_of(i);
      return Status::kOk;
    } catch (const Error& error) {
      EXPECT_TRUE(error.retryable()) << error.what();
      return error.status();
    }
  }

  std::vector<std::byte> bytes_;
};

TEST_F(Fleet, AKilledServerTakesItsValuesOutOfReachAndNoOthers) {
  std::vector<std::unique_ptr<MemcachedServer>> servers;
  std::string list;
  for (int i = 0; i < 3; ++i) {
    servers.push_back(std::make_unique<MemcachedServer>(std::vector<std::string>{"-m", "4096"}));
    list += (list.empty() ? "\"" : ", \"") + servers.back()->address() + "\"";
  }
  Daemon daemon({.config = "l1: {max_bytes: 24MiB}\n"
                           "l2: {kind: memcached, memcached: {servers: [" +
                           list + "]}}\n",
                 .server = {}});
  Client client({.endpoint = daemon.endpoint()});
  for (std::size_t i = 0; i < kValues; ++i) client.put(key_of(i), value(i));

  // The one whose part is nearest to a third: ketama deals out to a few percent.
  std::vector<std::vector<std::string>> on;
  for (auto& server : servers) on.push_back(server->keys("cistern:m:"));
  ASSERT_EQ(on[0].size() + on[1].size() + on[2].size(), kValues) << "none was evicted";
  const auto off = [&](std::size_t i) {
    return std::fabs(static_cast<double>(on[i].size()) - kValues / 3.0);
  };
  std::size_t victim = 0;
  for (std::size_t i = 1; i < 3; ++i) victim = off(i) < off(victim) ? i : victim;
  servers[victim]->kill();

  std::size_t readable = 0;
  for (std::size_t i = 0; i < kValues; ++i) {
    const bool is_lost = std::ranges::binary_search(on[victim], "cistern:m:" + key_of(i));
    const Status status = read(client, i);
    if (status == Status::kOk) ++readable;
    EXPECT_EQ(status, is_lost ? Status::kL2Unavailable : Status::kOk) << key_of(i);
  }
  std::printf("%zu of %zu values are readable; %zu were on the server that was killed\n", readable,
              kValues, on[victim].size());
  EXPECT_EQ(readable, kValues - on[victim].size());
  if (kValues >= 300) {
    EXPECT_GE(readable, kValues * 60 / 100);
    EXPECT_LE(readable, kValues * 73 / 100);
  }

  // The daemon says so and goes on.
  const std::string label = "server=\"" + servers[victim]->address() + "\"";
  EXPECT_EQ(daemon.metric("cistern_l2_server_up", {label}), 0);
  EXPECT_EQ(daemon.metric("cistern_l2_server_up"), 2);
  EXPECT_GE(daemon.metric("cistern_l2_server_refused_total", {label}), 1);
  EXPECT_EQ(daemon.admin_status("/readyz"), 200);
  EXPECT_NE(daemon.admin("/readyz").find(servers[victim]->address()), std::string::npos);
  EXPECT_NE(daemon.process().errors().find("cannot be reached"), std::string::npos);
  std::size_t taken = 0;
  for (std::size_t i = 0; i < 30; ++i) {
    try {
      client.put("new:" + std::to_string(i), as_bytes("x"));
      ++taken;
    } catch (const Error& error) {
      EXPECT_EQ(error.status(), Status::kL2Unavailable) << error.what();
    }
  }
  EXPECT_GT(taken, 0u);
  EXPECT_LT(taken, 30u);

  // It comes back empty: now its values are absent, and that for certain.
  servers[victim]->start();
  EXPECT_TRUE(eventually([&] { return daemon.metric("cistern_l2_server_up") == 3; }, kPatience));
  const std::string gone = on[victim].front().substr(std::string("cistern:m:").size());
  EXPECT_FALSE(client.get(gone));
  EXPECT_EQ(daemon.admin("/readyz").find("degraded"), std::string::npos);
  EXPECT_EQ(daemon.in_transfers(), 0);
  EXPECT_EQ(daemon.stop(), 0);
}

}  // namespace
}  // namespace cistern::testing
