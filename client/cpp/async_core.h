// What stands behind the asynchronous face: the strand, the channel on it, and the operations.
// Every function may be called from any thread. Internal.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include <asio/strand.hpp>
#include <cistern/async_client.h>

#include "client/cpp/call.h"
#include "client/cpp/channel.h"
#include "client/cpp/get_stream.h"
#include "client/cpp/put_stream.h"

namespace cistern::detail {

class AsyncCore : public std::enable_shared_from_this<AsyncCore> {
 public:
  AsyncCore(asio::any_io_executor executor, ClientOptions options, proto::Endpoint endpoint);

  const asio::any_io_executor& executor() const { return executor_; }
  const asio::strand<asio::any_io_executor>& strand() const { return strand_; }
  const std::shared_ptr<Channel>& channel() const { return channel_; }

  void close();
  void get(const std::string& key, const ReadOptions& options,
           const Done<std::optional<Value>>& done);
  void open(const std::string& key, const ReadOptions& options,
            const Done<std::optional<AsyncReader>>& done);
  void put(const std::string& key, std::span<const std::byte> bytes, const PutOptions& options,
           const Done<Stored>& done);
  void call(Call::Arguments arguments, std::function<void(proto::Result<Answer>)> done);

 private:
  const asio::any_io_executor executor_;
  const asio::strand<asio::any_io_executor> strand_;
  const std::shared_ptr<Channel> channel_;
};

// What a reader or a writer holds on to; its end ends the transfer.
class AsyncGet : public std::enable_shared_from_this<AsyncGet> {
 public:
  AsyncGet(std::shared_ptr<AsyncCore> core, std::shared_ptr<GetStream> stream)
      : core_(std::move(core)), stream_(std::move(stream)) {}
  ~AsyncGet();

  const std::shared_ptr<AsyncCore>& core() const { return core_; }
  const GetStream& stream() const { return *stream_; }
  void read(std::span<std::byte> target, const Done<std::size_t>& done);

 private:
  const std::shared_ptr<AsyncCore> core_;
  const std::shared_ptr<GetStream> stream_;
};

class AsyncPut {
 public:
  AsyncPut(std::shared_ptr<AsyncCore> core, std::shared_ptr<PutStream> stream);
  ~AsyncPut();

  const std::shared_ptr<AsyncCore>& core() const { return core_; }
  void write(std::span<const std::byte> bytes, const Done<>& done);
  void commit(const Done<Stored>& done);

 private:
  const std::shared_ptr<AsyncCore> core_;
  const std::shared_ptr<PutStream> stream_;
};

}  // namespace cistern::detail
