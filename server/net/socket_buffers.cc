#include "server/net/socket_buffers.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

namespace cistern::net {

void set_buffer(int socket, Direction direction, std::size_t bytes) {
  const int value = static_cast<int>(bytes);
  const int option = direction == Direction::kSend ? SO_SNDBUF : SO_RCVBUF;
  ::setsockopt(socket, SOL_SOCKET, option, &value, sizeof value);
}

void set_listener_buffers(int socket) {
  set_buffer(socket, Direction::kSend, kSmallBufferBytes);
  set_buffer(socket, Direction::kReceive, kReceiveBufferBytes.front());
}

}  // namespace cistern::net
