#include "client/cli/commands.h"

#include <cstdio>
#include <ctime>

#include <cistern/client.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "client/cli/explanation.h"
#include "client/cli/files.h"
#include "client/cli/progress.h"

namespace cistern::cli {
namespace {

using Json = nlohmann::ordered_json;

// What is written before the daemon hears again that the transfer moves: a slow pipe takes minutes
// for a whole chunk.
constexpr std::size_t kPieceBytes = 64 * 1024;

void print_line(const std::string& line) {
  std::fputs(line.c_str(), stdout);
  std::fputc('\n', stdout);
}

void print_json(const Json& json) {
  // Keys are bytes; what isn't UTF-8 is shown as U+FFFD rather than refused.
  print_line(json.dump(-1, ' ', false, Json::error_handler_t::replace));
}

std::string readable_expiry(const std::optional<ExpiryTime>& at) {
  if (!at) return "never";
  const std::time_t seconds =
      std::chrono::duration_cast<std::chrono::seconds>(at->time_since_epoch()).count();
  return fmt::format("{:%Y-%m-%d %H:%M:%S} UTC", fmt::gmtime(seconds));
}

Json json_expiry(const std::optional<ExpiryTime>& at) {
  if (!at) return nullptr;
  return at->time_since_epoch().count();
}

std::string readable_tiers(bool in_l1, bool in_l2) {
  if (in_l1) return in_l2 ? "memory and the second tier" : "memory";
  return in_l2 ? "the second tier" : "neither tier";
}

Json parse_or_text(const std::string& text) {
  Json json = Json::parse(text, nullptr, false);
  return json.is_discarded() ? Json(text) : json;
}

Exit not_found(const Arguments& arguments) {
  if (arguments.json) {
    print_json({{"key", arguments.key}, {"found", false}});
  } else if (!arguments.quiet) {
    fmt::print(stderr, "cistern: {}: not found\n", arguments.key);
  }
  return Exit::kNotFound;
}

Json describe(const Arguments& arguments, const ValueInfo& info) {
  Json json{{"key", arguments.key},
            {"found", true},
            {"size", info.size},
            {"version", to_hex(info.version)},
            {"expires_at_ms", json_expiry(info.expires_at)},
            {"metadata", info.metadata.empty() ? Json(nullptr) : parse_or_text(info.metadata)},
            {"chunk_bytes", info.chunk_bytes}};
  return json;
}

// With a bar that is gone when the result is printed.
Stored put_file(Client& client, const Arguments& arguments) {
  InputFile file(arguments.file);
  Progress progress(!arguments.quiet, "put " + arguments.key, file.size());
  const auto source = [&](std::span<std::byte> target) {
    const std::size_t got = file.read(target);
    progress.add(got);
    return got;
  };
  return client.put(arguments.key, source, file.size(),
                    {.ttl = arguments.ttl,
                     .metadata = arguments.metadata,
                     .if_absent = arguments.if_absent,
                     .if_version = arguments.if_version,
                     .timeout = arguments.timeout});
}

Exit put(Client& client, const Arguments& arguments) {
  const Stored stored = put_file(client, arguments);
  if (arguments.json) {
    print_json({{"key", arguments.key},
                {"size", stored.size},
                {"version", to_hex(stored.version)},
                {"expires_at_ms", json_expiry(stored.expires_at)},
                {"in_l1", stored.in_l1},
                {"in_l2", stored.in_l2}});
  } else if (!arguments.quiet) {
    print_line(fmt::format("{}: stored {} ({} bytes) in {}, version {}, expires {}", arguments.key,
                           readable_bytes(stored.size), stored.size,
                           readable_tiers(stored.in_l1, stored.in_l2), to_hex(stored.version),
                           readable_expiry(stored.expires_at)));
  }
  return Exit::kOk;
}

std::optional<Range> to_range(const ByteRange& range) {
  if (!range.first) return std::nullopt;
  Range bytes{.offset = *range.first};
  if (range.last) bytes.length = *range.last - *range.first + 1;
  return bytes;
}

// The last N bytes need the size first; should the value be replaced in between, once more.
std::optional<Reader> open_suffix(Client& client, const Arguments& arguments) {
  for (int attempt = 0; attempt < 3; ++attempt) {
    const auto info = client.stat(arguments.key, {.timeout = arguments.timeout});
    if (!info) return std::nullopt;
    ReadOptions options{.compressed = arguments.compressed, .timeout = arguments.timeout};
    if (info->size > arguments.range->suffix_bytes) {
      options.range = Range{.offset = info->size - arguments.range->suffix_bytes};
    }
    try {
      auto reader = client.open(arguments.key, options);
      if (!reader || reader->info().version == info->version) return reader;
    } catch (const Error& error) {
      if (error.status() != Status::kRangeInvalid) throw;  // it has just become shorter
    }
  }
  throw Failure(Exit::kRetryable, fmt::format("{} was replaced again and again while its size was "
                                              "being asked for; try again",
                                              arguments.key));
}

std::optional<Reader> open(Client& client, const Arguments& arguments) {
  if (arguments.range && !arguments.range->first) return open_suffix(client, arguments);
  ReadOptions options{.compressed = arguments.compressed, .timeout = arguments.timeout};
  if (arguments.range) options.range = to_range(*arguments.range);
  return client.open(arguments.key, options);
}

Exit get(Client& client, const Arguments& arguments) {
  auto reader = open(client, arguments);
  if (!reader) return not_found(arguments);
  OutputFile file(arguments.file);
  {
    Progress progress(!arguments.quiet, "get " + arguments.key, reader->length());
    while (true) {
      const std::span<const std::byte> bytes = reader->next(kPieceBytes);
      if (bytes.empty()) break;
      file.write(bytes);
      progress.add(bytes.size());
    }
  }
  file.finish();
  if (arguments.json) {
    Json json = describe(arguments, reader->info());
    json["bytes_written"] = reader->length();
    json["output"] = arguments.file;
    print_json(json);
  } else if (!arguments.quiet && arguments.file != "-") {
    print_line(fmt::format("{}: {} ({} bytes) written to {}, verified", arguments.key,
                           readable_bytes(reader->length()), reader->length(), arguments.file));
  }
  return Exit::kOk;
}

Exit remove(Client& client, const Arguments& arguments) {
  const bool found = client.remove(
      arguments.key, {.if_version = arguments.if_version, .timeout = arguments.timeout});
  if (!found) return not_found(arguments);
  if (arguments.json) {
    print_json({{"key", arguments.key}, {"found", true}, {"removed", true}});
  } else if (!arguments.quiet) {
    print_line(fmt::format("{}: removed", arguments.key));
  }
  return Exit::kOk;
}

Exit stat(Client& client, const Arguments& arguments) {
  const auto info = client.stat(arguments.key, {.timeout = arguments.timeout});
  if (!info) return not_found(arguments);
  if (arguments.json) {
    Json json = describe(arguments, *info);
    json["in_l1"] = info->in_l1;
    json["in_l2"] = info->in_l2;
    json["degraded"] = info->degraded;
    json["age_ms"] = info->age ? Json(info->age->count()) : Json(nullptr);
    print_json(json);
    return Exit::kOk;
  }
  if (arguments.quiet) return Exit::kOk;
  print_line(fmt::format("key:      {}", arguments.key));
  print_line(fmt::format("size:     {} bytes ({})", info->size, readable_bytes(info->size)));
  print_line(fmt::format("version:  {}", to_hex(info->version)));
  print_line(fmt::format("expires:  {}", readable_expiry(info->expires_at)));
  print_line(fmt::format("held in:  {}", readable_tiers(info->in_l1, info->in_l2)));
  print_line(fmt::format("chunks:   of {} bytes", info->chunk_bytes));
  if (!info->metadata.empty()) print_line(fmt::format("metadata: {}", info->metadata));
  if (info->degraded) {
    print_line(info->age
                   ? fmt::format("degraded: the second tier could not be asked; this is what it "
                                 "had {} ms ago",
                                 info->age->count())
                   : std::string("degraded: the second tier could not be asked"));
  }
  return Exit::kOk;
}

Exit touch(Client& client, const Arguments& arguments) {
  const auto touched =
      client.touch(arguments.key, *arguments.ttl,
                   {.if_version = arguments.if_version, .timeout = arguments.timeout});
  if (!touched) return not_found(arguments);
  if (arguments.json) {
    print_json({{"key", arguments.key},
                {"found", true},
                {"version", to_hex(touched->version)},
                {"expires_at_ms", json_expiry(touched->expires_at)}});
  } else if (!arguments.quiet) {
    print_line(fmt::format("{}: expires {}", arguments.key, readable_expiry(touched->expires_at)));
  }
  return Exit::kOk;
}

Exit ping(Client& client, const Arguments& arguments) {
  const std::chrono::nanoseconds took = client.ping({.timeout = arguments.timeout});
  const double ms = std::chrono::duration<double, std::milli>(took).count();
  if (arguments.json) {
    print_json({{"server", arguments.server}, {"round_trip_ms", ms}});
  } else if (!arguments.quiet) {
    print_line(fmt::format("{} answered in {:.3f} ms", arguments.server, ms));
  }
  return Exit::kOk;
}

// A key that isn't there is no failure here: why it isn't is the answer.
Exit explain(Client& client, const Arguments& arguments) {
  const std::string text = client.explain(arguments.key, {.timeout = arguments.timeout});
  const Json json = Json::parse(text, nullptr, false);
  if (arguments.json || !json.is_object()) {
    print_line(text);
  } else if (!arguments.quiet) {
    print_line(fmt::format("key:         {}", arguments.key));
    for (const std::string& line : explanation_lines(json)) print_line(line);
  }
  return Exit::kOk;
}

Exit stats(Client& client, const Arguments& arguments) {
  const std::string text = client.stats({.timeout = arguments.timeout});
  const Json json = Json::parse(text, nullptr, false);
  if (arguments.json || json.is_discarded()) {
    print_line(text);
  } else {
    print_line(json.dump(2, ' ', false, Json::error_handler_t::replace));
  }
  return Exit::kOk;
}

}  // namespace

Exit run(const Arguments& arguments) {
  Client client({.endpoint = arguments.server, .name = "cistern command"});
  switch (arguments.command) {
    case Command::kPut:
      return put(client, arguments);
    case Command::kGet:
      return get(client, arguments);
    case Command::kRemove:
      return remove(client, arguments);
    case Command::kStat:
      return stat(client, arguments);
    case Command::kTouch:
      return touch(client, arguments);
    case Command::kPing:
      return ping(client, arguments);
    case Command::kStats:
      return stats(client, arguments);
    case Command::kExplain:
      return explain(client, arguments);
    case Command::kNone:
      break;
  }
  return Exit::kUsage;
}

}  // namespace cistern::cli
