// What is fuzzed: functions of any bytes that end the process when a promise is broken.
#pragma once

#include <span>
#include <string_view>

#include "proto/bytes.h"

namespace cistern::fuzz {

using proto::Bytes;

// Every decoder on the same payload; what it takes must survive being encoded again. The first
// byte chooses the decoder.
void messages(Bytes input);
// ServerConn on what a client sends. The first bytes choose how the input is cut, whether HELLO
// goes before it, and who answers; the answers must not depend on the cuts.
void server_conn(Bytes input);
// ClientConn on what a server sends, with requests of every kind under way, some of them cancelled
// meanwhile.
void client_conn(Bytes input);
// The JSON checker.
void json(Bytes input);

struct Target {
  std::string_view name;  // of its folder in corpus/
  void (*run)(Bytes);
};
inline constexpr Target kTargets[] = {
    {"messages", messages},
    {"server_conn", server_conn},
    {"client_conn", client_conn},
    {"json", json},
};

}  // namespace cistern::fuzz
