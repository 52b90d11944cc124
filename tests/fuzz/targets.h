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
// A manifest or a chunk's header as it lies in a second tier: what is accepted is within every
// bound and says the same when it is written again; what isn't is a loss with its reason. The first
// byte chooses which, and whether a manifest is given a digest that fits.
void envelope(Bytes input);
// What Redis answers on a connection for chunks, cut into pieces.
void redis_replies(Bytes input);
// The decoder of compressed chunks. The first two bytes are the chunk's recorded size less one.
void compressed_chunk(Bytes input);

struct Target {
  std::string_view name;  // of its folder in corpus/
  void (*run)(Bytes);
};
inline constexpr Target kTargets[] = {
    {"messages", messages},
    {"server_conn", server_conn},
    {"client_conn", client_conn},
    {"json", json},
    {"envelope", envelope},
    {"redis_replies", redis_replies},
    {"compressed_chunk", compressed_chunk},
};

}  // namespace cistern::fuzz
