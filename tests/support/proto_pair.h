// Both sides of a connection without sockets: a server that stores values in a map, a client that
// writes down what it's told, and the bytes between them, which tests may look at and break.
#pragma once

#include <deque>
#include <map>
#include <set>

#include "tests/support/proto_wire.h"

namespace cistern::testing {

// What a ServerConn calls. Answers by itself from `values`, unless `by_hand`; checks that the
// connection keeps its promises.
class ServerSide : public proto::ServerConn::Handler {
 public:
  struct Stored {
    Buffer bytes;
    std::uint64_t version = 0;
    Buffer metadata;
  };
  struct Upload {
    std::string key;
    Buffer metadata;
    Buffer bytes;
    Buffer part;  // the target of the frame that is being received
    std::uint64_t granted = 0;
    std::uint64_t taken = 0;
    bool ended = false;
  };

  explicit ServerSide(const proto::ServerLimits& own_limits = small_limits())
      : limits(own_limits), conn(own_limits, *this) {}

  const proto::ServerLimits limits;
  proto::ServerConn conn;
  std::map<std::string, Stored> values;
  std::map<std::uint32_t, Upload> uploads;
  std::map<std::uint32_t, Source> sources;
  std::map<std::uint32_t, std::uint32_t> first_credits;
  std::set<std::uint32_t> open;     // requests that this handler has to answer
  std::vector<std::string> events;  // "get 1 key"
  bool by_hand = false;
  std::set<std::uint32_t> refusing;  // uploads that take no more bytes
  std::uint32_t window = 16384;      // credit of a PUT
  std::uint64_t next_version = 0x1000;

  Buffer output() { return collect_all(conn); }
  // Feeds `wire` at once; what it answers.
  std::vector<Frame> exchange(Buffer wire) {
    feed(conn, wire, all_at_once(), [this] { return conn.process(1 << 20); });
    Buffer out = output();
    return take_frames(out);
  }
  void start(std::uint32_t id, const Stored& stored, std::optional<proto::Range> range) {
    proto::ValueHead head;
    head.flags = proto::kInL1;
    head.size = stored.bytes.size();
    head.version = stored.version;
    head.chunk_bytes = limits.chunk_bytes;
    head.metadata = stored.metadata;
    if (!range && stored.bytes.size() <= std::min(1024u, first_credits.at(id))) {
      head.inline_digest = digest_of(stored.bytes, limits.chunk_bytes);
      head.inline_bytes = stored.bytes;
      open.erase(id);
      return conn.answer_inline(id, head);
    }
    Source source(stored.bytes, limits.chunk_bytes);
    if (range) {
      if (range->offset >= head.size) {
        open.erase(id);
        return conn.answer(id, proto::Status::kRangeInvalid);
      }
      const std::uint64_t chunk = limits.chunk_bytes;
      const std::uint64_t length = std::min(range->length, head.size - range->offset);
      source.at = range->offset / chunk * chunk;
      source.to = std::min(head.size, (range->offset + length + chunk - 1) / chunk * chunk);
      head.cover = proto::Range{source.at, source.to - source.at};
    }
    sources[id] = std::move(source);
    conn.start_value(id, head);
  }
  void grant(std::uint32_t id, std::uint32_t bytes) {
    uploads.at(id).granted += bytes;
    conn.grant(id, bytes);
  }

  // ---- Handler
  void on_get(std::uint32_t id, const proto::GetRequest& request) override {
    note("get", id, request.key);
    first_credits[id] = request.credit_bytes;
    const auto found = values.find(std::string(proto::as_text(request.key)));
    if (by_hand) return;
    if (found == values.end()) {
      open.erase(id);
      return conn.answer(id, proto::Status::kNotFound);
    }
    start(id, found->second, request.range);
  }
  void on_put(std::uint32_t id, const proto::PutRequest& request) override {
    note("put", id, request.key);
    Upload upload;
    upload.key = proto::as_text(request.key);
    if (!by_hand && request.if_absent && values.contains(upload.key)) {
      open.erase(id);
      return conn.answer(id, proto::Status::kConditionFailed);
    }
    upload.metadata.assign(request.metadata.begin(), request.metadata.end());
    if (request.is_inline) {
      upload.bytes.assign(request.inline_bytes.begin(), request.inline_bytes.end());
      if (!by_hand) store(id, upload, request.inline_digest);
      return;
    }
    uploads[id] = std::move(upload);
    if (!by_hand) grant(id, window);
  }
  void on_delete(std::uint32_t id, const proto::KeyRequest& request) override {
    note("delete", id, request.key);
    if (by_hand) return;
    open.erase(id);
    if (values.erase(std::string(proto::as_text(request.key))) == 0) {
      return conn.answer(id, proto::Status::kNotFound);
    }
    conn.answer(id, proto::Done{});
  }
  void on_stat(std::uint32_t id, const proto::KeyRequest& request) override {
    note("stat", id, request.key);
    if (by_hand) return;
    open.erase(id);
    const auto found = values.find(std::string(proto::as_text(request.key)));
    if (found == values.end()) return conn.answer(id, proto::Status::kNotFound);
    proto::Info info;
    info.flags = proto::kInL1;
    info.size = found->second.bytes.size();
    info.version = found->second.version;
    info.chunk_bytes = limits.chunk_bytes;
    info.digest = digest_of(found->second.bytes, limits.chunk_bytes);
    info.metadata = found->second.metadata;
    conn.answer(id, info);
  }
  void on_touch(std::uint32_t id, const proto::TouchRequest& request) override {
    note("touch", id, request.key);
    if (by_hand) return;
    open.erase(id);
    conn.answer(id, proto::Done{.version = 1, .expires_at_ms = request.ttl_ms});
  }
  void on_stats(std::uint32_t id) override {
    note("stats", id, {});
    if (by_hand) return;
    open.erase(id);
    conn.answer_stats(id, "{}");
  }
  void on_explain(std::uint32_t id, const proto::KeyRequest& request) override {
    note("explain", id, request.key);
    if (by_hand) return;
    open.erase(id);
    conn.answer_explain(id, "{}");
  }
  MutableBytes on_data_target(std::uint32_t id, std::size_t bytes) override {
    if (refusing.contains(id)) return {};
    Upload& upload = uploads.at(id);
    upload.taken += bytes;
    require(upload.taken <= upload.granted, "DATA past its credit");
    require(!upload.ended, "DATA after END");
    upload.part.assign(bytes, std::byte{0});
    upload.part.shrink_to_fit();
    return upload.part;
  }
  void on_data_done(std::uint32_t id, std::size_t bytes,
                    std::optional<proto::ChunkDigest> chunk_end) override {
    Upload& upload = uploads.at(id);
    require(bytes == upload.part.size(), "another number of bytes");
    append(upload.bytes, upload.part);
    upload.part = Buffer();
    if (chunk_end) {
      const std::size_t chunk = limits.chunk_bytes;
      const std::size_t start = (upload.bytes.size() - 1) / chunk * chunk;
      require(*chunk_end == proto::chunk_digest(Bytes(upload.bytes).subspan(start)),
              "another chunk's digest");
    }
    if (!by_hand) grant(id, static_cast<std::uint32_t>(bytes));
  }
  void on_put_end(std::uint32_t id, const proto::End& end) override {
    events.push_back("end " + std::to_string(id));
    Upload& upload = uploads.at(id);
    upload.ended = true;
    require(end.size == upload.bytes.size(), "END with another size");
    if (!by_hand) store(id, Upload(upload), end.digest);
  }
  void on_abort(std::uint32_t id, const proto::Error& cause) override {
    events.push_back("abort " + std::to_string(id) + " " + std::string(name(cause.status)));
    require(open.erase(id) == 1, "the abort of a request that is not open");
    forget(id);
  }
  proto::Piece next_piece(std::uint32_t id, std::size_t max_bytes) override {
    return sources.at(id).next(max_bytes);
  }
  void on_value_sent(std::uint32_t id, const proto::Error* failure) override {
    events.push_back("sent " + std::to_string(id) + (failure != nullptr ? " failed" : ""));
    require(open.erase(id) == 1, "the end of a GET that is not open");
    forget(id);
  }
  void on_progress(std::uint32_t id) override {
    require(open.contains(id), "progress of a request that is not open");
    ++progress;
  }
  int progress = 0;
  std::vector<std::string> broken_promises;

 private:
  void note(std::string what, std::uint32_t id, Bytes key) {
    events.push_back(what + " " + std::to_string(id) + " " + std::string(proto::as_text(key)));
    require(open.insert(id).second, "an id that is open already");
  }
  void require(bool holds, std::string what) {
    if (!holds) broken_promises.push_back(std::move(what));
  }
  void forget(std::uint32_t id) {
    uploads.erase(id);
    sources.erase(id);
  }
  void store(std::uint32_t id, const Upload& upload, const proto::ValueDigest& digest) {
    open.erase(id);
    const std::string key = upload.key;
    if (digest != digest_of(upload.bytes, limits.chunk_bytes)) {
      forget(id);
      return conn.answer(id, proto::Status::kDigestMismatch);
    }
    values[key] = Stored{upload.bytes, ++next_version, upload.metadata};
    const proto::Stored stored{proto::kInL1, values[key].bytes.size(), next_version, 0};
    forget(id);
    conn.answer(id, stored);
  }
};

// What a ClientConn calls. Grants credit for what was taken, unless `by_hand`.
class ClientSide : public proto::ClientConn::Handler {
 public:
  struct Download {
    proto::ValueHead head;  // its views are dead
    Buffer bytes;
    Buffer part;
    std::uint64_t granted = 0;
    std::size_t largest_frame = 0;
    std::vector<proto::ChunkDigest> digests;
  };
  explicit ClientSide(std::uint32_t max_frame_bytes = proto::kMinFrameBytes)
      : conn(*this, max_frame_bytes) {}

  proto::ClientConn conn;
  std::map<std::uint32_t, Download> downloads;
  std::map<std::uint32_t, Source> sources;
  std::vector<std::string> events;  // "end 1"; of every id at most one that is final
  std::vector<std::string> broken_promises;
  bool by_hand = false;
  std::optional<proto::Error> lost;
  std::function<void(std::uint32_t)> on_bytes = [](std::uint32_t) {};

  std::uint32_t get(std::string_view key, std::uint32_t credit, std::uint32_t frame_bytes = 0,
                    std::optional<proto::Range> range = {}) {
    proto::GetRequest request;
    request.key = proto::as_bytes(key);
    request.credit_bytes = credit;
    request.frame_bytes = frame_bytes;
    request.range = range;
    const std::uint32_t id = conn.get(request);
    downloads[id].granted = credit;
    return id;
  }
  std::uint32_t put(std::string_view key, const Buffer& value, std::uint32_t chunk_bytes,
                    bool declare = true, std::uint32_t frame_bytes = 1 << 20) {
    proto::PutRequest request;
    request.key = proto::as_bytes(key);
    if (declare) request.size = value.size();
    const std::uint32_t id = conn.put(request, frame_bytes);
    sources[id] = Source(value, chunk_bytes);
    return id;
  }
  std::uint32_t put_inline(std::string_view key, const Buffer& value, std::uint32_t chunk_bytes) {
    proto::PutRequest request;
    request.key = proto::as_bytes(key);
    request.size = value.size();
    request.is_inline = true;
    request.inline_digest = digest_of(value, chunk_bytes);
    request.inline_bytes = value;
    return conn.put(request, 1);
  }
  void grant(std::uint32_t id, std::uint32_t bytes) {
    downloads.at(id).granted += bytes;
    conn.grant(id, bytes);
  }

  void on_welcome(const proto::Welcome& welcome) override {
    events.push_back("welcome " + std::string(welcome.name));
  }
  void on_value(std::uint32_t id, const proto::ValueHead& head) override {
    Download& download = downloads.at(id);
    download.head = head;
    if ((head.flags & proto::kValueInline) != 0) {
      download.bytes.assign(head.inline_bytes.begin(), head.inline_bytes.end());
      require(head.inline_digest == digest_of(download.bytes, head.chunk_bytes), "inline digest");
      return final("inline", id);
    }
    events.push_back("value " + std::to_string(id));
  }
  MutableBytes on_data_target(std::uint32_t id, std::size_t bytes) override {
    Download& download = downloads.at(id);
    download.largest_frame = std::max(download.largest_frame, bytes);
    require(download.bytes.size() + bytes <= download.granted, "DATA past its credit");
    require(!over_.contains(id), "DATA after the end");
    download.part.assign(bytes, std::byte{0});
    download.part.shrink_to_fit();
    return download.part;
  }
  void on_data_done(std::uint32_t id, std::size_t bytes,
                    std::optional<proto::ChunkDigest> chunk_end) override {
    Download& download = downloads.at(id);
    append(download.bytes, download.part);
    if (chunk_end) {
      const std::size_t chunk = download.head.chunk_bytes;
      const std::size_t start = (download.bytes.size() - 1) / chunk * chunk;
      require(*chunk_end == proto::chunk_digest(Bytes(download.bytes).subspan(start)),
              "another chunk's digest");
      download.digests.push_back(*chunk_end);
    }
    on_bytes(id);
    if (!by_hand) grant(id, static_cast<std::uint32_t>(bytes));
  }
  void on_end(std::uint32_t id, const proto::End& end) override {
    const Download& download = downloads.at(id);
    if (!download.head.cover) {
      require(end.digest == digest_of(download.bytes, download.head.chunk_bytes), "value digest");
    }
    final("end", id);
  }
  void on_credit(std::uint32_t) override {}
  proto::Piece next_piece(std::uint32_t id, std::size_t max_bytes) override {
    return sources.at(id).next(max_bytes);
  }
  void on_stored(std::uint32_t id, const proto::Stored&) override { final("stored", id); }
  void on_done(std::uint32_t id, const proto::Done&) override { final("done", id); }
  void on_info(std::uint32_t id, const proto::Info&) override { final("info", id); }
  void on_pong(std::uint32_t id, Bytes) override { final("pong", id); }
  void on_stats(std::uint32_t id, std::string_view) override { final("stats", id); }
  void on_explanation(std::uint32_t id, std::string_view) override { final("explanation", id); }
  void on_error(std::uint32_t id, const proto::Error& error) override {
    final("error " + std::string(name(error.status)), id);
  }
  void on_go_away(const proto::Error& error) override {
    events.push_back("goaway " + std::string(name(error.status)));
  }
  void on_lost(const proto::Error& error) override { lost = error; }

  bool has(const std::string& event) const {
    return std::find(events.begin(), events.end(), event) != events.end();
  }

 private:
  void final(const std::string& what, std::uint32_t id) {
    events.push_back(what + " " + std::to_string(id));
    require(over_.insert(id).second, "two ends of " + std::to_string(id));
  }
  void require(bool holds, const std::string& what) {
    if (!holds) broken_promises.push_back(what);
  }
  std::set<std::uint32_t> over_;
};

// The two of them and the bytes between.
struct Pair {
  explicit Pair(const proto::ServerLimits& limits = small_limits(), bool greet = true)
      : server(limits) {
    if (!greet) return;
    client.conn.hello("test");
    run();
  }

  ServerSide server;
  ClientSide client;
  Buffer to_server, to_client;
  Split split = all_at_once();
  std::size_t enough_bytes = 256 * proto::kKiB;  // of one batch
  std::size_t max_owed = 64 * proto::kKiB;
  std::vector<Frame> sent;  // all frames of the server, if `record`
  bool record = false;

  // Moves the bytes once in both directions; whether anything moved.
  bool step() {
    bool moved = collect(client.conn, to_server);
    moved |= collect(server.conn, to_client);
    if (!to_server.empty()) {
      feed(server.conn, to_server, split, [this] { return server.conn.process(max_owed); });
      moved = true;
    }
    if (!to_client.empty()) {
      if (record) {
        Buffer copy = to_client;
        for (Frame& frame : take_frames(copy)) sent.push_back(std::move(frame));
      }
      feed(client.conn, to_client, split, [this] {
        client.conn.process();
        return true;
      });
      moved = true;
    }
    return moved;
  }
  // Until nothing moves any more, or a side fails.
  void run() {
    for (int i = 0; i < 1'000'000; ++i) {
      if (!step() || client.conn.failed() || server.conn.failed()) return;
    }
    client.broken_promises.push_back("the bytes never come to rest");
  }
  std::vector<std::string> broken_promises() const {
    std::vector<std::string> all = server.broken_promises;
    all.insert(all.end(), client.broken_promises.begin(), client.broken_promises.end());
    return all;
  }

 private:
  template <typename Conn>
  bool collect(Conn& conn, Buffer& to) {
    if (!conn.has_output()) return false;
    proto::Batch batch;
    conn.collect(batch, enough_bytes);
    append_segments(to, batch);
    return !batch.empty();
  }
};

}  // namespace cistern::testing
