#include <string>

#include <gtest/gtest.h>

#include "proto/endpoint.h"

namespace cistern::proto {
namespace {

std::string error_of(const std::string& text) {
  const auto parsed = parse_endpoint(text);
  EXPECT_FALSE(parsed.has_value()) << text;
  if (parsed) return "";
  EXPECT_EQ(parsed.error().status, Status::kUsage) << text;
  return parsed.error().message;
}

bool mentions(const std::string& message, const std::string& part) {
  return message.find(part) != message.npos;
}

TEST(Endpoint, ReadsEveryForm) {
  EXPECT_EQ(parse_endpoint("tcp://127.0.0.1:7400").value(), Endpoint::tcp("127.0.0.1", 7400));
  EXPECT_EQ(parse_endpoint("127.0.0.1:7400").value(), Endpoint::tcp("127.0.0.1", 7400));
  EXPECT_EQ(parse_endpoint("tcp://cache-1.my_net.example:1").value(),
            Endpoint::tcp("cache-1.my_net.example", 1));
  EXPECT_EQ(parse_endpoint("tcp://[::1]:7400").value(), Endpoint::tcp("::1", 7400));
  EXPECT_EQ(parse_endpoint("[fe80::1%eth0]:65535").value(), Endpoint::tcp("fe80::1%eth0", 65535));
  EXPECT_EQ(parse_endpoint("tcp://0.0.0.0:0").value(), Endpoint::tcp("0.0.0.0", 0));
  EXPECT_EQ(parse_endpoint("unix:///run/cistern.sock").value(),
            Endpoint::unix_socket("/run/cistern.sock"));
}

TEST(Endpoint, WritesWhatItReads) {
  for (const std::string text : {"tcp://127.0.0.1:7400", "tcp://[::1]:0", "tcp://[fe80::1%eth0]:9",
                                 "tcp://localhost:80", "unix:///a/b.sock"}) {
    EXPECT_EQ(to_string(parse_endpoint(text).value()), text);
  }
  EXPECT_EQ(host_and_port(Endpoint::tcp("::1", 7401)), "[::1]:7401");
  EXPECT_EQ(host_and_port(Endpoint::tcp("localhost", 7401)), "localhost:7401");
}

TEST(Endpoint, SaysWhatIsWrongWithWhichPart) {
  EXPECT_TRUE(mentions(error_of(""), "tcp://HOST:PORT"));
  EXPECT_TRUE(mentions(error_of("http://127.0.0.1:80"), "tcp://HOST:PORT"));
  EXPECT_TRUE(mentions(error_of("/run/cistern.sock"), "unix:///PATH"));
  EXPECT_TRUE(mentions(error_of("tcp://localhost"), "port is missing"));
  EXPECT_TRUE(mentions(error_of("tcp://:7400"), "0.0.0.0 or [::]"));
  EXPECT_TRUE(mentions(error_of("tcp://*:7400"), "0.0.0.0 or [::]"));
  EXPECT_TRUE(mentions(error_of("tcp://::1:7400"), "brackets"));
  EXPECT_TRUE(mentions(error_of("tcp://[::1:7400"), "never closed"));
  EXPECT_TRUE(mentions(error_of("tcp://[::1]"), "colon and a port"));
  EXPECT_TRUE(mentions(error_of("tcp://[::1]7400"), "colon and a port"));
  EXPECT_TRUE(mentions(error_of("tcp://[localhost]:7400"), "not an IPv6 address"));
  EXPECT_TRUE(mentions(error_of("tcp://[fe80::1%]:7400"), "not an IPv6 address"));
  EXPECT_TRUE(mentions(error_of("tcp://127.0.0.256:7400"), "not an IPv4 address"));
  EXPECT_TRUE(mentions(error_of("tcp://a b:7400"), "characters"));
  EXPECT_TRUE(mentions(error_of("tcp://user@host:7400"), "characters"));
  EXPECT_TRUE(mentions(error_of("tcp://" + std::string(254, 'a') + ":1"), "253 bytes"));
  for (const std::string port : {"", "65536", "-1", "+1", "7400x", " 7400", "0x10", "7400/0"}) {
    EXPECT_TRUE(mentions(error_of("tcp://localhost:" + port), "from 0 to 65535")) << port;
  }
}

TEST(Endpoint, BoundsSocketPaths) {
  const std::string longest = "/" + std::string(kMaxUnixPathBytes - 1, 'a');
  EXPECT_TRUE(parse_endpoint("unix://" + longest).has_value());
  EXPECT_TRUE(mentions(error_of("unix://" + longest + "a"), "at most 107"));
  EXPECT_TRUE(mentions(error_of("unix://relative.sock"), "absolute"));
  EXPECT_TRUE(mentions(error_of("unix://"), "absolute"));
  EXPECT_TRUE(mentions(error_of("unix:///run/"), "not a folder"));
  EXPECT_TRUE(mentions(error_of(std::string("unix:///a\0b", 11)), "NUL"));
}

TEST(Endpoint, KnowsWhatCannotBothListen) {
  const Endpoint local = Endpoint::tcp("127.0.0.1", 7400);
  EXPECT_TRUE(collide(local, local));
  EXPECT_TRUE(collide(local, Endpoint::tcp("0.0.0.0", 7400)));
  EXPECT_TRUE(collide(Endpoint::tcp("::", 7400), local));
  EXPECT_FALSE(collide(local, Endpoint::tcp("127.0.0.2", 7400)));
  EXPECT_FALSE(collide(local, Endpoint::tcp("127.0.0.1", 7401)));
  EXPECT_FALSE(collide(Endpoint::tcp("127.0.0.1", 0), Endpoint::tcp("127.0.0.1", 0)));
  EXPECT_TRUE(collide(Endpoint::unix_socket("/a"), Endpoint::unix_socket("/a")));
  EXPECT_FALSE(collide(Endpoint::unix_socket("/a"), Endpoint::unix_socket("/b")));
  EXPECT_FALSE(collide(Endpoint::unix_socket("/a"), local));
}

}  // namespace
}  // namespace cistern::proto
