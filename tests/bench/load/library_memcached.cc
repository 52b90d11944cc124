// libmemcached, with its defaults but for Nagle's delay: the text protocol, and a value in one
// piece of memory that it allocates.
#include <cstdlib>
#include <stdexcept>

#include <libmemcached/memcached.h>

#include "tests/bench/load/library_client.h"

namespace cistern::bench {
namespace {

constexpr std::uint64_t kMsPerSecond = 1000;
constexpr std::int32_t kTimeoutMs = 30'000;

class Libmemcached final : public LibraryClient {
 public:
  explicit Libmemcached(const Config& config)
      : memc_(memcached_create(nullptr)),
        ttl_s_(static_cast<time_t>((config.ttl_ms + kMsPerSecond - 1) / kMsPerSecond)) {
    if (memc_ == nullptr) throw std::bad_alloc();
    memcached_behavior_set(memc_.get(), MEMCACHED_BEHAVIOR_TCP_NODELAY, 1);
    memcached_behavior_set(memc_.get(), MEMCACHED_BEHAVIOR_POLL_TIMEOUT, kTimeoutMs);
    const memcached_return_t added =
        config.endpoint.kind == proto::Endpoint::Kind::kUnix
            ? memcached_server_add_unix_socket(memc_.get(), config.endpoint.path.c_str())
            : memcached_server_add(memc_.get(), config.endpoint.host.c_str(), config.endpoint.port);
    if (memcached_failed(added) || memcached_failed(memcached_version(memc_.get()))) {
      throw std::runtime_error("cannot connect to " + proto::to_string(config.endpoint) + ": " +
                               memcached_last_error_message(memc_.get()) +
                               "; is the server running there?");
    }
  }

  bool get(const std::string& key, const Take& take) override {
    std::size_t bytes = 0;
    std::uint32_t flags = 0;
    memcached_return_t result = MEMCACHED_FAILURE;
    const std::unique_ptr<char, Free> value(
        memcached_get(memc_.get(), key.data(), key.size(), &bytes, &flags, &result));
    if (result == MEMCACHED_NOTFOUND) return false;
    check(result);
    take({reinterpret_cast<const std::byte*>(value.get()), bytes});
    return true;
  }

  bool put(const std::string& key, proto::Bytes value) override {
    const memcached_return_t result = memcached_set(
        memc_.get(), key.data(), key.size(), proto::as_text(value).data(), value.size(), ttl_s_, 0);
    if (result == MEMCACHED_E2BIG || result == MEMCACHED_NOTSTORED ||
        result == MEMCACHED_SERVER_MEMORY_ALLOCATION_FAILURE) {
      return false;
    }
    check(result);
    return true;
  }

 private:
  struct Free {
    void operator()(char* value) const { std::free(value); }
    void operator()(memcached_st* memc) const { memcached_free(memc); }
  };

  void check(memcached_return_t result) const {
    if (memcached_success(result)) return;
    throw std::runtime_error(std::string("libmemcached: ") +
                             memcached_strerror(memc_.get(), result));
  }

  std::unique_ptr<memcached_st, Free> memc_;
  time_t ttl_s_;
};

}  // namespace

std::unique_ptr<LibraryClient> connect_libmemcached(const Config& config) {
  return std::make_unique<Libmemcached>(config);
}

}  // namespace cistern::bench
