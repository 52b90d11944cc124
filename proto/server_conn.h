// The server's side of one connection, without a socket: bytes in, calls to the handler; answers
// in, segments out. It knows the rules of PROTOCOL.md (hello first, ids, credit, chunk and frame
// boundaries, limits) so that the handler sees well-formed requests and streams only.
//
// One thread. The handler may call any answer from within its callbacks, and must not destroy the
// connection there.
//
// Life of a request: on_get/on_put/... opens it; exactly one of its final answers (or on_abort)
// closes it. A streamed PUT gets on_data_target/on_data_done for each DATA frame, then on_put_end,
// then it is the handler's to answer. A streamed GET is begun by start_value() and closed when its
// source says kEnd or kFailed.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "proto/frame_reader.h"
#include "proto/messages.h"
#include "proto/open_streams.h"
#include "proto/outbox.h"

namespace cistern::proto {

struct ServerLimits {
  std::uint64_t max_value_bytes = 0;
  std::uint32_t max_frame_bytes = 0;
  std::uint32_t chunk_bytes = 0;
  std::uint32_t max_key_bytes = 0;
  std::uint32_t max_metadata_bytes = 0;
  std::uint32_t max_streams = 0;
  std::uint32_t stream_window_bytes = 0;
  bool compressed = false;  // whether kFeatureCompressed is offered
  std::string name;         // of the software, with its version
};

class ServerConn : private Outbox::Streams {
 public:
  struct Handler {
    virtual ~Handler() = default;
    // GETs and PUTs of these keys follow, probably: so that what they ask for can be brought near
    // all at once. Each then comes as on_get() or on_put(), or is refused.
    virtual void on_keys_ahead(std::span<const Bytes> /*keys*/) {}
    virtual void on_get(std::uint32_t id, const GetRequest& request) = 0;
    // request.is_inline: the digest is not verified yet. Otherwise the handler grants credit, or
    // answers an error, when it is ready for the payload.
    virtual void on_put(std::uint32_t id, const PutRequest& request) = 0;
    virtual void on_delete(std::uint32_t id, const KeyRequest& request) = 0;
    virtual void on_stat(std::uint32_t id, const KeyRequest& request) = 0;
    virtual void on_touch(std::uint32_t id, const TouchRequest& request) = 0;
    virtual void on_stats(std::uint32_t id) = 0;
    virtual void on_explain(std::uint32_t id, const KeyRequest& request) = 0;
    // Where the next `bytes` of a PUT belong; they are within credit, within the declared size and
    // within one chunk. The memory stays valid until on_data_done() or the stream's end. Empty: the
    // request has failed, perhaps by these bytes, and its answer comes, perhaps later; they, and
    // what follows them for this request, are dropped.
    virtual MutableBytes on_data_target(std::uint32_t id, std::size_t bytes) = 0;
    // They are there. `chunk_end`: the chunk is complete and this is the digest that was sent.
    virtual void on_data_done(std::uint32_t id, std::size_t bytes,
                              std::optional<ChunkDigest> chunk_end) = 0;
    // All bytes were sent; `end.size` agrees with what arrived and with what was declared.
    virtual void on_put_end(std::uint32_t id, const End& end) = 0;
    // The request is over without an answer of the handler's: cancelled, broken by the peer
    // (the connection has sent the error), or the connection has failed. Nothing may be answered.
    // A DELETE, a TOUCH, an inline PUT and a PUT after its END can't be cancelled: they are aborted
    // only together with the connection, and a commit that has begun runs on.
    virtual void on_abort(std::uint32_t id, const Error& cause) = 0;
    // Next bytes of a GET; see Outbox::Streams::next_piece.
    virtual Piece next_piece(std::uint32_t id, std::size_t max_bytes) = 0;
    // The END of a GET is on its way, or its source has failed and the error is: it's over.
    virtual void on_value_sent(std::uint32_t id, const Error* failure) = 0;
    // The client granted credit, of 0 bytes perhaps, or sent some bytes of a frame: the stream,
    // which is open, moves.
    virtual void on_progress(std::uint32_t id) = 0;
    // The connection answered a request by itself: it refused it before it was opened, or it was a
    // PING. For who counts.
    virtual void on_answered(Type, Status) {}
  };

  ServerConn(const ServerLimits& limits, Handler& handler);

  // ---- Input. See FrameReader for the burst.
  std::array<MutableBytes, 2> prepare(MutableBytes scratch) { return reader_.prepare(scratch); }
  void commit(std::size_t bytes) { reader_.commit(bytes); }
  // Handles the whole frames that are there, and stops as soon as owed_bytes() is `max_owed_bytes`
  // (1 or more) or more: a client that asks and doesn't read must not grow the answers. True when
  // all were handled, or the connection has failed and nothing more ever will be; else call
  // finish(), read nothing, and once the output has drained call prepare(), process() and finish()
  // again before anything is read. What was read and not handled is kept meanwhile.
  bool process(std::size_t max_owed_bytes);
  // A connection that has failed keeps nothing.
  void finish() { failed_ ? reader_.abandon() : reader_.finish(); }

  // ---- Answers. An id that isn't open is a defect of the caller (DCHECKed by the caller's tests);
  // it is ignored.
  // A whole value in one frame, of at most kMaxInlineBytes and no more than the request's first
  // credit; head.flags gets kValueInline.
  void answer_inline(std::uint32_t id, ValueHead head);
  // The head of a streamed value; its bytes are then asked for through next_piece().
  void start_value(std::uint32_t id, const ValueHead& head);
  void ready(std::uint32_t id) { outbox_.ready(id); }
  // More credit for a PUT whose payload is being received; ignored after its END.
  void grant(std::uint32_t id, std::uint32_t bytes);
  void answer(std::uint32_t id, const Stored& stored);
  void answer(std::uint32_t id, const Done& done);
  void answer(std::uint32_t id, const Info& info);
  void answer_stats(std::uint32_t id, std::string_view json);
  void answer_explain(std::uint32_t id, std::string_view json);
  // NOT_FOUND, NOT_MODIFIED and every failure.
  void answer(std::uint32_t id, const Error& error);
  void answer(std::uint32_t id, Status status) { answer(id, Error{status, {}}); }

  // ---- The connection.
  // Tells the client to open no more requests here; later ones are refused with `error`.
  void go_away(const Error& error);
  // Sends `error` for the connection, aborts every request and reads nothing any more.
  void fail(const Error& error);
  // Aborts every request without sending anything: the peer is gone.
  void drop(const Error& cause);
  bool failed() const { return failed_; }
  // What fail() was told, by the caller or by what the peer sent.
  const std::optional<Error>& failure() const { return failure_; }

  // ---- Output.
  bool has_output() const { return outbox_.has_output(); }
  void set_small_frames(bool small) { outbox_.set_small_frames(small); }
  void collect(Batch& batch, std::size_t enough_bytes) { outbox_.collect(batch, enough_bytes); }
  // Bytes of answers and other control frames that were not collected yet.
  std::size_t owed_bytes() const { return outbox_.control_bytes(); }
  // Memory that they take, or that is kept for them.
  std::size_t owed_capacity() const { return outbox_.control_capacity(); }
  // Makes room for `bytes` of them in all, and no more than that; else it doubles as it grows.
  void reserve_owed(std::size_t bytes) { outbox_.reserve_control(bytes); }
  // Keeps no memory for them when there are none.
  void trim_owed() { outbox_.trim(); }

  // Whether a GET has or may have bytes that only wait for the output to move on.
  bool is_sending(std::uint32_t id) const { return outbox_.is_queued(id); }

  std::size_t open_streams() const { return streams_.size(); }
  bool greeted() const { return greeted_; }
  // Memory that an incomplete frame takes between bursts.
  std::size_t kept_bytes() const { return reader_.kept_bytes(); }
  std::uint64_t frames_in() const { return frames_in_; }

 private:
  enum class Kind : std::uint8_t {
    kReading,       // STAT, STATS, EXPLAIN
    kGet,           // GET
    kPutReceiving,  // a streamed PUT before its END
    kWriting,       // complete, and changes something: its outcome will be told
  };
  struct Stream {
    Kind kind = Kind::kReading;
    std::uint32_t frame_bytes = 0;   // of a GET
    std::uint64_t first_credit = 0;  // of a GET that hasn't started
    std::uint64_t credit = 0;        // of a PUT: granted and not used
    std::uint64_t declared = 0;      // of a PUT, or kUnknownSize
    std::uint64_t received = 0;      // value bytes, whole frames
    bool short_chunk = false;        // a chunk ended before its full size: only END may follow
    bool has_failed = false;         // of a PUT: what comes is dropped until it is answered
  };

  // Outbox::Streams
  Piece next_piece(std::uint32_t id, std::size_t max_bytes) override;
  void sent_end(std::uint32_t id) override;
  void source_failed(std::uint32_t id, const Error& error) override;

  void look_ahead();
  void on_frame();
  void on_hello(Bytes payload);
  void on_request(Type type, std::uint32_t id, Bytes payload);
  void on_stream_frame(Type type, std::uint32_t id, Bytes payload);
  void on_get(std::uint32_t id, const GetRequest& request);
  void on_put(std::uint32_t id, const PutRequest& request);
  void on_data();
  void on_data_end();
  void on_credit(std::uint32_t id, Stream& stream, Bytes payload);
  void on_ping(std::uint32_t id, Bytes payload);
  void on_put_end(std::uint32_t id, Stream& stream, const End& end);
  std::optional<Error> check_data(const Stream& stream) const;
  std::optional<Error> check_key(Bytes key) const;
  std::optional<Error> check_feature(std::uint64_t feature) const;
  std::optional<Error> check_get(const GetRequest& request) const;
  std::optional<Error> check_put(const PutRequest& request) const;
  // Whether `id` may be opened; answers the error when not.
  bool open(Type type, std::uint32_t id, Stream stream);
  void reject(Type type, std::uint32_t id, const Error& error);  // as refuse(); counted
  void refuse(std::uint32_t id, const Error& error);             // of a request that isn't open
  void abort(std::uint32_t id, const Error& error);  // of one that is: answers and tells handler
  // A frame that has no place in an open request. Ends the request, or the connection if the
  // request's outcome can't be told any more.
  void misplaced(std::uint32_t id, const Stream& stream, const Error& error);
  void close(std::uint32_t id);
  void send_error(std::uint32_t id, Type type, const Error& error);

  const ServerLimits limits_;
  Handler& handler_;
  FrameReader reader_;
  Outbox outbox_;
  OpenStreams<Stream> streams_;
  bool greeted_ = false;
  std::uint64_t features_ = 0;  // in use
  bool failed_ = false;
  std::optional<Error> failure_;
  std::optional<Error> going_away_;
  std::uint64_t frames_in_ = 0;
  std::size_t seen_ahead_ = 0;  // frames that look_ahead() has seen and process() has not
};

}  // namespace cistern::proto
