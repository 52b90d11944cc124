#include "server/l2/ketama.h"

#include <fmt/format.h>
#include <libmemcached/memcached.h>

#include "server/base/check.h"

namespace cistern::l2 {

std::string display(const MemcachedAddress& address) {
  const bool is_ipv6 = address.host.find(':') != std::string::npos;
  return is_ipv6 ? fmt::format("[{}]:{}", address.host, address.port)
                 : fmt::format("{}:{}", address.host, address.port);
}

void Ketama::Free::operator()(memcached_st* client) const { memcached_free(client); }

Ketama::Ketama(const std::vector<MemcachedAddress>& servers, bool is_weighted)
    : continuum_(memcached_create(nullptr)) {
  CHECK(continuum_ != nullptr && !servers.empty());
  memcached_behavior_set(
      continuum_.get(),
      is_weighted ? MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED : MEMCACHED_BEHAVIOR_KETAMA, 1);
  for (const MemcachedAddress& server : servers) {
    // Without weights all have 0, which is what libmemcached gives to who names none.
    const auto added = memcached_server_add_with_weight(
        continuum_.get(), server.host.c_str(), server.port, is_weighted ? server.weight : 0);
    CHECK(added == MEMCACHED_SUCCESS);
  }
}

std::size_t Ketama::server_of(std::string_view key) const {
  return memcached_generate_hash(continuum_.get(), key.data(), key.size());
}

}  // namespace cistern::l2
