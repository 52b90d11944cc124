#include "server/net/writer.h"

#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>
#include <vector>

namespace cistern::net {
namespace {

// A batch has few segments (a frame's head and its bytes), each of some size; what doesn't fit one
// call goes with the next.
constexpr std::size_t kMaxIovecs = 64;

}  // namespace

Writer::Outcome Writer::write(int socket, std::size_t most_bytes) {
  while (!idle()) {
    const proto::Segment& segment = batch_.segments[next_];
    if (segment.size == offset_) {
      advance(0);
      continue;
    }
    if (most_bytes == 0) return Outcome::kMore;
    const std::ptrdiff_t taken =
        segment.is_extent() ? write_extent(socket, most_bytes) : write_memory(socket, most_bytes);
    if (taken > 0) {
      advance(static_cast<std::size_t>(taken));
      most_bytes -= static_cast<std::size_t>(taken);
      continue;
    }
    if (taken < 0 && errno == EINTR) continue;
    if (taken < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return Outcome::kBlocked;
    // sendfile answers 0 where the file ends before the extent does.
    error_ = taken < 0 ? errno : EIO;
    return Outcome::kFailed;
  }
  batch_.clear();
  next_ = 0;
  taken_ = 0;
  copied_bytes_ = 0;
  return Outcome::kDone;
}

std::size_t Writer::borrowed_bytes() const {
  if (copied_bytes_ > 0) return 0;
  std::size_t bytes = 0;
  for (std::size_t at = next_; at < batch_.segments.size(); ++at) {
    const proto::Segment& segment = batch_.segments[at];
    if (segment.owner == nullptr || segment.is_extent()) continue;
    bytes += segment.size - (at == next_ ? offset_ : 0);
  }
  return bytes;
}

void Writer::copy_borrowed() {
  if (copied_bytes_ > 0) return;
  for (std::size_t at = next_; at < batch_.segments.size(); ++at) {
    proto::Segment& segment = batch_.segments[at];
    if (segment.owner == nullptr || segment.is_extent()) continue;
    if (at == next_) {
      segment.data += offset_;
      segment.size -= std::exchange(offset_, 0);
    }
    const auto copy =
        std::make_shared<std::vector<std::byte>>(segment.data, segment.data + segment.size);
    copied_bytes_ += segment.size;
    segment.data = copy->data();
    segment.owner = copy;
  }
}

std::ptrdiff_t Writer::write_memory(int socket, std::size_t most_bytes) {
  std::array<iovec, kMaxIovecs> iovecs;
  std::size_t count = 0;
  std::size_t skip = offset_;
  std::size_t at = next_;
  for (; at < batch_.segments.size() && count < kMaxIovecs && most_bytes > 0; ++at) {
    const proto::Segment& segment = batch_.segments[at];
    if (segment.is_extent()) break;
    const proto::Bytes bytes = batch_.memory_of(segment).subspan(skip);
    skip = 0;
    iovecs[count].iov_base = const_cast<std::byte*>(bytes.data());
    const std::size_t size = std::min(bytes.size(), most_bytes);
    iovecs[count++].iov_len = size;
    most_bytes -= size;
  }
  // What the next turn brings isn't waited for.
  const int more = at < batch_.segments.size() && most_bytes > 0 ? MSG_MORE : 0;
  const int flags = MSG_NOSIGNAL | MSG_DONTWAIT | more;
  // The kernel takes less time for a plain send than for a list.
  if (count == 1) return ::send(socket, iovecs[0].iov_base, iovecs[0].iov_len, flags);
  msghdr message{};
  message.msg_iov = iovecs.data();
  message.msg_iovlen = count;
  return ::sendmsg(socket, &message, flags);
}

std::ptrdiff_t Writer::write_extent(int socket, std::size_t most_bytes) {
  const proto::Segment& segment = batch_.segments[next_];
  auto from = static_cast<off_t>(segment.offset + offset_);
  return ::sendfile(socket, segment.fd, &from, std::min(segment.size - offset_, most_bytes));
}

void Writer::advance(std::size_t bytes) {
  written_ += bytes;
  taken_ += bytes;
  while (next_ < batch_.segments.size()) {
    proto::Segment& segment = batch_.segments[next_];
    const std::size_t left = segment.size - offset_;
    if (bytes < left) {
      offset_ += bytes;
      return;
    }
    bytes -= left;
    segment.owner.reset();
    offset_ = 0;
    ++next_;
    if (bytes == 0) return;
  }
}

}  // namespace cistern::net
