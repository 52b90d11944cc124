#include "server/net/worker.h"

#include <pthread.h>

#include <utility>

#include "server/base/check.h"
#include "server/base/log.h"

namespace cistern::net {
namespace {

constexpr std::chrono::milliseconds kHeartbeat{500};

std::int64_t monotonic_ns() {
  return std::chrono::duration_cast<base::Duration>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

proto::Error shutting_down() {
  return {proto::Status::kShuttingDown, "the server is shutting down; connect again"};
}

}  // namespace

Worker::Worker(const SessionOptions& options, service::Shared& shared,
               const StoreFactory& make_store)
    : scratch_(proto::kScratchBytes),
      store_(make_store ? make_store(loop_, loop_.context(), metrics_) : nullptr),
      service_(std::make_unique<service::Service>(shared, loop_, store_.get(), metrics_)),
      lingering_(loop_),
      context_{options,  loop_,   readiness_, *service_, shared.ledger,
               metrics_, closes_, lingering_, scratch_},
      ledger_(shared.ledger),
      heartbeat_ns_(monotonic_ns()) {}

Worker::~Worker() {
  stop();
  CHECK(sessions_.empty());
}

void Worker::start(unsigned index) {
  thread_ = std::thread([this, index] {
    ::pthread_setname_np(::pthread_self(), ("worker-" + std::to_string(index)).c_str());
    on_heartbeat();
    loop_.run();
    // stop() without drain(): the sessions' sockets belong to this thread.
    for (const auto& session : std::exchange(sessions_, {})) session->close(CloseReason::kDrainCut);
    lingering_.close_all();
    service_.reset();
    store_.reset();
  });
}

void Worker::stop() {
  loop_.stop();
  if (thread_.joinable()) thread_.join();
}

void Worker::adopt(Accepted accepted) {
  connections_.fetch_add(1, std::memory_order_relaxed);
  // std::function wants to be able to copy what it holds.
  auto shared = std::make_shared<Accepted>(std::move(accepted));
  loop_.post([this, shared] { open(std::move(*shared)); });
}

void Worker::open(Accepted accepted) {
  if (draining_) {
    connections_.fetch_sub(1, std::memory_order_relaxed);
    return;
  }
  Session::Owner& owner = *this;
  auto session = std::make_shared<Session>(context_, std::move(accepted), owner);
  sessions_.insert(session);
  session->start();
}

void Worker::on_session_closed(Session& session) {
  connections_.fetch_sub(1, std::memory_order_relaxed);
  sessions_.erase(session.shared_from_this());
  if (draining_ && sessions_.empty()) drain_service();
}

void Worker::on_heartbeat() {
  heartbeat_ns_.store(monotonic_ns(), std::memory_order_relaxed);
  {
    base::Result<void> ready = service_->ready();
    const std::lock_guard lock(l2_mutex_);
    l2_ready_ = std::move(ready);
  }
  loop_.after(kHeartbeat, [this] { on_heartbeat(); });
}

base::Duration Worker::silence() const {
  return base::Duration(monotonic_ns() - heartbeat_ns_.load(std::memory_order_relaxed));
}

base::Result<void> Worker::l2_ready() const {
  const std::lock_guard lock(l2_mutex_);
  return l2_ready_;
}

// ------------------------------------------------------------------------------------------ Drain

std::future<void> Worker::drain(base::Duration patience) {
  std::future<void> over = drained_.get_future();
  loop_.post([this, patience] { begin_drain(patience); });
  return over;
}

void Worker::begin_drain(base::Duration patience) {
  draining_ = true;
  if (sessions_.empty()) return drain_service();
  drain_timer_ = loop_.after(patience, [this] { cut_sessions(); });
  const auto sessions = sessions_;
  for (const auto& session : sessions) session->go_away(CloseReason::kDrained, shutting_down());
}

void Worker::cut_sessions() {
  log::warn("drain_cut", {{"connections", sessions_.size()}});
  const auto sessions = sessions_;
  for (const auto& session : sessions) session->close(CloseReason::kDrainCut);
}

void Worker::drain_service() {
  // The last session's close() is still on the stack, and its requests may be, too.
  if (std::exchange(service_draining_, true)) return;
  loop_.post([this] {
    loop_.cancel(drain_timer_);
    service_->drain([this] {
      if (!store_) return drained();
      store_->close([this] { drained(); });
    });
  });
}

void Worker::drained() { drained_.set_value(); }

}  // namespace cistern::net
