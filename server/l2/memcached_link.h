// One connection to one memcached server: libmemcached, whose calls block, with an outcome that
// can be relied on for each.
//
// libmemcached reports a server that is gone as one that has nothing when it is one of several, and
// refuses to connect again for whole seconds after a failure. So there is one client for one
// server, in the ASCII protocol, where END and NOT_FOUND are words of the server's own; one request
// is under way at a time; what is absent is believed only after an END with no error noted before
// it; and after any failure the client is thrown away.
//
// A call takes at most connect_timeout, and then op_timeout without a byte. One thread at a time.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "server/l2/memcached_clock.h"
#include "server/l2/memcached_options.h"

struct memcached_st;

namespace cistern::l2 {

class MemcachedLink {
 public:
  // All of them outlive it.
  MemcachedLink(const MemcachedOptions& options, const MemcachedAddress& address,
                MemcachedClock& clock);
  ~MemcachedLink();
  MemcachedLink(const MemcachedLink&) = delete;
  MemcachedLink& operator=(const MemcachedLink&) = delete;

  // Asks for the server's largest item and for its time, which every connection does once it is
  // made. The largest item's size.
  base::Result<std::uint64_t> greet();
  // Asks for the time anew where what is known of it is old.
  base::Result<void> check_clock();

  struct Item {
    std::uint32_t flags = 0;
    std::uint64_t cas = 0;
    base::Bytes bytes;  // during the call
  };
  // Called once for each that is there, in their order; null: it has more than `most_bytes`.
  using OnItem = std::function<void(std::size_t index, const Item* item)>;
  // One request for all. Without an error, what wasn't called for is not there: the server said so.
  base::Result<void> read(std::span<const std::string> names, std::size_t most_bytes,
                          const OnItem& on_item);

  enum class Reply : std::uint8_t {
    kStored,
    kNotStored,  // of an add: something is there
    kExists,     // of a cas: it is another item by now
    kNotFound,
  };
  struct Outcome {
    Reply reply = Reply::kStored;
    std::optional<base::Error> error;
    // Of an error: the server has answered, or was never asked; nothing was changed nor can be.
    // Otherwise it may have been done, or may be later.
    bool is_definite = true;
    bool is(Reply which) const { return !error && reply == which; }
  };
  // Expiries are absolute (MemcachedClock). `value` as a whole, header and all.
  Outcome set(const std::string& name, std::string_view value, std::uint64_t expiry_s);
  Outcome add(const std::string& name, std::string_view value, std::uint64_t expiry_s,
              std::uint32_t flags);
  Outcome cas(const std::string& name, std::string_view value, std::uint64_t expiry_s,
              std::uint32_t flags, std::uint64_t cas);
  Outcome touch(const std::string& name, std::uint64_t expiry_s);

  MemcachedClock& clock() { return clock_; }
  // What kept the server from answering since this was last asked, if anything did.
  std::optional<base::Error> take_trouble();
  // Where a chunk is put together; of this thread alone.
  std::string& scratch() { return scratch_; }

 private:
  struct Free {
    void operator()(memcached_st* client) const;
  };
  using Call = std::function<int(memcached_st* client)>;

  base::Result<void> ensure();
  base::Result<void> ask_time(memcached_st* client);
  base::Result<void> read_once(std::span<const std::string> names, const OnItem& on_item,
                               std::size_t& next);
  int fetch(std::span<const std::string> names, const OnItem& on_item, std::size_t& next);
  // `may_repeat`: on a connection that was made long ago and turns out to be broken, it is tried
  // once more on a new one.
  Outcome call(bool may_repeat, std::size_t value_bytes, const Call& call);
  Outcome judge(int code, std::size_t value_bytes);
  base::Error no_answer(int code);
  base::Error describe(base::Status status, std::string_view what) const;
  void drop();

  const MemcachedOptions& options_;
  const MemcachedAddress& address_;
  MemcachedClock& clock_;
  std::unique_ptr<memcached_st, Free> client_;  // greeted; null: there is no connection
  bool is_used_ = false;                        // it has answered since it was greeted
  std::uint64_t server_item_bytes_ = 0;
  std::size_t most_bytes_ = 0;  // what the client may take for an item
  bool was_too_large_ = false;
  std::optional<base::Error> trouble_;
  std::string scratch_;
};

}  // namespace cistern::l2
