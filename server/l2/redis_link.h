// hiredis on Asio: one asynchronous hiredis connection, from its first attempt to its end. The
// adapter that hiredis 0.14 lacks; timeouts are the owner's business, who cuts.
//
// The thread of the io_context only.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <hiredis/async.h>

#include "server/l2/redis_connect.h"

namespace cistern::l2 {

class RedisLink : public std::enable_shared_from_this<RedisLink> {
 public:
  using Args = std::vector<std::string>;
  // Called once for each command that send() took, in order; null when the connection ended before
  // the reply came. May send() and cut(). The reply is valid during the call.
  using OnReply = std::function<void(const redisReply*)>;
  struct Events {
    std::function<void()> connected;  // at most once
    // Once, as the last call, after the replies that were due got null; later, never inside a call.
    std::function<void(std::string why)> closed;
  };

  // Lives until `closed`, also when nobody else holds it.
  static std::shared_ptr<RedisLink> open(asio::io_context& io, const RedisAddress& address,
                                         const RedisUrl& url, Events events);
  ~RedisLink();

  // False when the connection is no more; then `on_reply` is not called.
  bool send(const Args& args, OnReply on_reply);
  // SUBSCRIBEs; nothing else may be sent from then on, nor be unanswered. `on_message` gets the
  // confirmation and every message, as long as the connection lives. An error ends the connection.
  // One that Redis makes longer than kMaxMessageBytes does, too: it would be held whole.
  using OnMessage = std::function<void(const redisReply&)>;
  static constexpr std::size_t kMaxMessageBytes = proto::kMiB;
  bool subscribe(const std::string& channel, OnMessage on_message);
  // Ends the connection now, or when the reply that is being delivered has been.
  void cut();

 private:
  explicit RedisLink(asio::io_context& io) : io_(io), descriptor_(io) {}

  void start(const RedisAddress& address, const RedisUrl& url);
  void end(std::string why);
  void wait_read();
  void wait_write();
  void want_write();
  void write_soon();
  void on_readable();
  void on_writable();

  static void add_read(void* self);
  static void del_read(void* self);
  static void add_write(void* self);
  static void del_write(void* self);
  static void cleanup(void* self);
  static void on_connect(const redisAsyncContext* context, int status);
  static void on_command_reply(redisAsyncContext* context, void* reply, void* on_reply);
  static void on_channel_reply(redisAsyncContext* context, void* reply, void* self);
  // Whether what is about to be read may be the rest of a message.
  bool is_message_bounded();

  asio::io_context& io_;
  // A duplicate of hiredis' descriptor, so that each side closes its own, in whatever order.
  asio::posix::stream_descriptor descriptor_;
  Events events_;
  OnMessage on_message_;
  std::size_t message_bytes_ = 0;  // read since the last one was complete
  const char* cut_why_ = "the connection was cut";
  redisAsyncContext* context_ = nullptr;  // hiredis' own; null after cleanup()
  std::shared_ptr<RedisLink> self_;       // while context_ points here
  bool is_connected_ = false;
  bool wants_read_ = false;
  bool wants_write_ = false;
  bool is_waiting_read_ = false;
  bool is_waiting_write_ = false;
  bool is_write_posted_ = false;
  bool is_writing_ = false;
};

}  // namespace cistern::l2
