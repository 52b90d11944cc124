// Which of several memcached servers has a key: ketama, exactly as libmemcached chooses
// (MEMCACHED_BEHAVIOR_KETAMA, with weights MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED), so that other
// clients with the same list of servers look in the same place.
//
// The choice depends on the names, ports and weights alone, not on their order, and never on which
// of them answer: no key moves because a server is down, since it would come back with what was
// stored there before.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "server/l2/memcached_options.h"

struct memcached_st;

namespace cistern::l2 {

class Ketama {
 public:
  // At least one server.
  Ketama(const std::vector<MemcachedAddress>& servers, bool is_weighted);
  Ketama(const Ketama&) = delete;
  Ketama& operator=(const Ketama&) = delete;

  // The place in `servers`. Any thread.
  std::size_t server_of(std::string_view key) const;

 private:
  struct Free {
    void operator()(memcached_st* client) const;
  };
  // libmemcached's continuum; nothing ever connects.
  std::unique_ptr<memcached_st, Free> continuum_;
};

}  // namespace cistern::l2
