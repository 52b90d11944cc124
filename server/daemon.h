// Turns the configuration into what the parts want to be told. Pure but for the kernel's limits.
#pragma once

#include <optional>
#include <string>

#include "config/config.h"
#include "server/base/log.h"
#include "server/base/memory.h"
#include "server/l2/codec_options.h"
#include "server/l2/memcached_options.h"
#include "server/l2/redis_options.h"
#include "server/net/server.h"
#include "server/service/service.h"

namespace cistern {

log::Options log_options(const config::Config& config);
// Reads l2.redis.password_file, if there is one.
base::Result<l2::RedisOptions> redis_options(const config::Config& config);
l2::MemcachedOptions memcached_options(const config::Config& config);
service::Options service_options(const config::Config& config);

l2::CodecOptions codec_options(const config::Config& config, unsigned workers);

struct MemoryBudgets {
  base::Ledger::Budgets budgets;
  std::string limit_source;                          // for the log
  std::optional<base::CgroupFolder> limit_cgroup{};  // whose limit it is, if it is one's
  unsigned workers = 1;
  l2::CodecMemory codec;  // with an L2
};
// Resolves `auto`. The error is a configuration's, for exit status 2.
base::Result<MemoryBudgets> memory_budgets(const config::Config& config);

net::ServerOptions server_options(const config::Config& config, unsigned workers,
                                  const std::string& version);

// Raises the soft limit of open files to the hard one, and warns where that is less than the
// connections need.
void raise_file_limit(const config::Config& config, unsigned workers);

}  // namespace cistern
