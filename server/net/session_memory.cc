// What a session keeps in memory, and what it does where there is little: ConnectionBudget says
// what it has in any case.
#include <algorithm>
#include <new>

#include <fmt/format.h>

#include "server/base/log.h"
#include "server/net/session.h"

namespace cistern::net {
namespace {

// Owed answers past which no more requests are read.
constexpr std::size_t kMaxOwedBytes = 64 * proto::kKiB;
// Where their memory begins to be looked at, and the steps after that.
constexpr std::size_t kFirstOwedBytes = 4 * proto::kKiB;
constexpr std::size_t kOwedFactor = 4;
static_assert(kFirstOwedBytes * kOwedFactor * kOwedFactor == kMaxOwedBytes);
// They are in a vector, which doubles as it grows.
constexpr std::size_t capacity_for(std::size_t owed_bytes) { return 2 * owed_bytes; }
// The bound while memory is short: also of what a batch has, so that the answer behind it can be a
// value of kMaxInlineBytes.
constexpr std::size_t kShortOwedBytes = 2 * proto::kKiB;
static_assert(capacity_for(kShortOwedBytes) + kShortOwedBytes + proto::kMaxInlineBytes +
                      Session::kShortReadBytes <=
                  kFramesBytes - 4 * proto::kKiB,
              "with metadata");

}  // namespace

// ----------------------------------------------------------------------------------------- Frames

void Session::process() {
  if (short_ || !cover_owed(kFirstOwedBytes)) {
    paused_ = writer_.batch().control.size() > kShortOwedBytes || !conn_.process(kShortOwedBytes);
  } else {
    std::size_t bound = kFirstOwedBytes;
    paused_ = !conn_.process(bound);
    while (paused_ && bound < kMaxOwedBytes && cover_owed(bound * kOwedFactor)) {
      bound *= kOwedFactor;
      paused_ = !conn_.process(bound);
    }
  }
  const std::uint64_t frames = conn_.frames_in();
  context_.metrics.frames_in.add(frames - frames_seen_);
  frames_seen_ = frames;
}

std::size_t Session::frames_bytes() const {
  return writer_.control_capacity() + writer_.copied_bytes() + conn_.owed_capacity() +
         conn_.kept_bytes();
}

bool Session::cover_owed(std::size_t owed_bytes) {
  const auto cover = [&] {
    const std::size_t now = conn_.owed_capacity();
    return budget_.cover_frames(frames_bytes() - now + std::max(now, capacity_for(owed_bytes)));
  };
  if (cover()) return true;
  short_ = true;
  writer_.trim();
  conn_.trim_owed();
  return cover();
}

bool Session::has_room_for(std::size_t answer_bytes) {
  const std::size_t owed_bytes = conn_.owed_bytes() + answer_bytes;
  if (cover_owed(owed_bytes)) return true;
  // With room for it alone.
  const std::size_t now = conn_.owed_capacity();
  if (!budget_.cover_frames(frames_bytes() - now + std::max(now, owed_bytes))) return false;
  conn_.reserve_owed(owed_bytes);
  return true;
}

void Session::settle_frames() {
  std::size_t bytes = frames_bytes();
  if (!budget_.cover_frames(bytes)) {
    short_ = true;
    writer_.trim();
    conn_.trim_owed();
    bytes = frames_bytes();
    if (!conn_.failed() && !budget_.cover_frames(bytes, ConnectionBudget::Need::kUnavoidable)) {
      failed_as_ = CloseReason::kNoMemory;
      conn_.fail({proto::Status::kNoRoom,
                  fmt::format("no memory for {} bytes of requests and answers that wait on this "
                              "connection; the budget of connections, a share of memory.limit, is "
                              "used up",
                              bytes)});
      conn_.finish();
      return advance_later();
    }
  }
  budget_.uncover_frames(bytes);
}

void Session::relieve() {
  slow_ = true;
  const std::size_t bytes = writer_.borrowed_bytes();
  if (bytes == 0) return;
  // A small frame is what everybody may have; more only while there is plenty.
  const auto need = bytes <= kMaxOwedBytes + proto::kKiB ? ConnectionBudget::Need::kMore
                                                         : ConnectionBudget::Need::kFaster;
  if (!budget_.cover_frames(frames_bytes() + bytes, need)) return;
  try {
    writer_.copy_borrowed();
  } catch (const std::bad_alloc&) {
    log::warn("no_memory_for_a_slow_reader", {{"bytes", bytes}});
  }
}

// --------------------------------------------------------------------------------- Kernel buffers

void Session::on_transfer(Direction direction) { resize(direction, true); }

bool Session::resize(Direction direction, bool large) {
  const bool sends = direction == Direction::kSend;
  std::size_t& now = sends ? send_buffer_bytes_ : receive_buffer_bytes_;
  if (!large) {
    budget_.give(charged_bytes(now - kSmallBufferBytes));
    now = kSmallBufferBytes;
    set_buffer(socket_.get(), direction, now);
    return true;
  }
  for (const std::size_t bytes : sends ? kSendBufferBytes : kReceiveBufferBytes) {
    if (bytes <= now || !budget_.take_if_plenty(charged_bytes(bytes - now))) continue;
    now = bytes;
    set_buffer(socket_.get(), direction, now);
    return true;
  }
  return false;
}

}  // namespace cistern::net
