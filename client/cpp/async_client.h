// The asynchronous face: Asio completion tokens, many requests at once over one connection.
//
//   cistern::AsyncClient client(io.get_executor());
//   auto value = co_await client.async_get("greeting", asio::use_awaitable);
//
// Signatures. Every operation completes with void(std::exception_ptr, T), or
// void(std::exception_ptr) where there is no T: with use_awaitable and use_future an exception is
// thrown, always a cistern::Error. "Not there" is not an error but an empty result.
//
// Executors. A handler runs on its associated executor, by default the one that the client was made
// with, and never from within the function that starts the operation. While a connection is open it
// counts as work: io_context::run() returns once the client is closed or destroyed.
//
// Threads. All functions may be called from any thread, also while the executor runs on several;
// the client keeps its own strand. Of one reader or writer one operation at a time may be running.
//
// Lifetime. Keys and options are copied. A buffer must stay valid until the operation on it has
// completed. Destroying a reader ends its transfer, destroying a writer aborts its PUT, destroying
// the client does so to all that it opened; what was running completes with kCancelled.
//
// Retries, memory and integrity: as in <cistern/client.h>.
#pragma once

#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/post.hpp>
#include <cistern/error.h>
#include <cistern/types.h>

namespace cistern {

namespace detail {

class AsyncCore;
class AsyncGet;
class AsyncPut;

// A completion handler whose type the library doesn't know. Called once, or destroyed uncalled
// when the executor itself is destroyed.
template <typename... T>
class Completion {
 public:
  virtual ~Completion() = default;
  virtual void complete(std::exception_ptr error, T... result) = 0;
};

template <typename Handler, typename... T>
class HandlerCompletion final : public Completion<T...> {
 public:
  HandlerCompletion(Handler handler, const asio::any_io_executor& fallback)
      : handler_(std::move(handler)), work_(asio::make_work_guard(handler_, fallback)) {}

  void complete(std::exception_ptr error, T... result) override {
    // Posted: whatever the handler does, it does it outside the library's own call stack.
    asio::post(work_.get_executor(), [handler = std::move(handler_), error = std::move(error),
                                      ... results = std::move(result)]() mutable {
      std::move(handler)(std::move(error), std::move(results)...);
    });
    work_.reset();
  }

 private:
  Handler handler_;
  asio::executor_work_guard<asio::associated_executor_t<Handler, asio::any_io_executor>> work_;
};

template <typename... T>
using Done = std::shared_ptr<Completion<T...>>;

// Turns `token` into a Done and passes it to `start`.
template <typename... T, typename Token, typename Start>
auto initiate(Token&& token, const asio::any_io_executor& executor, Start start) {
  return asio::async_initiate<Token, void(std::exception_ptr, T...)>(
      [executor, start = std::move(start)](auto&& handler) mutable {
        using Handler = std::decay_t<decltype(handler)>;
        start(Done<T...>(std::make_shared<HandlerCompletion<Handler, T...>>(
            std::forward<decltype(handler)>(handler), executor)));
      },
      token);
}

}  // namespace detail

// A value on its way here; only verified bytes are handed out. Movable; an empty one (default or
// moved from) may only be destroyed or assigned to.
class AsyncReader {
 public:
  AsyncReader() = default;

  const ValueInfo& info() const;
  bool not_modified() const;
  // How many bytes there are to be read in all.
  std::uint64_t length() const;

  // Copies 1 to target.size() bytes; 0 is the end, and says that all was received and verified.
  template <typename Token>
  auto async_read(std::span<std::byte> target, Token&& token) {
    return detail::initiate<std::size_t>(
        std::forward<Token>(token), executor(),
        [get = get_, target](detail::Done<std::size_t> done) { start_read(get, target, done); });
  }
  // Ends the transfer; the daemon stops reading.
  void close() { get_.reset(); }

 private:
  friend class detail::AsyncCore;
  explicit AsyncReader(std::shared_ptr<detail::AsyncGet> get) : get_(std::move(get)) {}
  asio::any_io_executor executor() const;
  static void start_read(const std::shared_ptr<detail::AsyncGet>& get, std::span<std::byte> target,
                         const detail::Done<std::size_t>& done);
  std::shared_ptr<detail::AsyncGet> get_;
};

// A value on its way to the daemon; nothing of it is visible before async_commit has completed.
// Movable; an empty one may only be destroyed or assigned to.
class AsyncWriter {
 public:
  AsyncWriter() = default;

  // Completes when all of `bytes` were taken: copied, and sent as far as the daemon has room.
  template <typename Token>
  auto async_write(std::span<const std::byte> bytes, Token&& token) {
    return detail::initiate<>(
        std::forward<Token>(token), executor(),
        [put = put_, bytes](detail::Done<> done) { start_write(put, bytes, done); });
  }
  // Completes when the value is stored. With a declared size that wasn't written exactly:
  // kSizeMismatch, and nothing is stored.
  template <typename Token>
  auto async_commit(Token&& token) {
    return detail::initiate<Stored>(
        std::forward<Token>(token), executor(),
        [put = put_](detail::Done<Stored> done) { start_commit(put, done); });
  }
  // Drops what was written.
  void abort() { put_.reset(); }

 private:
  friend class AsyncClient;
  explicit AsyncWriter(std::shared_ptr<detail::AsyncPut> put) : put_(std::move(put)) {}
  asio::any_io_executor executor() const;
  static void start_write(const std::shared_ptr<detail::AsyncPut>& put,
                          std::span<const std::byte> bytes, const detail::Done<>& done);
  static void start_commit(const std::shared_ptr<detail::AsyncPut>& put,
                           const detail::Done<Stored>& done);
  std::shared_ptr<detail::AsyncPut> put_;
};

class AsyncClient {
 public:
  // Doesn't connect yet. Throws kUsage when the endpoint can't be understood.
  explicit AsyncClient(asio::any_io_executor executor, ClientOptions options = {});
  AsyncClient(AsyncClient&&) noexcept = default;
  AsyncClient& operator=(AsyncClient&&) noexcept;
  ~AsyncClient();

  // Ends everything: what runs completes with kCancelled, and so does what is started later.
  void close();
  asio::any_io_executor get_executor() const;

  // void(std::exception_ptr, std::optional<Value>): the whole value, or the range, in memory.
  template <typename Token>
  auto async_get(std::string_view key, ReadOptions options, Token&& token) {
    return detail::initiate<std::optional<Value>>(
        std::forward<Token>(token), get_executor(),
        [core = core_, key = std::string(key), options = std::move(options)](
            detail::Done<std::optional<Value>> done) { start_get(core, key, options, done); });
  }
  template <typename Token>
  auto async_get(std::string_view key, Token&& token) {
    return async_get(key, ReadOptions(), std::forward<Token>(token));
  }

  // void(std::exception_ptr, std::optional<AsyncReader>)
  template <typename Token>
  auto async_open(std::string_view key, ReadOptions options, Token&& token) {
    return detail::initiate<std::optional<AsyncReader>>(
        std::forward<Token>(token), get_executor(),
        [core = core_, key = std::string(key),
         options = std::move(options)](detail::Done<std::optional<AsyncReader>> done) {
          start_open(core, key, options, done);
        });
  }
  template <typename Token>
  auto async_open(std::string_view key, Token&& token) {
    return async_open(key, ReadOptions(), std::forward<Token>(token));
  }

  // void(std::exception_ptr, Stored). `bytes` stay the caller's until it completes.
  template <typename Token>
  auto async_put(std::string_view key, std::span<const std::byte> bytes, PutOptions options,
                 Token&& token) {
    return detail::initiate<Stored>(
        std::forward<Token>(token), get_executor(),
        [core = core_, key = std::string(key), bytes, options = std::move(options)](
            detail::Done<Stored> done) { start_put(core, key, bytes, options, done); });
  }
  template <typename Token>
  auto async_put(std::string_view key, std::span<const std::byte> bytes, Token&& token) {
    return async_put(key, bytes, PutOptions(), std::forward<Token>(token));
  }
  // A value of a declared or an unknown size, written piece by piece.
  AsyncWriter writer(std::string_view key, std::optional<std::uint64_t> size = std::nullopt,
                     const PutOptions& options = {});

  // void(std::exception_ptr, bool): false if there was none.
  template <typename Token>
  auto async_remove(std::string_view key, ChangeOptions options, Token&& token) {
    return detail::initiate<bool>(
        std::forward<Token>(token), get_executor(),
        [core = core_, key = std::string(key), options](detail::Done<bool> done) {
          start_remove(core, key, options, done);
        });
  }
  template <typename Token>
  auto async_remove(std::string_view key, Token&& token) {
    return async_remove(key, ChangeOptions(), std::forward<Token>(token));
  }

  // void(std::exception_ptr, std::optional<ValueInfo>)
  template <typename Token>
  auto async_stat(std::string_view key, CallOptions options, Token&& token) {
    return detail::initiate<std::optional<ValueInfo>>(
        std::forward<Token>(token), get_executor(),
        [core = core_, key = std::string(key), options](
            detail::Done<std::optional<ValueInfo>> done) { start_stat(core, key, options, done); });
  }
  template <typename Token>
  auto async_stat(std::string_view key, Token&& token) {
    return async_stat(key, CallOptions(), std::forward<Token>(token));
  }

  // void(std::exception_ptr, std::optional<Touched>). A ttl of 0: never expires.
  template <typename Token>
  auto async_touch(std::string_view key, std::chrono::milliseconds ttl, ChangeOptions options,
                   Token&& token) {
    return detail::initiate<std::optional<Touched>>(
        std::forward<Token>(token), get_executor(),
        [core = core_, key = std::string(key), ttl,
         options](detail::Done<std::optional<Touched>> done) {
          start_touch(core, key, ttl, options, done);
        });
  }
  template <typename Token>
  auto async_touch(std::string_view key, std::chrono::milliseconds ttl, Token&& token) {
    return async_touch(key, ttl, ChangeOptions(), std::forward<Token>(token));
  }

  // void(std::exception_ptr, std::chrono::nanoseconds): the round trip.
  template <typename Token>
  auto async_ping(CallOptions options, Token&& token) {
    return detail::initiate<std::chrono::nanoseconds>(
        std::forward<Token>(token), get_executor(),
        [core = core_, options](detail::Done<std::chrono::nanoseconds> done) {
          start_ping(core, options, done);
        });
  }
  template <typename Token>
  auto async_ping(Token&& token) {
    return async_ping(CallOptions(), std::forward<Token>(token));
  }

  // void(std::exception_ptr, std::string): the daemon's figures, a JSON object.
  template <typename Token>
  auto async_stats(CallOptions options, Token&& token) {
    return detail::initiate<std::string>(std::forward<Token>(token), get_executor(),
                                         [core = core_, options](detail::Done<std::string> done) {
                                           start_stats(core, options, done);
                                         });
  }
  template <typename Token>
  auto async_stats(Token&& token) {
    return async_stats(CallOptions(), std::forward<Token>(token));
  }

  // void(std::exception_ptr, std::string): where the key stands and why, as Client::explain().
  template <typename Token>
  auto async_explain(std::string_view key, CallOptions options, Token&& token) {
    return detail::initiate<std::string>(
        std::forward<Token>(token), get_executor(),
        [core = core_, key = std::string(key), options](detail::Done<std::string> done) {
          start_explain(core, key, options, done);
        });
  }
  template <typename Token>
  auto async_explain(std::string_view key, Token&& token) {
    return async_explain(key, CallOptions(), std::forward<Token>(token));
  }

 private:
  using Core = std::shared_ptr<detail::AsyncCore>;
  static void start_get(const Core& core, const std::string& key, const ReadOptions& options,
                        const detail::Done<std::optional<Value>>& done);
  static void start_open(const Core& core, const std::string& key, const ReadOptions& options,
                         const detail::Done<std::optional<AsyncReader>>& done);
  static void start_put(const Core& core, const std::string& key, std::span<const std::byte> bytes,
                        const PutOptions& options, const detail::Done<Stored>& done);
  static void start_remove(const Core& core, const std::string& key, const ChangeOptions& options,
                           const detail::Done<bool>& done);
  static void start_stat(const Core& core, const std::string& key, const CallOptions& options,
                         const detail::Done<std::optional<ValueInfo>>& done);
  static void start_touch(const Core& core, const std::string& key, std::chrono::milliseconds ttl,
                          const ChangeOptions& options,
                          const detail::Done<std::optional<Touched>>& done);
  static void start_ping(const Core& core, const CallOptions& options,
                         const detail::Done<std::chrono::nanoseconds>& done);
  static void start_stats(const Core& core, const CallOptions& options,
                          const detail::Done<std::string>& done);
  static void start_explain(const Core& core, const std::string& key, const CallOptions& options,
                            const detail::Done<std::string>& done);
  Core core_;
};

}  // namespace cistern
