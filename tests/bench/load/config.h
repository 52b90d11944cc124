// What kind of load to make, from the JSON object on the command line (README.md has the table).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "proto/endpoint.h"
#include "tests/bench/load/corpus.h"

namespace cistern::bench {

struct Config {
  std::string system;  // cistern, redis, memcached, redis-chunks, hiredis-chunks
  proto::Endpoint endpoint;
  unsigned connections = 1;
  unsigned depth = 1;
  KeyIndex keys = 1;
  KeyIndex first_key = 0;
  std::string key_prefix = "k";
  double zipf = 0;  // 0: uniform
  bool is_sequential = false;
  double scan_share = 0;  // of the requests, through keys that are never repeated
  std::uint64_t seed = 1;
  Sizes value;
  double put_share = 0;  // of the requests; the others are GETs
  std::uint64_t ttl_ms = 0;
  bool puts_on_miss = false;
  std::uint64_t operations = 0;  // that end a run; 0: time does
  double rate = 0;               // requests per second; 0: the next one follows an answer
  std::uint64_t read_bytes_per_second = 0;  // of a connection; 0: as fast as it can
  bool verifies_all = false;
  bool is_churn = false;
  bool uses_library = false;    // the system's own client library, one thread a connection
  std::string chunk_keys_file;  // of the -chunks systems, never empty then
  unsigned chunk_reads = 4;     // GETs under way
};

// Throws std::invalid_argument that says which member is wrong and what it may be.
Config parse_config(std::string_view json);

}  // namespace cistern::bench
