// The blocking face: a call returns when the daemon has answered.
//
//   cistern::Client client({.endpoint = "unix:///run/cistern/cistern.sock"});
//   client.put("greeting", cistern::as_bytes("hello"), {.ttl = std::chrono::minutes(5)});
//   if (const auto value = client.get("greeting")) std::cout << value->text();
//
// Errors. Every function may throw cistern::Error. "Not there" is not an error but an empty result.
// After an error the client goes on to be usable: the next call connects anew if it must.
//
// Retries. A connection that turns out to be dead is replaced. get, open (before the value's head
// arrived), stat, explain, ping and stats are then repeated once; put, remove and touch only if not
// a byte of the request can have left, else kConnectionLost says that the outcome is unknown. A
// request that a daemon refuses because it is shutting down goes, once, to the one that takes its
// place.
//
// Threads. One thread at a time may use a client, with the readers and writers that it opened;
// different clients are independent. Any number of readers and writers may be open at once; they
// share the client's connection.
//
// Memory. A reader or a writer holds a few chunks (ReadOptions::window_bytes, or two), however
// large the value; only get() holds a whole value.
#pragma once

#include <functional>
#include <limits>
#include <memory>

#include <cistern/error.h>
#include <cistern/types.h>

namespace cistern {

namespace detail {
class BlockingCore;
class GetStream;
class PutStream;
}  // namespace detail

// A value on its way here. Only verified bytes are handed out: a chunk is buffered and its digest
// checked before its first byte is given away. Movable; destroying it ends the transfer. It may
// outlive its client.
class Reader {
 public:
  Reader(Reader&&) noexcept;
  Reader& operator=(Reader&&) noexcept;
  ~Reader();

  const ValueInfo& info() const;
  // ReadOptions::if_changed named the value's version: there is nothing to read.
  bool not_modified() const;
  // How many bytes there are to be read in all: the value's size, or the length of the range.
  std::uint64_t length() const;

  // Copies 1 to target.size() bytes; 0 is the end, and says that the whole value (or range) was
  // received and verified. Throws kCorrupt when it wasn't. An empty target is a usage error.
  std::size_t read(std::span<std::byte> target);
  // The same without a copy: the next verified bytes, at most a chunk and at most `at_most` (1 or
  // more); empty is the end. They are valid until the next call on this reader.
  //
  // The daemon gives a reader up that asks for nothing during its limits.stall_timeout (5 min): one
  // that takes long for its bytes should take few at a time.
  std::span<const std::byte> next(std::size_t at_most = std::numeric_limits<std::size_t>::max());
  // Ends the transfer; the daemon stops reading. Afterwards reading throws kUsage.
  void close();

 private:
  friend class Client;
  Reader(std::shared_ptr<detail::BlockingCore> core, std::shared_ptr<detail::GetStream> stream);
  std::shared_ptr<detail::BlockingCore> core_;
  std::shared_ptr<detail::GetStream> stream_;
  std::size_t handed_out_ = 0;  // by next()
};

// A value on its way to the daemon. Nothing of it is visible before commit() has returned; without
// a commit the older value stays. Movable; destroying it aborts. It may outlive its client.
class Writer {
 public:
  Writer(Writer&&) noexcept;
  Writer& operator=(Writer&&) noexcept;
  ~Writer();

  // Takes all of `bytes` (they are copied), waiting for the daemon as needed. A refusal of the
  // daemon's arrives with the first call after it.
  void write(std::span<const std::byte> bytes);
  // Ends the value and waits until it is stored. With a declared size that wasn't written exactly:
  // kSizeMismatch, and nothing is stored.
  Stored commit();
  // Drops what was written. Does nothing after commit().
  void abort();

 private:
  friend class Client;
  Writer(std::shared_ptr<detail::BlockingCore> core, std::shared_ptr<detail::PutStream> stream);
  std::shared_ptr<detail::BlockingCore> core_;
  std::shared_ptr<detail::PutStream> stream_;
};

class Client {
 public:
  // Doesn't connect yet. Throws kUsage when the endpoint can't be understood.
  explicit Client(ClientOptions options = {});
  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;
  ~Client();

  // The whole value, or the range of it, in memory; empty: there is none.
  std::optional<Value> get(std::string_view key, const ReadOptions& options = {});
  // Empty: there is no such value.
  std::optional<Reader> open(std::string_view key, const ReadOptions& options = {});

  Stored put(std::string_view key, std::span<const std::byte> bytes,
             const PutOptions& options = {});
  // Fills its argument from the front and returns how many bytes it wrote; 0: the end. What it
  // throws aborts the PUT and passes through.
  using Source = std::function<std::size_t(std::span<std::byte>)>;
  // With a `size`, the source must yield exactly that many (else kSizeMismatch, nothing stored).
  // A known size is better: what doesn't fit is refused before any payload is sent.
  Stored put(std::string_view key, const Source& source, std::optional<std::uint64_t> size,
             const PutOptions& options = {});
  Writer writer(std::string_view key, std::optional<std::uint64_t> size = std::nullopt,
                const PutOptions& options = {});

  // False: there was none.
  bool remove(std::string_view key, const ChangeOptions& options = {});
  std::optional<ValueInfo> stat(std::string_view key, const CallOptions& options = {});
  // A new time to live from now on; 0: never expires. Empty: there is no such value.
  std::optional<Touched> touch(std::string_view key, std::chrono::milliseconds ttl,
                               const ChangeOptions& options = {});
  // How long the round trip took.
  std::chrono::nanoseconds ping(const CallOptions& options = {});
  // The daemon's figures, a JSON object.
  std::string stats(const CallOptions& options = {});
  // Where `key` stands in the daemon and in its second tier, and why: a JSON object, whose members
  // are in PROTOCOL.md. A key that was never seen is no error. Throws kUnsupported when the daemon
  // is too old to know.
  std::string explain(std::string_view key, const CallOptions& options = {});

 private:
  std::shared_ptr<detail::BlockingCore> core_;
};

}  // namespace cistern
