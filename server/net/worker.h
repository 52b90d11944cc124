// One thread with its loop, its service, its store and its connections.
#pragma once

#include <atomic>
#include <functional>
#include <future>
#include <memory>
#include <thread>
#include <unordered_set>
#include <vector>

#include "server/net/session.h"
#include "server/service/service.h"

namespace cistern::net {

// Makes a worker's store; null for l2.kind none. Called on the thread that makes the worker. What
// it returns is used and destroyed on the worker's thread, or while that doesn't run.
using StoreFactory = std::function<std::unique_ptr<l2::Store>(
    base::Loop& loop, asio::io_context& context, base::WorkerMetrics& metrics)>;

class Worker final : private Session::Owner {
 public:
  // All references outlive it.
  Worker(const SessionOptions& options, service::Shared& shared, const StoreFactory& make_store);
  ~Worker() override;

  void start(unsigned index);
  // Any thread.
  void adopt(Accepted accepted);
  // Any thread: asks the clients to leave, waits until they have or `deadline` has passed, then
  // finishes what the service and the store have under way. The future is ready when all is over.
  std::future<void> drain(base::Duration patience);
  // Ends and joins the thread.
  void stop();

  AsioLoop& loop() { return loop_; }
  const base::WorkerMetrics& metrics() const { return metrics_; }
  const CloseCounts& closes() const { return closes_; }
  base::WorkerMetrics& metrics_of_its_thread() { return metrics_; }

  // Any thread. Connections that were given to it and have not ended.
  unsigned connections() const { return connections_.load(std::memory_order_relaxed); }
  // Since the loop last turned.
  base::Duration silence() const;
  // Whether L2 could be reached when it was last asked; the reason if not.
  base::Result<void> l2_ready() const;

 private:
  void on_session_closed(Session& session) override;
  void on_heartbeat();
  void open(Accepted accepted);
  void begin_drain(base::Duration patience);
  void cut_sessions();
  void drain_service();
  void drained();

  AsioLoop loop_;
  Readiness readiness_{loop_};
  base::WorkerMetrics metrics_;
  CloseCounts closes_;
  std::vector<std::byte> scratch_;
  std::unique_ptr<l2::Store> store_;
  std::unique_ptr<service::Service> service_;
  Lingering lingering_;
  const SessionContext context_;
  base::Ledger& ledger_;
  std::unordered_set<std::shared_ptr<Session>> sessions_;
  std::thread thread_;

  std::atomic<unsigned> connections_{0};
  std::atomic<std::int64_t> heartbeat_ns_{0};
  mutable std::mutex l2_mutex_;
  base::Result<void> l2_ready_;

  bool draining_ = false;
  bool service_draining_ = false;
  base::Loop::TimerId drain_timer_ = base::Loop::TimerId::kNone;
  std::promise<void> drained_;
};

}  // namespace cistern::net
