// Cistern's own library, blocking. Values are read as they arrive, chunk by chunk, each verified by
// its digest: the library has no way around that.
#include <chrono>

#include "client/cpp/client.h"
#include "client/cpp/error.h"
#include "tests/bench/load/library_client.h"

namespace cistern::bench {
namespace {

class CisternClient final : public LibraryClient {
 public:
  explicit CisternClient(const Config& config)
      : client_({.endpoint = proto::to_string(config.endpoint), .name = "cistern-load"}) {
    options_.ttl = std::chrono::milliseconds(config.ttl_ms);
    client_.ping();
  }

  bool get(const std::string& key, const Take& take) override {
    std::optional<Reader> reader = client_.open(key);
    if (!reader) return false;
    for (;;) {
      const std::span<const std::byte> bytes = reader->next();
      if (bytes.empty()) return true;
      take(bytes);
    }
  }

  bool put(const std::string& key, proto::Bytes value) override {
    try {
      client_.put(key, value, options_);
      return true;
    } catch (const Error& error) {
      if (error.status() == Status::kNoRoom || error.status() == Status::kValueTooLarge)
        return false;
      throw;
    }
  }

 private:
  Client client_;
  PutOptions options_;
};

}  // namespace

std::unique_ptr<LibraryClient> connect_cistern_client(const Config& config) {
  return std::make_unique<CisternClient>(config);
}

}  // namespace cistern::bench
