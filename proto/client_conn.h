// The client's side of one connection, without a socket: requests in, segments out; bytes in, calls
// to the handler. The counterpart of ServerConn; it checks what the server sends by the same rules.
//
// One thread. The handler may call anything here from within its callbacks, and must not destroy
// the connection there. Every request ends with exactly one of on_value (inline), on_end,
// on_stored, on_done, on_info, on_pong, on_stats, on_explanation and on_error, or with on_lost
// for all of them at once.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "proto/frame_reader.h"
#include "proto/messages.h"
#include "proto/outbox.h"

namespace cistern::proto {

class ClientConn : private Outbox::Streams {
 public:
  struct Handler {
    virtual ~Handler() = default;
    // The server's limits are known. Requests may be sent before.
    virtual void on_welcome(const Welcome& welcome) = 0;
    // With head.flags & kValueInline the request is over, and the digest not yet verified;
    // otherwise DATA follows as far as credit was granted.
    virtual void on_value(std::uint32_t id, const ValueHead& head) = 0;
    // Where the next value bytes belong: within credit and within one chunk.
    virtual MutableBytes on_data_target(std::uint32_t id, std::size_t bytes) = 0;
    virtual void on_data_done(std::uint32_t id, std::size_t bytes,
                              std::optional<ChunkDigest> chunk_end) = 0;
    // All that was announced has arrived.
    virtual void on_end(std::uint32_t id, const End& end) = 0;
    // A PUT may send more; its source will be asked.
    virtual void on_credit(std::uint32_t id) = 0;
    virtual Piece next_piece(std::uint32_t id, std::size_t max_bytes) = 0;
    virtual void on_stored(std::uint32_t id, const Stored& stored) = 0;
    virtual void on_done(std::uint32_t id, const Done& done) = 0;
    virtual void on_info(std::uint32_t id, const Info& info) = 0;
    virtual void on_pong(std::uint32_t id, Bytes payload) = 0;
    virtual void on_stats(std::uint32_t id, std::string_view json) = 0;
    virtual void on_explanation(std::uint32_t id, std::string_view json) = 0;
    // The server's answer, or what its bytes broke. A code that this list lacks arrives as
    // kInternal or kBadRequest (by its retryable bit) with the code in the message.
    virtual void on_error(std::uint32_t id, const Error& error) = 0;
    // No new requests here: the server is going away.
    virtual void on_go_away(const Error& error) = 0;
    // The connection is of no use any more; every open request is over.
    virtual void on_lost(const Error& error) = 0;
  };

  ClientConn(Handler& handler, std::uint32_t max_frame_bytes);

  // ---- Requests. The id names the request until its end. `name` is the client's, for logs. The
  // caller has checked keys, metadata and inline bytes against kMaxKeyBytes, kMaxMetadataBytes and
  // kMaxInlineBytes at least, and against WELCOME's limits when they are known.
  void hello(std::string_view name);
  // request.compressed only where WELCOME has kFeatureCompressed.
  // request.frame_bytes is lowered to what this side reads; 0 asks for that.
  std::uint32_t get(const GetRequest& request);
  // Streamed unless request.is_inline; `source` of the bytes is Handler::next_piece, which is asked
  // once credit arrives; frames are no larger than `frame_bytes` (1 or more) and than the server's
  // limit.
  std::uint32_t put(const PutRequest& request, std::uint32_t frame_bytes);
  std::uint32_t remove(const KeyRequest& request);
  std::uint32_t stat(const KeyRequest& request);
  std::uint32_t touch(const TouchRequest& request);
  std::uint32_t ping(Bytes payload);
  std::uint32_t stats();
  // Of the DATA frame that Handler::on_data_target() or on_data_done() is told of.
  bool compressed() const { return reader_.compressed(); }
  const CompressedEnd& compressed_end() const { return reader_.compressed_end(); }
  // Only where WELCOME has kFeatureExplain.
  std::uint32_t explain(const KeyRequest& request);
  // More credit for a GET: only for memory that is reserved.
  void grant(std::uint32_t id, std::uint32_t bytes);
  // The source of a PUT has bytes again.
  void ready(std::uint32_t id) { outbox_.ready(id); }
  // Ends a request early. Nothing more is heard of `id` (the id itself stays in use until the
  // server has confirmed). What changes something and was sent completely may happen nevertheless.
  void cancel(std::uint32_t id);
  // The socket is gone.
  void drop(const Error& cause);

  // ---- Input, as in ServerConn.
  std::array<MutableBytes, 2> prepare(MutableBytes scratch) { return reader_.prepare(scratch); }
  void commit(std::size_t bytes) { reader_.commit(bytes); }
  void process();
  void finish() { reader_.finish(); }

  // ---- Output.
  bool has_output() const { return outbox_.has_output(); }
  void collect(Batch& batch, std::size_t enough_bytes) { outbox_.collect(batch, enough_bytes); }

  bool failed() const { return failed_; }
  // Set by WELCOME.
  const std::optional<Welcome>& welcome() const { return welcome_; }
  // Requests that are not over, cancelled ones included.
  std::size_t open_requests() const { return requests_.size(); }

 private:
  struct Request {
    Type type = Type::kPing;
    bool cancelled = false;
    bool compressed = false;          // of a GET: asked for, then announced
    std::uint64_t credit = 0;         // of a GET: granted and not used
    std::uint64_t owed = 0;           // spent beyond that, by the end of a compressed chunk
    std::uint64_t in_compressed = 0;  // bytes of the compressed chunk that is arriving
    std::optional<Range> expected{};  // of a GET after its VALUE: what follows
    std::uint32_t chunk_bytes = 0;
    std::uint64_t value_bytes = 0;  // of the whole value
    std::uint64_t received = 0;
  };

  Piece next_piece(std::uint32_t id, std::size_t max_bytes) override;
  void sent_end(std::uint32_t id) override;
  void source_failed(std::uint32_t id, const Error& error) override;

  std::uint32_t open(Request request);
  void on_frame();
  void on_welcome(Bytes payload);
  void on_connection(const MessageInfo& known, Bytes payload);
  void on_answer(Type type, std::uint32_t id, Bytes payload);
  void on_value(std::uint32_t id, Request& request, Bytes payload);
  void on_end(std::uint32_t id, Request& request, Bytes payload);
  void on_data();
  std::optional<Error> check_data(const Request& request) const;
  std::optional<Error> check_compressed(const Request& request) const;
  void received(Request& request);
  void fail(const Error& error);

  Handler& handler_;
  const std::uint32_t max_frame_bytes_;
  FrameReader reader_;
  Outbox outbox_;
  std::unordered_map<std::uint32_t, Request> requests_;
  std::uint32_t last_id_ = 0;
  std::string server_name_;
  std::optional<Welcome> welcome_;  // its name views server_name_
  bool failed_ = false;
};

}  // namespace cistern::proto
