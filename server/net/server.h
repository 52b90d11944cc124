// The listeners and the workers: from bound sockets to the last connection's end.
//
// bind(), start(), drain() and the destructor belong to one thread, in this order; the rest may be
// called from any.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "server/net/listener.h"
#include "server/net/worker.h"

namespace cistern::net {

struct ServerOptions {
  std::vector<proto::Endpoint> listen;
  unsigned workers = 1;
  unsigned max_connections = 1024;
  SessionOptions session;
};

class Server {
 public:
  // `shared` outlives it.
  Server(ServerOptions options, service::Shared& shared, const StoreFactory& make_store);
  // Cuts what drain() has not ended.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Binds all endpoints or none. Nobody can connect yet.
  base::Result<void> bind();
  // Starts the threads and accepts connections. Throws std::system_error.
  void start();
  // Before start(): `task` runs on the first worker's loop, every `period`, until the end.
  void every(base::Duration period, std::function<void(base::TimePoint now)> task);
  // Stops accepting, asks the clients to leave, and cuts those that haven't after `patience`; then
  // commits and upkeep are finished, which their own deadlines bound.
  void drain(base::Duration patience);

  // With their real ports, after bind().
  std::vector<proto::Endpoint> endpoints() const;
  unsigned connections() const;
  const std::vector<std::unique_ptr<Worker>>& workers() const { return workers_; }

 private:
  void on_accepted(UniqueFd socket, bool is_tcp);
  void refuse(UniqueFd socket, const proto::Error& error);

  const ServerOptions options_;
  service::Shared& shared_;
  ConnectionAccount account_;
  std::vector<std::unique_ptr<Worker>> workers_;
  Lingering refused_;  // on the first worker's loop, like the listeners
  std::vector<std::unique_ptr<Listener>> listeners_;
  bool started_ = false;
};

}  // namespace cistern::net
