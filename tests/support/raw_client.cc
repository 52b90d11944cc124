#include "tests/support/raw_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "proto/digest.h"

namespace cistern::testing {
namespace {

constexpr int kPatienceSeconds = 30;

int connect_tcp(const std::string& host_and_port) {
  const std::size_t colon = host_and_port.rfind(':');
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(std::stoi(host_and_port.substr(colon + 1))));
  inet_pton(AF_INET, host_and_port.substr(0, colon).c_str(), &address.sin_addr);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    throw std::runtime_error("connect " + host_and_port + ": " + std::strerror(errno));
  }
  return fd;
}

int connect_unix(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    throw std::runtime_error("connect " + path + ": " + std::strerror(errno));
  }
  return fd;
}

}  // namespace

RawClient::RawClient(const std::string& endpoint, bool greet, int receive_buffer_bytes) {
  const bool tcp = endpoint.starts_with("tcp://");
  fd_ = tcp ? connect_tcp(endpoint.substr(6)) : connect_unix(endpoint.substr(7));
  const timeval patience{kPatienceSeconds, 0};
  setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  if (receive_buffer_bytes != 0) {
    setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof receive_buffer_bytes);
  }
  if (!greet) return;
  request(proto::Hello{.name = "raw"});
  const std::optional<Frame> frame = receive();
  if (!frame || !frame->is(proto::Type::kWelcome)) throw std::runtime_error("no WELCOME");
  welcome_ = *proto::decode_welcome(frame->payload);
  welcome_.name = {};
}

RawClient::~RawClient() { close(); }

void RawClient::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

void RawClient::send(proto::Bytes bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) throw std::runtime_error(std::string("send: ") + std::strerror(errno));
    bytes = bytes.subspan(static_cast<std::size_t>(sent));
  }
}

bool RawClient::read_exactly(std::byte* to, std::size_t bytes) {
  for (std::size_t have = 0; have < bytes;) {
    const ssize_t got = ::recv(fd_, to + have, bytes - have, 0);
    if (got == 0 || (got < 0 && errno == ECONNRESET)) return false;
    if (got < 0) throw std::runtime_error(std::string("recv: ") + std::strerror(errno));
    have += static_cast<std::size_t>(got);
  }
  return true;
}

std::optional<Frame> RawClient::receive() {
  std::byte head[proto::kHeaderBytes];
  if (!read_exactly(head, sizeof head)) return std::nullopt;
  Frame frame{proto::decode_header(head), {}};
  frame.payload.resize(frame.header.length);
  if (!read_exactly(frame.payload.data(), frame.payload.size())) return std::nullopt;
  return frame;
}

Frame RawClient::receive_for(std::uint32_t id) {
  while (true) {
    std::optional<Frame> frame = receive();
    if (!frame) throw std::runtime_error("the server closed the connection");
    if (frame->header.id == id && !frame->is(proto::Type::kCredit)) return *std::move(frame);
  }
}

void RawClient::receive_each(std::size_t count, proto::Type type) {
  std::vector<std::byte> buffer(std::size_t{256} << 10);
  std::size_t have = 0;
  for (std::size_t at = 0; count > 0;) {
    const std::span<const std::byte> rest(buffer.data() + at, have - at);
    if (rest.size() >= proto::kHeaderBytes) {
      const proto::FrameHeader header = proto::decode_header(rest.data());
      if (rest.size() - proto::kHeaderBytes >= header.length) {
        if (header.type != static_cast<std::uint8_t>(type)) {
          throw std::runtime_error("an answer of type " + std::to_string(header.type));
        }
        at += proto::kHeaderBytes + header.length;
        --count;
        continue;
      }
    }
    std::copy(rest.begin(), rest.end(), buffer.begin());
    have -= std::exchange(at, 0);
    const ssize_t got = ::recv(fd_, buffer.data() + have, buffer.size() - have, 0);
    if (got <= 0) throw std::runtime_error("the server closed the connection");
    have += static_cast<std::size_t>(got);
  }
}

void RawClient::put_inline(std::uint32_t id, const std::string& key, proto::Bytes bytes) {
  proto::PutRequest put;
  put.key = proto::as_bytes(key);
  put.size = bytes.size();
  put.is_inline = true;
  put.inline_bytes = bytes;
  put.inline_digest =
      proto::ValueHasher::of_single(proto::chunk_digest(bytes), welcome_.chunk_bytes, bytes.size());
  request(id, put);
  const Frame answer = receive_for(id);
  if (!answer.is(proto::Type::kStored)) throw std::runtime_error("the PUT was refused");
}

}  // namespace cistern::testing
