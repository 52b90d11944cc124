#include "server/l2/redis_protocol.h"

#include <array>
#include <charconv>

#include <fmt/format.h>

namespace cistern::l2 {

void append_command(std::string& out, std::initializer_list<std::string_view> words) {
  fmt::format_to(std::back_inserter(out), "*{}\r\n", words.size());
  for (const std::string_view word : words) {
    fmt::format_to(std::back_inserter(out), "${}\r\n", word.size());
    out.append(word).append("\r\n");
  }
}

namespace {

constexpr std::uint64_t kMaxBulkBytes = std::uint64_t{1} << 40;

ParsedHead bulk_head(std::string_view length, std::size_t consumed) {
  ParsedHead parsed;
  parsed.consumed = consumed;
  parsed.state = ParsedHead::State::kComplete;
  if (length == "-1") return parsed;
  std::uint64_t bytes = 0;
  const auto [end, error] = std::from_chars(length.data(), length.data() + length.size(), bytes);
  if (error != std::errc() || end != length.data() + length.size() || bytes > kMaxBulkBytes) {
    parsed.state = ParsedHead::State::kInvalid;
  }
  parsed.head.kind = ReplyHead::Kind::kBulk;
  parsed.head.length = bytes;
  return parsed;
}

struct Meaning {
  std::string_view code;  // the reply's first word
  base::Status status;
  std::string_view advice;
};

using base::Status;
constexpr auto kMeanings = std::to_array<Meaning>({
    {"OOM", Status::kL2Error,
     "Redis is full: raise its maxmemory, or set maxmemory-policy to allkeys-lru"},
    {"READONLY", Status::kL2Unavailable, "l2.redis.url names a replica: point it at the primary"},
    {"LOADING", Status::kL2Unavailable, "Redis is loading its data: it answers when it is done"},
    {"MASTERDOWN", Status::kL2Unavailable, "l2.redis.url names a replica without its primary"},
    {"NOAUTH", Status::kL2Unavailable,
     "Redis wants a login: put user and password into l2.redis.url, or into l2.redis.user and "
     "l2.redis.password_file"},
    {"WRONGPASS", Status::kL2Unavailable,
     "Redis refuses the login: correct user and password in l2.redis.url, or in l2.redis.user and "
     "l2.redis.password_file"},
    {"DENIED", Status::kL2Unavailable,
     "Redis is in protected mode and takes connections of its own machine alone: give it a "
     "password, "
     "or a bind address"},
    {"NOPERM", Status::kL2Error,
     "the Redis user of this daemon lacks a permission: grant it the commands and the key prefix"},
    {"MOVED", Status::kL2Error,
     "l2.redis.url names a node of a Redis Cluster, which is not supported: use a single Redis"},
    {"ASK", Status::kL2Error,
     "l2.redis.url names a node of a Redis Cluster, which is not supported: use a single Redis"},
    {"CLUSTERDOWN", Status::kL2Unavailable,
     "the Redis Cluster is down, and none is supported: use a single Redis"},
    {"TRYAGAIN", Status::kL2Busy,
     "the Redis Cluster is being resharded, and none is supported: use a single Redis"},
    {"MISCONF", Status::kL2Error,
     "Redis cannot save to its disk and refuses writes: repair that, or turn its snapshots off"},
    {"NOREPLICAS", Status::kL2Unavailable, "Redis has fewer replicas than min-replicas-to-write"},
    {"BUSY", Status::kL2Busy,
     "Redis is busy with somebody's slow script: wait for it, or end it with SCRIPT KILL"},
    {"WRONGTYPE", Status::kL2Error,
     "something else uses the same keys: choose another l2.redis.key_prefix"},
});

// What has no code of its own but ERR; `code` is a part of the text.
constexpr auto kWithoutCode = std::to_array<Meaning>({
    {"max number of clients", Status::kL2Unavailable,
     "Redis has no connection left: raise its maxclients"},
    {"without any password configured", Status::kL2Unavailable,
     "Redis has no password, and l2.redis.url or l2.redis.password_file gives one: take it out, or "
     "give Redis one"},
    {"DB index is out of range", Status::kL2Unavailable,
     "l2.redis.url names a database that Redis does not have: name another, or raise its "
     "databases"},
    {"unknown command", Status::kL2Error,
     "Redis lacks a command that Cistern needs: it must be 7.0 or later, with none renamed"},
});

}  // namespace

ParsedHead parse_reply_head(base::Bytes input) {
  const std::string_view text = proto::as_text(input);
  ParsedHead parsed;
  const std::size_t end = text.find("\r\n");
  if (end == std::string_view::npos) return parsed;
  if (end == 0) {
    parsed.state = ParsedHead::State::kInvalid;
    return parsed;
  }
  const std::string_view line = text.substr(1, end - 1);
  parsed.consumed = end + 2;
  parsed.state = ParsedHead::State::kComplete;
  parsed.head.text = line;
  switch (text[0]) {
    case '+':
      parsed.head.kind = ReplyHead::Kind::kSimple;
      break;
    case '-':
      parsed.head.kind = ReplyHead::Kind::kError;
      break;
    case ':':
      parsed.head.kind = ReplyHead::Kind::kInteger;
      break;
    case '$':
      return bulk_head(line, parsed.consumed);
    default:
      parsed.state = ParsedHead::State::kInvalid;
      break;
  }
  return parsed;
}

base::Error redis_error(std::string_view reply) {
  std::string_view code = reply.substr(0, reply.find(' '));
  // Within a script a missing permission has no code of its own.
  if (reply.find("user executing the script can't") != std::string_view::npos) code = "NOPERM";
  for (const Meaning& meaning : kMeanings) {
    if (meaning.code == code) {
      return {meaning.status, fmt::format("{} (Redis said: {})", meaning.advice, reply)};
    }
  }
  for (const Meaning& meaning : kWithoutCode) {
    if (reply.find(meaning.code) != std::string_view::npos) {
      return {meaning.status, fmt::format("{} (Redis said: {})", meaning.advice, reply)};
    }
  }
  return {Status::kL2Error, fmt::format("Redis answered with an error: {}", reply)};
}

}  // namespace cistern::l2
