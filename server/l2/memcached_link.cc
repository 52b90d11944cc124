#include "server/l2/memcached_link.h"

#include <charconv>
#include <chrono>
#include <cstdlib>
#include <vector>

#include <fmt/format.h>
#include <libmemcached/memcached.h>

#include "server/base/check.h"

namespace cistern::l2 {
namespace {

using base::Status;
using std::chrono::steady_clock;

// What the client takes beside an item: its own bookkeeping.
constexpr std::size_t kSmallBytes = 64 * proto::kKiB;

std::uint64_t ms(base::Duration duration) {
  const auto count = std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
  return static_cast<std::uint64_t>(std::max<std::int64_t>(1, count));
}

std::optional<std::uint64_t> number(std::string_view text) {
  std::uint64_t value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  if (parsed.ec != std::errc()) return std::nullopt;
  return value;
}

// The allocator of a client: malloc, but for an item that is larger than it may be. `context` says
// how much that is.
struct Memory {
  std::size_t* most_bytes;
  bool* was_too_large;

  bool allows(std::size_t bytes) const {
    if (bytes <= std::max(kSmallBytes, *most_bytes)) return true;
    *was_too_large = true;
    return false;
  }
};

void* take(const memcached_st*, const std::size_t bytes, void* context) {
  return static_cast<Memory*>(context)->allows(bytes) ? std::malloc(bytes) : nullptr;
}
void give_back(const memcached_st*, void* memory, void*) { std::free(memory); }
void* resize(const memcached_st*, void* memory, const std::size_t bytes, void* context) {
  return static_cast<Memory*>(context)->allows(bytes) ? std::realloc(memory, bytes) : nullptr;
}
void* take_zeroed(const memcached_st*, std::size_t count, const std::size_t size, void* context) {
  return static_cast<Memory*>(context)->allows(count * size) ? std::calloc(count, size) : nullptr;
}

struct Stat {
  std::string_view key;
  std::optional<std::uint64_t> found;
};

memcached_return_t on_stat(const memcached_instance_st*, const char* key, std::size_t key_length,
                           const char* value, std::size_t value_length, void* context) {
  Stat& stat = *static_cast<Stat*>(context);
  if (std::string_view(key, key_length) == stat.key) stat.found = number({value, value_length});
  return MEMCACHED_SUCCESS;
}

// Whether the server itself has refused: then nothing was done.
bool is_refusal(memcached_return_t code) {
  return code == MEMCACHED_E2BIG || code == MEMCACHED_SERVER_MEMORY_ALLOCATION_FAILURE ||
         code == MEMCACHED_CLIENT_ERROR || code == MEMCACHED_SERVER_ERROR ||
         code == MEMCACHED_ERROR || code == MEMCACHED_BAD_KEY_PROVIDED;
}

}  // namespace

void MemcachedLink::Free::operator()(memcached_st* client) const {
  auto* const memory = static_cast<Memory*>(memcached_get_memory_allocators_context(client));
  memcached_free(client);
  delete memory;
}

MemcachedLink::MemcachedLink(const MemcachedOptions& options, const MemcachedAddress& address,
                             MemcachedClock& clock)
    : options_(options), address_(address), clock_(clock) {}

MemcachedLink::~MemcachedLink() = default;

base::Error MemcachedLink::describe(Status status, std::string_view what) const {
  return {status, fmt::format("memcached at {}: {}", display(address_), what)};
}

void MemcachedLink::drop() {
  client_.reset();
  is_used_ = false;
}

std::optional<base::Error> MemcachedLink::take_trouble() {
  return std::exchange(trouble_, std::nullopt);
}

base::Error MemcachedLink::no_answer(int code_number) {
  const auto code = static_cast<memcached_return_t>(code_number);
  const bool is_late = code == MEMCACHED_TIMEOUT;
  std::string what;
  if (is_late) {
    what = fmt::format("no byte within l2.memcached.op_timeout ({} ms)", ms(options_.op_timeout));
  } else if (code == MEMCACHED_CONNECTION_FAILURE) {
    what = "the connection broke";
  } else {
    what = memcached_strerror(client_.get(), code);
  }
  trouble_ = describe(is_late ? Status::kL2Timeout : Status::kL2Unavailable, what);
  drop();
  return *trouble_;
}

base::Result<std::uint64_t> MemcachedLink::greet() {
  drop();
  if (auto ready = ensure(); !ready) return tl::unexpected(ready.error());
  return server_item_bytes_;
}

base::Result<void> MemcachedLink::ensure() {
  if (client_) return {};
  auto memory = std::make_unique<Memory>(Memory{&most_bytes_, &was_too_large_});
  std::unique_ptr<memcached_st, Free> client(memcached_create(nullptr));
  CHECK(client != nullptr);
  memcached_set_memory_allocators(client.get(), take, give_back, resize, take_zeroed,
                                  memory.release());
  const auto set = [&](memcached_behavior_t behavior, std::uint64_t value) {
    CHECK(memcached_behavior_set(client.get(), behavior, value) == MEMCACHED_SUCCESS);
  };
  set(MEMCACHED_BEHAVIOR_TCP_NODELAY, 1);
  set(MEMCACHED_BEHAVIOR_SUPPORT_CAS, 1);
  set(MEMCACHED_BEHAVIOR_POLL_TIMEOUT, ms(options_.op_timeout));
  set(MEMCACHED_BEHAVIOR_CONNECT_TIMEOUT, ms(options_.connect_timeout));
  set(MEMCACHED_BEHAVIOR_SOCKET_SEND_SIZE, kMemcachedSocketBufferBytes);
  set(MEMCACHED_BEHAVIOR_SOCKET_RECV_SIZE, kMemcachedSocketBufferBytes);
  CHECK(memcached_server_add(client.get(), address_.host.c_str(), address_.port) ==
        MEMCACHED_SUCCESS);
  client_ = std::move(client);
  Stat item_size{"item_size_max", {}};
  const auto code = memcached_stat_execute(client_.get(), "settings", on_stat, &item_size);
  if (code != MEMCACHED_SUCCESS) {
    const bool is_late = no_answer(code).status == Status::kL2Timeout;
    trouble_ = describe(
        Status::kL2Unavailable,
        is_late ? fmt::format("it does not answer within l2.memcached.connect_timeout ({} ms) and "
                              "l2.memcached.op_timeout ({} ms)",
                              ms(options_.connect_timeout), ms(options_.op_timeout))
                : "nobody listens there, the name is not known, or it refuses connections");
    return tl::unexpected(*trouble_);
  }
  server_item_bytes_ = item_size.found.value_or(0);
  return ask_time(client_.get());
}

base::Result<void> MemcachedLink::ask_time(memcached_st* client) {
  Stat time{"time", {}};
  const base::TimePoint asked = steady_clock::now();
  const auto code = memcached_stat_execute(client, nullptr, on_stat, &time);
  if (code != MEMCACHED_SUCCESS) return tl::unexpected(no_answer(code));
  // Below this an absolute expiry would be taken for a relative one.
  if (!time.found || *time.found <= 2 * kLongPastSeconds) {
    trouble_ = describe(Status::kL2Error, "its clock is not set: correct it and start it again");
    drop();
    return tl::unexpected(*trouble_);
  }
  clock_.measured(asked, steady_clock::now(), *time.found);
  return {};
}

base::Result<void> MemcachedLink::check_clock() {
  if (auto ready = ensure(); !ready) return ready;
  if (clock_.is_fresh(steady_clock::now())) return {};
  if (!is_used_) return ask_time(client_.get());
  // It may be the connection alone that has died meanwhile.
  if (auto asked = ask_time(client_.get()); asked || asked.error().status == Status::kL2Timeout) {
    return asked;
  }
  trouble_.reset();
  return ensure();
}

// -- reads ---------------------------------------------------------------------------------------

base::Result<void> MemcachedLink::read(std::span<const std::string> names, std::size_t most_bytes,
                                       const OnItem& on_item) {
  // The client rounds up to whole KiB, and reads the line's end with the item.
  most_bytes_ = most_bytes + 2 * proto::kKiB;
  std::size_t next = 0;
  bool may_repeat = true;
  while (next < names.size()) {
    if (auto ready = ensure(); !ready) return ready;
    const bool was_used = is_used_;
    const auto done = read_once(names, on_item, next);
    if (done) {
      is_used_ = true;
      if (next >= names.size()) return {};
      continue;  // past one that is too large
    }
    if (!was_used || !may_repeat || done.error().status == Status::kL2Timeout) return done;
    may_repeat = false;
    trouble_.reset();
  }
  return {};
}

// From `next` on, which it moves past what it has learned.
base::Result<void> MemcachedLink::read_once(std::span<const std::string> names,
                                            const OnItem& on_item, std::size_t& next) {
  std::vector<const char*> keys;
  std::vector<std::size_t> lengths;
  for (const std::string& name : names.subspan(next)) {
    keys.push_back(name.data());
    lengths.push_back(name.size());
  }
  was_too_large_ = false;
  memcached_return_t code = memcached_mget(client_.get(), keys.data(), lengths.data(), keys.size());
  if (code != MEMCACHED_SUCCESS) return tl::unexpected(no_answer(code));
  code = static_cast<memcached_return_t>(fetch(names, on_item, next));
  if (was_too_large_) {
    drop();  // the rest of the item is on its way
    if (next == names.size()) return tl::unexpected(no_answer(MEMCACHED_PROTOCOL_ERROR));
    on_item(next++, nullptr);
    return {};
  }
  if (code != MEMCACHED_END) return tl::unexpected(no_answer(code));
  next = names.size();
  return {};
}

// MEMCACHED_END: the server has said so. With was_too_large_, `next` is the item's place.
int MemcachedLink::fetch(std::span<const std::string> names, const OnItem& on_item,
                         std::size_t& next) {
  memcached_result_st result;
  CHECK(memcached_result_create(client_.get(), &result) != nullptr);
  const std::unique_ptr<memcached_result_st, void (*)(memcached_result_st*)> owner(
      &result, memcached_result_free);
  // Answers come in the order of the questions.
  const auto skip_to_key = [&] {
    const std::string_view key(memcached_result_key_value(&result),
                               memcached_result_key_length(&result));
    while (next < names.size() && names[next] != key) ++next;
  };
  memcached_return_t code = MEMCACHED_SUCCESS;
  while (memcached_fetch_result(client_.get(), &result, &code) != nullptr) {
    skip_to_key();
    if (next == names.size()) return MEMCACHED_PROTOCOL_ERROR;
    const Item item{memcached_result_flags(&result),
                    memcached_result_cas(&result),
                    {reinterpret_cast<const std::byte*>(memcached_result_value(&result)),
                     memcached_result_length(&result)}};
    on_item(next++, &item);
  }
  if (was_too_large_) skip_to_key();
  // NOTFOUND: END, and nothing was there. Either of them also stands for a server that is gone,
  // but then an error has been noted.
  if (code != MEMCACHED_END && code != MEMCACHED_NOTFOUND) return code;
  const memcached_return_t noted = memcached_last_error(client_.get());
  return noted == MEMCACHED_SUCCESS ? MEMCACHED_END : noted;
}

// -- writes --------------------------------------------------------------------------------------

MemcachedLink::Outcome MemcachedLink::judge(int code_number, std::size_t value_bytes) {
  const auto code = static_cast<memcached_return_t>(code_number);
  switch (code) {
    case MEMCACHED_SUCCESS:
    case MEMCACHED_STORED:
      return {};
    case MEMCACHED_NOTSTORED:
      return {Reply::kNotStored, {}};
    case MEMCACHED_DATA_EXISTS:
      return {Reply::kExists, {}};
    case MEMCACHED_NOTFOUND:
      return {Reply::kNotFound, {}};
    default:
      break;
  }
  if (!is_refusal(code)) return {Reply::kNotStored, no_answer(code), false};
  const char* const said = memcached_last_error_message(client_.get());
  base::Error error = describe(Status::kL2Error, fmt::format("it refused: {}", said));
  if (code == MEMCACHED_E2BIG) {
    error = describe(
        Status::kL2Rejected,
        fmt::format("an item of {} bytes is too large for it: its -I is {}, which "
                    "l2.memcached.item_max_bytes ({}) must not exceed; raise its -I or lower "
                    "storage.chunk_bytes",
                    value_bytes, server_item_bytes_, options_.item_max_bytes));
  } else if (code == MEMCACHED_SERVER_MEMORY_ALLOCATION_FAILURE) {
    error = describe(Status::kL2Error,
                     "it has no memory for the item: raise its -m, or let it evict (without -M)");
  }
  drop();
  return {Reply::kNotStored, std::move(error), true};
}

MemcachedLink::Outcome MemcachedLink::call(bool may_repeat, std::size_t value_bytes,
                                           const Call& call) {
  most_bytes_ = 0;
  for (;;) {
    if (auto ready = ensure(); !ready) return {Reply::kNotStored, ready.error(), true};
    const bool was_used = is_used_;
    Outcome outcome = judge(call(client_.get()), value_bytes);
    if (!outcome.error) is_used_ = true;
    const bool is_broken = outcome.error && outcome.error->status == Status::kL2Unavailable;
    if (!is_broken || !was_used || !may_repeat) return outcome;
    may_repeat = false;
    trouble_.reset();
  }
}

MemcachedLink::Outcome MemcachedLink::set(const std::string& name, std::string_view value,
                                          std::uint64_t expiry_s) {
  return call(true, value.size(), [&](memcached_st* client) {
    return memcached_set(client, name.data(), name.size(), value.data(), value.size(),
                         static_cast<time_t>(expiry_s), 0);
  });
}

MemcachedLink::Outcome MemcachedLink::add(const std::string& name, std::string_view value,
                                          std::uint64_t expiry_s, std::uint32_t flags) {
  return call(false, value.size(), [&](memcached_st* client) {
    return memcached_add(client, name.data(), name.size(), value.data(), value.size(),
                         static_cast<time_t>(expiry_s), flags);
  });
}

MemcachedLink::Outcome MemcachedLink::cas(const std::string& name, std::string_view value,
                                          std::uint64_t expiry_s, std::uint32_t flags,
                                          std::uint64_t cas) {
  return call(false, value.size(), [&](memcached_st* client) {
    return memcached_cas(client, name.data(), name.size(), value.data(), value.size(),
                         static_cast<time_t>(expiry_s), flags, cas);
  });
}

MemcachedLink::Outcome MemcachedLink::touch(const std::string& name, std::uint64_t expiry_s) {
  return call(true, 0, [&](memcached_st* client) {
    return memcached_touch(client, name.data(), name.size(), static_cast<time_t>(expiry_s));
  });
}

}  // namespace cistern::l2
