// The exchanges of proto/PROTOCOL.md against the real daemon, over TCP and over a unix socket.
#include <sys/socket.h>
#include <sys/time.h>

#include <asio.hpp>
#include <gtest/gtest.h>

#include "tests/support/daemon.h"
#include "tests/support/protocol_page.h"

namespace cistern::testing {
namespace {

// A blocking connection that knows frames and nothing else.
template <typename Protocol>
class RawConnection {
 public:
  explicit RawConnection(const typename Protocol::endpoint& endpoint) : socket_(context_) {
    socket_.connect(endpoint);
    // A server that keeps silent fails the test rather than hanging it.
    const timeval patience{.tv_sec = 20, .tv_usec = 0};
    ::setsockopt(socket_.native_handle(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  }

  void send(const Buffer& bytes) { asio::write(socket_, asio::buffer(bytes)); }

  // The next frame; nothing when the server says nothing for long or has closed.
  std::optional<Frame> receive() {
    Buffer header(proto::kHeaderBytes);
    if (!read(header)) return std::nullopt;
    Frame frame{proto::decode_header(header.data()), {}};
    if (frame.header.length > proto::kMaxFrameBytes) return std::nullopt;
    frame.payload.resize(frame.header.length);
    if (!read(frame.payload)) return std::nullopt;
    return frame;
  }
  bool at_end() {
    std::byte byte;
    return ::recv(socket_.native_handle(), &byte, 1, 0) == 0;
  }

 private:
  // By hand: Asio waits for ever where a blocking socket's own time-out would end the wait.
  bool read(Buffer& to) {
    std::size_t done = 0;
    while (done < to.size()) {
      const ssize_t got =
          ::recv(socket_.native_handle(), to.data() + done, to.size() - done, MSG_WAITALL);
      if (got <= 0) return false;
      done += static_cast<std::size_t>(got);
    }
    return true;
  }

  asio::io_context context_;
  typename Protocol::socket socket_;
};

template <typename Connection>
void replay_all(Connection& connection) {
  const ProtocolPage page(CISTERN_SOURCE_DIR "/proto/PROTOCOL.md");
  Replay<Connection> replay(connection);
  const std::vector<Exchange> exchanges = page.exchanges();
  ASSERT_GE(exchanges.size(), 12u);
  for (const Exchange& exchange : exchanges) {
    const auto problem = replay.play(exchange);
    ASSERT_FALSE(problem) << *problem;
  }
  // The last one is an error of the connection: the server closes.
  EXPECT_TRUE(connection.at_end());
}

// Chunks as small as in the page, and no second tier: every value is in L1.
DaemonOptions page_options() {
  DaemonOptions options;
  options.config = "storage: {chunk_bytes: 4KiB}\n";
  return options;
}

TEST(ProtocolReplay, TheDaemonAnswersAsThePageSaysOverTcp) {
  const Daemon daemon(page_options());
  const std::string& endpoint = daemon.endpoint();
  const auto port =
      static_cast<unsigned short>(std::stoi(endpoint.substr(endpoint.rfind(':') + 1)));
  RawConnection<asio::ip::tcp> connection(
      asio::ip::tcp::endpoint(asio::ip::make_address("127.0.0.1"), port));
  replay_all(connection);
}

TEST(ProtocolReplay, TheDaemonAnswersAsThePageSaysOverAUnixSocket) {
  const Daemon daemon(page_options());
  RawConnection<asio::local::stream_protocol> connection(asio::local::stream_protocol::endpoint(
      daemon.unix_endpoint().substr(std::string("unix://").size())));
  replay_all(connection);
}

}  // namespace
}  // namespace cistern::testing
