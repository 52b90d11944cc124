#include "server/net/server.h"

#include <sys/socket.h>

#include <algorithm>
#include <future>

#include <fmt/format.h>

#include "server/base/log.h"

namespace cistern::net {
namespace {

// Commits and upkeep have deadlines of their own; a store that misses them is left behind.
constexpr std::chrono::seconds kServicePatience{10};

log::Limit refused_log_limit(1);

}  // namespace

Server::Server(ServerOptions options, service::Shared& shared, const StoreFactory& make_store)
    : options_(std::move(options)),
      shared_(shared),
      account_(shared.ledger),
      workers_([&] {
        std::vector<std::unique_ptr<Worker>> workers;
        for (unsigned i = 0; i < options_.workers; ++i) {
          workers.push_back(std::make_unique<Worker>(options_.session, shared, make_store));
        }
        return workers;
      }()),
      refused_(workers_.front()->loop()) {}

Server::~Server() {
  if (started_) {
    // What lives on the first worker's loop ends there.
    std::promise<void> ended;
    workers_.front()->loop().post([&] {
      listeners_.clear();
      refused_.close_all();
      ended.set_value();
    });
    ended.get_future().wait();
  }
  for (const auto& worker : workers_) worker->stop();
}

base::Result<void> Server::bind() {
  std::vector<BoundSocket> bound;
  for (const proto::Endpoint& endpoint : options_.listen) {
    auto sockets = bind_endpoint(endpoint);
    if (!sockets) return tl::unexpected(sockets.error());
    for (BoundSocket& socket : *sockets) bound.push_back(std::move(socket));
  }
  for (BoundSocket& socket : bound) {
    listeners_.push_back(std::make_unique<Listener>(
        workers_.front()->loop(), std::move(socket),
        [this](UniqueFd accepted, bool is_tcp) { on_accepted(std::move(accepted), is_tcp); }));
  }
  return {};
}

void Server::start() {
  for (const auto& listener : listeners_) listener->listen();
  started_ = true;
  for (unsigned i = 0; i < workers_.size(); ++i) workers_[i]->start(i);
  workers_.front()->loop().post([this] {
    for (const auto& listener : listeners_) listener->start();
  });
  for (const auto& listener : listeners_) {
    log::info("listening", {{"endpoint", to_string(listener->endpoint())}});
  }
}

std::vector<proto::Endpoint> Server::endpoints() const {
  std::vector<proto::Endpoint> endpoints;
  for (const auto& listener : listeners_) endpoints.push_back(listener->endpoint());
  return endpoints;
}

unsigned Server::connections() const {
  unsigned sum = 0;
  for (const auto& worker : workers_) sum += worker->connections();
  return sum;
}

void Server::on_accepted(UniqueFd socket, bool is_tcp) {
  const unsigned open = connections();
  if (open >= options_.max_connections) {
    return refuse(std::move(socket),
                  {proto::Status::kTooManyConnections,
                   fmt::format("{} connections are open; limits.max_connections is {}", open,
                               options_.max_connections)});
  }
  std::optional<ConnectionAccount::Place> place = account_.admit();
  if (!place) {
    return refuse(std::move(socket),
                  {proto::Status::kTooManyConnections,
                   fmt::format("{} connections are open, and of the {} bytes that memory.limit "
                               "leaves for connections the rest is for those; raise memory.limit "
                               "or lower l1.max_bytes",
                               open, shared_.ledger.budgets().connections)});
  }
  Worker& least = **std::ranges::min_element(
      workers_, {}, [](const std::unique_ptr<Worker>& worker) { return worker->connections(); });
  least.adopt(Accepted{std::move(socket), is_tcp, *std::move(place)});
}

void Server::refuse(UniqueFd socket, const proto::Error& error) {
  workers_.front()->metrics_of_its_thread().connections_rejected.add();
  log::warn(refused_log_limit, "connection_refused", {{"text", error.message}});
  proto::Out frame;
  proto::encode(frame, 0, proto::Type::kError,
                proto::ErrorMessage{.code = static_cast<std::uint16_t>(error.status),
                                    .retryable = proto::is_retryable(error.status),
                                    .message = error.message});
  // A fresh socket takes so much; if not, the client sees the end alone.
  ::send(socket.get(), frame.data(), frame.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  refused_.close(std::move(socket));
}

void Server::every(base::Duration period, std::function<void(base::TimePoint)> task) {
  AsioLoop& loop = workers_.front()->loop();
  // The timer of one turn sets that of the next, and holds the task.
  struct Repeat {
    AsioLoop& loop;
    base::Duration period;
    std::shared_ptr<std::function<void(base::TimePoint)>> task;
    void operator()() const {
      (*task)(loop.now());
      loop.after(period, *this);
    }
  };
  auto held = std::make_shared<std::function<void(base::TimePoint)>>(std::move(task));
  loop.post(Repeat{loop, period, std::move(held)});
}

void Server::drain(base::Duration patience) {
  if (!started_) return;
  std::promise<void> stopped;
  workers_.front()->loop().post([&] {
    for (const auto& listener : listeners_) listener->stop();
    stopped.set_value();
  });
  stopped.get_future().wait();
  std::vector<std::future<void>> drained;
  for (const auto& worker : workers_) drained.push_back(worker->drain(patience));
  const auto until = std::chrono::steady_clock::now() + patience + kServicePatience;
  for (std::size_t i = 0; i < drained.size(); ++i) {
    if (drained[i].wait_until(until) != std::future_status::ready) {
      log::warn("drain_incomplete", {{"worker", i}, {"text", "operations on L2 did not end"}});
    }
  }
}

}  // namespace cistern::net
