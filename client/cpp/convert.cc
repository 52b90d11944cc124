#include "client/cpp/convert.h"

#include <algorithm>
#include <charconv>
#include <string>

#include <fmt/format.h>

namespace cistern {

std::string to_hex(Version version) { return fmt::format("{:016x}", version); }

std::optional<Version> parse_version(std::string_view text) {
  Version version = 0;
  const char* const end = text.data() + text.size();
  if (text.empty() || text.size() > 16) return std::nullopt;
  const auto [at, error] = std::from_chars(text.data(), end, version, 16);
  if (error != std::errc() || at != end) return std::nullopt;
  return version;
}

namespace detail {
namespace {

std::optional<ExpiryTime> to_expiry(std::uint64_t unix_ms) {
  if (unix_ms == 0) return std::nullopt;
  return ExpiryTime(std::chrono::milliseconds(static_cast<std::int64_t>(unix_ms)));
}

template <typename Message>
ValueInfo info_of(const Message& message) {
  ValueInfo info;
  info.size = message.size;
  info.version = message.version;
  info.expires_at = to_expiry(message.expires_at_ms);
  info.metadata = proto::as_text(message.metadata);
  info.chunk_bytes = message.chunk_bytes;
  info.in_l1 = (message.flags & proto::kInL1) != 0;
  info.in_l2 = (message.flags & proto::kInL2) != 0;
  info.degraded = (message.flags & proto::kValueDegraded) != 0;
  return info;
}

}  // namespace

Error to_public(const proto::Error& error) {
  const std::string_view text =
      error.message.empty() ? proto::info(error.status).text : std::string_view(error.message);
  return {static_cast<Status>(error.status), text};
}

std::exception_ptr to_exception(const proto::Error& error) {
  return std::make_exception_ptr(to_public(error));
}

ValueInfo to_info(const proto::ValueHead& head) { return info_of(head); }
ValueInfo to_info(const proto::Info& info) { return info_of(info); }

Stored to_stored(const proto::Stored& stored) {
  return {.version = stored.version,
          .size = stored.size,
          .expires_at = to_expiry(stored.expires_at_ms),
          .in_l1 = (stored.flags & proto::kInL1) != 0,
          .in_l2 = (stored.flags & proto::kInL2) != 0,
          .degraded = (stored.flags & proto::kValueDegraded) != 0};
}

Touched to_touched(const proto::Done& done) {
  return {.version = done.version, .expires_at = to_expiry(done.expires_at_ms)};
}

proto::Result<std::uint64_t> to_ttl(std::optional<std::chrono::milliseconds> ttl) {
  if (!ttl) return proto::kDefaultTtl;
  const std::int64_t ms = ttl->count();
  if (ms < 0 || static_cast<std::uint64_t>(ms) > proto::kMaxTtlMs) {
    return proto::fail(proto::Status::kUsage,
                       fmt::format("a time to live of {} ms; it must be between 0 (never expires) "
                                   "and {} ms",
                                   ms, proto::kMaxTtlMs));
  }
  return static_cast<std::uint64_t>(ms);
}

std::optional<proto::Error> check_key(std::string_view key, const proto::Welcome& limits) {
  if (key.empty()) return proto::Error{proto::Status::kUsage, "the key is empty"};
  if (key.size() <= limits.max_key_bytes) return std::nullopt;
  return proto::Error{proto::Status::kKeyTooLarge,
                      fmt::format("the key has {} bytes; the daemon's limits.max_key_bytes is {}",
                                  key.size(), limits.max_key_bytes)};
}

std::optional<proto::Error> check_metadata(std::string_view metadata,
                                           const proto::Welcome& limits) {
  if (metadata.size() <= limits.max_metadata_bytes) return std::nullopt;
  return proto::Error{
      proto::Status::kMetadataTooLarge,
      fmt::format("the metadata has {} bytes; the daemon's limits.max_metadata_bytes is {}",
                  metadata.size(), limits.max_metadata_bytes)};
}

proto::ValueDigest value_digest(proto::Bytes bytes, std::uint32_t chunk_bytes) {
  if (bytes.size() <= chunk_bytes) {
    return proto::ValueHasher::of_single(proto::chunk_digest(bytes), chunk_bytes, bytes.size());
  }
  proto::ValueHasher hasher;
  for (std::size_t at = 0; at < bytes.size(); at += chunk_bytes) {
    const std::size_t size = std::min<std::size_t>(chunk_bytes, bytes.size() - at);
    hasher.add(proto::chunk_digest(bytes.subspan(at, size)));
  }
  return hasher.finish(chunk_bytes, bytes.size());
}

}  // namespace detail
}  // namespace cistern
