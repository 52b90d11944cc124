#include "server/l2/redis_connect.h"

#include <sys/socket.h>

#include <memory>

#include <asio/ip/tcp.hpp>
#include <asio/local/stream_protocol.hpp>
#include <asio/post.hpp>
#include <fmt/format.h>

#include "server/l2/redis_options.h"

namespace cistern::l2 {

void resolve(asio::io_context& io, const RedisUrl& url,
             std::function<void(base::Result<std::vector<RedisAddress>>)> done) {
  using asio::ip::tcp;
  if (url.is_unix()) {
    std::vector<RedisAddress> one = {{asio::local::stream_protocol::endpoint(url.unix_path), ""}};
    asio::post(io, [done = std::move(done), one = std::move(one)] { done(one); });
    return;
  }
  asio::error_code not_numeric;
  const auto address = asio::ip::make_address(url.host, not_numeric);
  if (!not_numeric) {
    std::vector<RedisAddress> one = {{tcp::endpoint(address, url.port), address.to_string()}};
    asio::post(io, [done = std::move(done), one = std::move(one)] { done(one); });
    return;
  }
  auto resolver = std::make_shared<tcp::resolver>(io);
  resolver->async_resolve(
      url.host, std::to_string(url.port), tcp::resolver::numeric_service,
      [resolver, host = url.host, done = std::move(done)](const asio::error_code& error,
                                                          const auto& found) {
        if (error) {
          done(base::fail(base::Status::kL2Unavailable,
                          fmt::format("the name {} in l2.redis.url cannot be resolved: {}", host,
                                      error.message())));
          return;
        }
        std::vector<RedisAddress> all;
        for (const auto& entry : found) {
          all.push_back({entry.endpoint(), entry.endpoint().address().to_string()});
        }
        done(std::move(all));
      });
}

void set_int_option(int fd, int level, int name, int value) {
  static_cast<void>(::setsockopt(fd, level, name, &value, sizeof value));
}

void set_socket_buffers(int fd) {
  for (const int direction : {SO_RCVBUF, SO_SNDBUF}) {
    set_int_option(fd, SOL_SOCKET, direction, static_cast<int>(kSocketBufferBytes));
  }
}

}  // namespace cistern::l2
