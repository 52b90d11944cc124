// A daemon of two workers whose second tier another daemon writes, too: that one's part, and what
// the second tier tells of it, are the test's.
#pragma once

#include <string>

#include "tests/support/service_fixture.h"

namespace cistern::testing {

using namespace std::chrono_literals;
using service::OnStale;

inline constexpr auto kBound = 5s;
inline constexpr std::size_t kLarge = 5 * kChunk + 17;

inline ServiceSetup coherent(OnStale on_stale = OnStale::kError, std::size_t mark_slots = 1 << 12) {
  ServiceSetup how;
  how.freshness = {kBound, on_stale, 20ms};
  how.mark_slots = mark_slots;
  return how;
}

// Two workers of one daemon, and a hand that does in L2 what another daemon does.
class CoherentWorkers : public Workers {
 public:
  explicit CoherentWorkers(OnStale on_stale = OnStale::kError)
      : CoherentWorkers(coherent(on_stale)) {}
  explicit CoherentWorkers(const ServiceSetup& how) : Workers(how) {}

  void other_puts(const std::string& key, const std::string& text, std::uint64_t ttl_ms = 0) {
    l2::Manifest manifest;
    manifest.meta.size = text.size();
    manifest.meta.version = ++last_version_;
    manifest.meta.chunk_bytes = kChunk;
    manifest.meta.digest = digest_of(text);
    if (ttl_ms != 0) manifest.meta.expires_at_ms = loop().unix_ms() + ttl_ms;
    const base::Bytes bytes = proto::as_bytes(text);
    manifest.inline_bytes.assign(bytes.begin(), bytes.end());
    manifest.inline_digest = proto::chunk_digest(bytes);
    l2().manifests[key] = manifest;
  }
  void other_touches(const std::string& key, std::uint64_t ttl_ms) {
    l2().manifests.at(key).meta.expires_at_ms = loop().unix_ms() + ttl_ms;
  }
  void other_removes(const std::string& key) { l2().manifests.erase(key); }
  // The invalidation arrives, a moment after what happened before and before what comes.
  void told(const std::string& key) {
    advance(1ms);
    invalidations().arrived(key, loop().now());
    advance(1ms);
  }
  void complete(bool first = false) { invalidations().complete_until(loop().now(), first); }

  std::size_t stamps() const { return stores_count(Step::kStamp); }
  std::size_t manifests() const { return stores_count(Step::kManifest); }
  // What a GET gives: the text, or the status' name.
  std::string sees(const std::string& key, std::size_t worker = 0) {
    const auto getter = read(key, {}, worker);
    return getter->error ? std::string(proto::name(getter->status())) : getter->bytes;
  }
  proto::Result<proto::Info> stat(const std::string& key) {
    proto::Result<proto::Info> result = base::fail(Status::kInternal, "unanswered");
    const auto operation = service().stat(
        {proto::as_bytes(key), {}}, [&](const proto::Result<proto::Info>& info) { result = info; });
    settle();
    return result;
  }

 private:
  std::size_t stores_count(Step step) const {
    auto& self = const_cast<CoherentWorkers&>(*this);
    return self.store(0).count(step) + self.store(1).count(step);
  }
  base::Version last_version_ = 100;
};

}  // namespace cistern::testing
