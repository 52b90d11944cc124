// PROTOCOL.md says what the code does: its tables, digests and exchanges.
#include <gtest/gtest.h>

#include "tests/support/proto_pair.h"
#include "tests/support/protocol_page.h"

namespace cistern::proto {
namespace {

using testing::Buffer;
using testing::Exchange;
using testing::Frame;
using testing::ProtocolPage;

using Rows = std::vector<std::vector<std::string>>;

const ProtocolPage& page() {
  static const ProtocolPage the_page(CISTERN_SOURCE_DIR "/proto/PROTOCOL.md");
  return the_page;
}

TEST(ProtocolPage, ListsTheMessages) {
  Rows expected;
  for (const MessageInfo& message : all_messages()) {
    char code[8];
    std::snprintf(code, sizeof code, "0x%02X", static_cast<unsigned>(message.type));
    const char* const sender = message.sender == Sender::kClient   ? "client"
                               : message.sender == Sender::kServer ? "server"
                                                                   : "both";
    expected.push_back({code, std::string(message.name), sender});
  }
  EXPECT_EQ(page().table("| code | name | sent by |"), expected);
}

TEST(ProtocolPage, ListsTheStatuses) {
  Rows expected;
  for (const StatusInfo& status : all_statuses()) {
    const auto code = static_cast<std::uint16_t>(status.status);
    if (code >= kFirstLocalCode) continue;
    expected.push_back({std::to_string(code), std::string(status.name),
                        status.retryable ? "yes" : "no", std::string(status.text)});
  }
  EXPECT_EQ(page().table("| code | name | retryable | meaning |"), expected);
}

TEST(ProtocolPage, GivesTheDigests) {
  const Rows rows = page().table("| value | chunk size | chunk digests | value digest |");
  ASSERT_GE(rows.size(), 5u);
  for (const auto& row : rows) {
    const auto value = testing::page_value(std::stoul(row.at(0)));
    const auto chunk = static_cast<std::uint32_t>(std::stoul(row.at(1)));
    std::string digests;
    for (std::size_t at = 0; at < value.size(); at += chunk) {
      char text[20];
      std::snprintf(text, sizeof text, "%s%016llx", at > 0 ? " " : "",
                    static_cast<unsigned long long>(chunk_digest(Bytes(value).subspan(
                        at, std::min<std::size_t>(chunk, value.size() - at)))));
      digests += text;
    }
    EXPECT_EQ(row.at(2), digests.empty() ? "-" : digests) << row.at(0);
    EXPECT_EQ(row.at(3), to_hex(testing::digest_of(value, chunk))) << row.at(0);
  }
}

TEST(ProtocolPage, ListsTheItems) {
  std::vector<std::string> types;
  for (const auto& row : page().table("| type | name | in | value |")) types.push_back(row.at(0));
  std::vector<std::string> expected;
  for (const Tlv type : {Tlv::kName, Tlv::kAge, Tlv::kRange, Tlv::kIfChanged, Tlv::kIfVersion,
                         Tlv::kIfAbsent, Tlv::kMetadata, Tlv::kCover}) {
    char text[8];
    std::snprintf(text, sizeof text, "0x%04x", static_cast<unsigned>(type));
    expected.push_back(text);
  }
  EXPECT_EQ(types, expected);
}

// A server without a socket, with the limits that the page's WELCOME shows.
class InMemory {
 public:
  InMemory() : server_(limits()) {}
  void send(const Buffer& bytes) {
    for (Frame& frame : server_.exchange(bytes)) frames_.push_back(std::move(frame));
  }
  std::optional<Frame> receive() {
    if (frames_.empty()) return std::nullopt;
    Frame frame = std::move(frames_.front());
    frames_.pop_front();
    return frame;
  }
  bool failed() const { return server_.conn.failed(); }

 private:
  static ServerLimits limits() {
    ServerLimits all = testing::small_limits();
    all.max_value_bytes = 16 * kGiB;
    all.max_frame_bytes = static_cast<std::uint32_t>(kMiB);
    all.max_key_bytes = 1024;
    all.max_metadata_bytes = 4096;
    all.max_streams = 128;
    all.stream_window_bytes = static_cast<std::uint32_t>(kMiB);
    return all;
  }
  testing::ServerSide server_;
  std::deque<Frame> frames_;
};

TEST(ProtocolPage, ItsExchangesAreWhatAServerAnswers) {
  InMemory server;
  testing::Replay<InMemory> replay(server);
  const std::vector<Exchange> exchanges = page().exchanges();
  ASSERT_GE(exchanges.size(), 12u);
  for (const Exchange& exchange : exchanges) {
    EXPECT_FALSE(server.failed());
    const auto problem = replay.play(exchange);
    ASSERT_FALSE(problem) << *problem;
    const auto more = server.receive();
    ASSERT_FALSE(more) << exchange.name << ": the server sent more: " << to_hex(more->bytes());
  }
  EXPECT_TRUE(server.failed());  // the last exchange ends the connection
}

TEST(ProtocolPage, AReplaySeesWhatIsWrong) {
  // Every byte of the server's frames that the page gives matters.
  for (Exchange exchange : page().exchanges()) {
    if (exchange.name != "hello") continue;
    for (std::size_t i = 0; i < exchange.frames.at(1).bytes.size(); ++i) {
      Exchange wrong = exchange;
      auto& byte = wrong.frames.at(1).bytes.at(i);
      if (!byte) continue;
      *byte ^= std::byte{1};
      InMemory server;
      EXPECT_TRUE(testing::Replay<InMemory>(server).play(wrong)) << i;
    }
  }
}

}  // namespace
}  // namespace cistern::proto
