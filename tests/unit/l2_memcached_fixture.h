// A MemcachedStore over one or more real servers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "server/l2/memcached_store.h"
#include "tests/support/memcached_server.h"
#include "tests/unit/l2_redis_fixture.h"

namespace cistern::l2 {

using testing::MemcachedServer;

class MemcachedFixture : public StoreFixture {
 protected:
  static MemcachedOptions options_of(const std::vector<std::uint16_t>& ports) {
    MemcachedOptions options;
    for (const std::uint16_t port : ports) options.servers.push_back({"127.0.0.1", port, 1});
    options.key_prefix = "t:";
    options.op_timeout = seconds(5);
    return options;
  }
  void open_memcached(MemcachedOptions options) {
    pool = std::make_shared<MemcachedPool>(std::move(options));
    pool->start();
    store = std::make_unique<MemcachedStore>(pool, loop, metrics);
  }
  void open_memcached(std::uint16_t port) { open_memcached(options_of({port})); }
  // The store's operations wait for the first attempt to connect; tests that look at the pool
  // don't.
  void wait_up() {
    ASSERT_TRUE(loop.run_until([&] {
      loop.after(milliseconds(5), [] {});
      for (const ServerState& server : pool->states()) {
        if (!server.is_up) return false;
      }
      return true;
    }));
  }

  static std::string manifest_of(const std::string& key) {
    return manifest_name("t:", proto::as_bytes(key));
  }
  Result<std::optional<Stamp>> stamp(const std::string& key) {
    Answer<std::optional<Stamp>> answer;
    store->get_stamp(key, answer.take());
    return wait(answer);
  }
  // A key that lies on the server in question.
  std::string key_on(std::size_t server, const std::string& stem = "key") const {
    for (int i = 0;; ++i) {
      const std::string key = stem + std::to_string(i);
      if (pool->server_of(key) == server) return key;
    }
  }
  void close_all() {
    close();
    pool.reset();
  }

  std::shared_ptr<MemcachedPool> pool;
};

}  // namespace cistern::l2
