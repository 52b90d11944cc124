// The systems' own client libraries, blocking: one object is one connection.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "tests/bench/load/config.h"

namespace cistern::bench {

class LibraryClient {
 public:
  virtual ~LibraryClient() = default;
  // Gets the value's bytes as the library hands them out: in one piece, or in several.
  using Take = std::function<void(proto::Bytes)>;
  // Each throws std::runtime_error when the operation fails. False: a miss.
  virtual bool get(const std::string& key, const Take& take) = 0;
  // False: the server has no room for it.
  virtual bool put(const std::string& key, proto::Bytes value) = 0;
};

// Connected: they throw std::runtime_error when the server can't be reached.
std::unique_ptr<LibraryClient> connect_cistern_client(const Config& config);
std::unique_ptr<LibraryClient> connect_libmemcached(const Config& config);
std::unique_ptr<LibraryClient> connect_hiredis(const Config& config);

}  // namespace cistern::bench
