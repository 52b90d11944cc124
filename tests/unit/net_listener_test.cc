// Binding: what is refused, what is removed, and what is left behind.
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "tests/support/process.h"
#include "tests/unit/net_fixture.h"

namespace cistern::net {
namespace {

using proto::Endpoint;

std::string refusal(const Endpoint& endpoint) {
  const auto bound = bind_endpoint(endpoint);
  return bound ? "bound" : bound.error().message;
}

TEST(BindEndpoint, SaysWhichPortTheKernelChose) {
  const auto bound = bind_endpoint(Endpoint::tcp("127.0.0.1", 0));
  ASSERT_TRUE(bound) << bound.error().message;
  ASSERT_EQ(bound->size(), 1u);
  EXPECT_NE(bound->front().endpoint().port, 0);
}

TEST(BindEndpoint, RefusesAPortThatIsTaken) {
  auto bound = bind_endpoint(Endpoint::tcp("127.0.0.1", 0));
  ASSERT_TRUE(bound);
  ASSERT_EQ(::listen(bound->front().fd(), 1), 0);
  const std::string text = refusal(bound->front().endpoint());
  EXPECT_NE(text.find(to_string(bound->front().endpoint())), std::string::npos) << text;
  EXPECT_NE(text.find("another process listens there"), std::string::npos) << text;
}

TEST(BindEndpoint, NamesAnAddressThatIsNotThisMachines) {
  const std::string text = refusal(Endpoint::tcp("192.0.2.1", 7400));
  EXPECT_NE(text.find("tcp://192.0.2.1:7400"), std::string::npos) << text;
  EXPECT_NE(text.find("server.listen"), std::string::npos) << text;
}

TEST(BindEndpoint, MakesAUnixSocketForOwnerAndGroupAndRemovesIt) {
  const testing::TempDir dir;
  const std::string path = dir.file("a.sock");
  {
    const auto bound = bind_endpoint(Endpoint::unix_socket(path));
    ASSERT_TRUE(bound) << bound.error().message;
    struct stat file {};
    ASSERT_EQ(::stat(path.c_str(), &file), 0);
    EXPECT_EQ(file.st_mode & 0777u, 0660u);
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(BindEndpoint, RemovesAStaleSocketAndRefusesALiveOne) {
  const testing::TempDir dir;
  const std::string path = dir.file("a.sock");
  const std::string aside = dir.file("b.sock");
  {
    // What a killed daemon leaves: the file, and nobody behind it.
    auto killed = bind_endpoint(Endpoint::unix_socket(path));
    ASSERT_TRUE(killed);
    std::filesystem::rename(path, aside);
  }
  std::filesystem::rename(aside, path);
  auto bound = bind_endpoint(Endpoint::unix_socket(path));
  ASSERT_TRUE(bound) << bound.error().message;
  ASSERT_EQ(::listen(bound->front().fd(), 1), 0);
  EXPECT_NE(refusal(Endpoint::unix_socket(path)).find("another process listens there"),
            std::string::npos);
  EXPECT_TRUE(std::filesystem::exists(path));
}

TEST(BindEndpoint, LeavesFilesAlone) {
  const testing::TempDir dir;
  const std::string path = dir.file("precious");
  std::ofstream(path) << "data";
  EXPECT_NE(refusal(Endpoint::unix_socket(path)).find("not a socket"), std::string::npos);
  EXPECT_TRUE(std::filesystem::exists(path));
  EXPECT_NE(refusal(Endpoint::unix_socket(dir.file("no/such.sock"))).find("directory"),
            std::string::npos);
}

// All endpoints are bound before anything is served: one that fails leaves none.
TEST_F(ServerTest, BindsAllEndpointsOrNone) {
  const testing::TempDir dir;
  const std::string path = dir.file("a.sock");
  options_.listen = {Endpoint::unix_socket(path), Endpoint::tcp("192.0.2.1", 1)};
  ledger_ = std::make_unique<base::Ledger>(budgets_);
  cache_ = std::make_unique<l1::Cache>(l1::Options{.budget_bytes = budgets_.l1}, *ledger_);
  shared_ = std::make_unique<service::Shared>(service_, *cache_, *ledger_);
  server_ = std::make_unique<Server>(options_, *shared_, StoreFactory{});
  EXPECT_FALSE(server_->bind());
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST_F(ServerTest, ServesOverAUnixSocket) {
  const testing::TempDir dir;
  const std::string path = dir.file("a.sock");
  options_.listen = {Endpoint::unix_socket(path), Endpoint::tcp("127.0.0.1", 0)};
  start();
  const auto value = some_bytes(300'000);
  RawClient writer = greeted();
  ASSERT_EQ(writer.put(1, "k", value, kChunk)->type(), Type::kStored);
  RawClient reader(server_->endpoints().back());
  ASSERT_TRUE(reader.hello());
  reader.key_request(2, Type::kStat, "k");
  const auto info = reader.receive();
  ASSERT_TRUE(info && info->type() == Type::kInfo);
  EXPECT_EQ(proto::decode_info(info->payload)->size, value.size());
  server_->drain(1s);
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace cistern::net
