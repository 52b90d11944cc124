// Redis' protocol (RESP2) as far as the chunk connections speak it, and what its errors mean to us.
// Bytes in, bytes out; no sockets.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "server/base/types.h"

namespace cistern::l2 {

// Appends a command as an array of bulk strings.
void append_command(std::string& out, std::initializer_list<std::string_view> words);

// The first line of a reply.
struct ReplyHead {
  enum class Kind { kSimple, kError, kInteger, kBulk, kNil };
  Kind kind = Kind::kNil;
  std::string_view text;     // of kSimple, kError and kInteger; refers to the input
  std::uint64_t length = 0;  // of kBulk: the bytes that follow, before their CR LF
};
struct ParsedHead {
  enum class State { kComplete, kUnfinished, kInvalid };
  State state = State::kUnfinished;
  ReplyHead head;
  std::size_t consumed = 0;  // of kComplete: bytes of the input that the line took
};
// A reply at the front of `input`. Arrays are kInvalid: no command of ours is answered by one.
ParsedHead parse_reply_head(base::Bytes input);

// An error reply, its text without the '-', as the operation's outcome: a status and a message that
// says what the operator has to do. Such an operation has changed nothing.
base::Error redis_error(std::string_view reply);

}  // namespace cistern::l2
