// The way to one endpoint: one connection for all requests, made when it is needed and replaced
// when it is lost or going away. Requests that find no room wait here. Internal; runs on its
// executor, which never runs two things at once.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include <asio/any_io_executor.hpp>
#include <asio/steady_timer.hpp>
#include <cistern/types.h>

#include "client/cpp/connection.h"
#include "client/cpp/request.h"
#include "proto/endpoint.h"

namespace cistern::detail {

class Channel : public std::enable_shared_from_this<Channel>, private Connection::Owner {
 public:
  // Call close() before letting go of it.
  Channel(asio::any_io_executor executor, ClientOptions options, proto::Endpoint endpoint);
  ~Channel() override;

  // Sends `request` as soon as there is a connection with room. Its end may be told before this
  // returns.
  void start(const std::shared_ptr<Request>& request);
  // Gives up a request wherever it is; it hears nothing more.
  void forget(Request& request);
  // request.due() has come nearer.
  void watch(const Request& request);
  // Fails every request with kCancelled, and every later one.
  void close();

  const ClientOptions& options() const { return options_; }

 private:
  // Connection::Owner
  void on_ready(Connection& connection) override;
  void on_going_away(Connection& connection) override;
  bool on_refused(const std::shared_ptr<Request>& request) override;
  void on_room(Connection& connection) override;
  void on_lost(Connection& connection, const proto::Error& error,
               std::vector<std::shared_ptr<Request>> requests) override;

  void pump();
  void connect();
  void arm(TimePoint due);
  void on_timer();
  void expire(Request& request, TimePoint now);

  asio::any_io_executor executor_;
  const ClientOptions options_;
  const proto::Endpoint endpoint_;
  std::deque<std::shared_ptr<Request>> queue_;
  std::shared_ptr<Connection> current_;
  bool current_was_ready_ = false;
  std::vector<std::shared_ptr<Connection>> leaving_;  // went away with requests still open
  asio::steady_timer timer_;
  TimePoint armed_ = TimePoint::max();
  bool closed_ = false;
};

}  // namespace cistern::detail
