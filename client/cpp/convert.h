// Between the library's public types and the wire's. Internal.
#pragma once

#include <cstdint>
#include <exception>
#include <optional>
#include <string_view>

#include <cistern/error.h>
#include <cistern/types.h>

#include "proto/messages.h"

namespace cistern::detail {

Error to_public(const proto::Error& error);
std::exception_ptr to_exception(const proto::Error& error);

ValueInfo to_info(const proto::ValueHead& head);
ValueInfo to_info(const proto::Info& info);
Stored to_stored(const proto::Stored& stored);
Touched to_touched(const proto::Done& done);

// A time to live as the wire has it; kUsage for a negative one or one past proto::kMaxTtlMs.
proto::Result<std::uint64_t> to_ttl(std::optional<std::chrono::milliseconds> ttl);

// What the server's limits exclude; its own message would say the same.
std::optional<proto::Error> check_key(std::string_view key, const proto::Welcome& limits);
std::optional<proto::Error> check_metadata(std::string_view metadata, const proto::Welcome& limits);

// The digest of a whole value in memory.
proto::ValueDigest value_digest(proto::Bytes bytes, std::uint32_t chunk_bytes);

}  // namespace cistern::detail
