// A RedisStore on a real loop, and its operations as calls that wait for their answers.
#pragma once

#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "server/l2/envelope.h"
#include "server/l2/redis_store.h"
#include "tests/support/asio_loop.h"
#include "tests/support/proxy.h"
#include "tests/support/redis_server.h"
#include "tests/unit/l2_answer.h"

namespace cistern::l2 {

using base::Condition;
using base::Status;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::AsioLoop;
using testing::Proxy;
using testing::RedisServer;

struct Value {
  std::string key;
  Manifest manifest;
  std::vector<base::ChunkPtr> chunks;

  std::uint64_t count() const { return chunks.size(); }
  ChunkSet set() const { return {key, manifest.meta.version, count()}; }
};

inline base::ChunkPtr chunk_of(base::Bytes bytes) {
  const auto chunk = base::Chunk::allocate(bytes.size());
  std::copy(bytes.begin(), bytes.end(), chunk->space().begin());
  chunk->seal(bytes.size(), proto::chunk_digest(bytes));
  return chunk;
}

inline Value make_value(std::string key, std::uint64_t size, base::Version version,
                        std::uint32_t chunk_bytes = 64 * 1024) {
  std::mt19937_64 random(version);
  std::vector<std::byte> bytes(size + 8);
  for (std::size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    proto::store_le<std::uint64_t>(&bytes[i], random());
  }
  bytes.resize(size);
  Value value;
  value.key = std::move(key);
  base::ValueMeta& meta = value.manifest.meta;
  meta.size = size;
  meta.version = version;
  meta.chunk_bytes = chunk_bytes;
  meta.metadata = R"({"made":"by a test"})";
  proto::ValueHasher hasher;
  const bool is_inline = size <= kInlineBytes;
  for (std::uint64_t i = 0; i < meta.chunk_count(); ++i) {
    const auto piece = base::Bytes(bytes).subspan(i * chunk_bytes, meta.size_of_chunk(i));
    hasher.add(proto::chunk_digest(piece));
    if (!is_inline) value.chunks.push_back(chunk_of(piece));
  }
  meta.digest = hasher.finish(chunk_bytes, size);
  if (is_inline) value.manifest.inline_bytes = std::move(bytes);
  return value;
}

class StoreFixture : public ::testing::Test {
 protected:
  ~StoreFixture() override { close(); }

  static RedisOptions options_for(const std::string& url) {
    RedisOptions options;
    options.url = parse_redis_url(url).value();
    options.key_prefix = "t:";
    options.op_timeout = seconds(5);
    return options;
  }
  void open(RedisOptions options) {
    store = std::make_unique<RedisStore>(std::move(options), loop.io(), loop, metrics);
  }
  void open(const std::string& url) { open(options_for(url)); }
  void close() {
    if (!store) return;
    bool is_closed = false;
    store->close([&] { is_closed = true; });
    EXPECT_TRUE(loop.run_until([&] { return is_closed; }));
    store.reset();
  }

  template <typename T>
  Result<T> wait(Answer<T> answer) {
    if (!loop.run_until([&] { return answer.has_come(); })) {
      ADD_FAILURE() << "no answer";
      return base::fail(Status::kInternal, "no answer");
    }
    EXPECT_EQ(answer.calls(), 1);
    return std::move(*answer);
  }

  Result<std::optional<Manifest>> get(const std::string& key) {
    Answer<std::optional<Manifest>> answer;
    store->get_manifest(key, answer.take());
    return wait(answer);
  }
  Answer<CommitResult> start_commit(const Value& value, Condition condition = {}) {
    Answer<CommitResult> answer;
    store->commit(value.key, condition, value.manifest, answer.take());
    EXPECT_FALSE(answer.has_come()) << "called back inside the call";
    return answer;
  }
  Result<CommitResult> commit(const Value& value, Condition condition = {}) {
    return wait(start_commit(value, condition));
  }
  Result<CommitResult> remove(const std::string& key, Condition condition = {}) {
    Answer<CommitResult> answer;
    store->remove(key, condition, answer.take());
    return wait(answer);
  }
  Answer<StoredChunk> start_read(const Value& value, std::uint64_t index,
                                 Store::ReadId* id = nullptr) {
    Answer<StoredChunk> answer;
    const auto given =
        store->read_chunk(value.key, value.manifest.meta, index, Form::kStored, answer.take());
    if (id != nullptr) *id = given;
    EXPECT_FALSE(answer.has_come()) << "called back inside the call";
    return answer;
  }
  Result<base::ChunkPtr> read(const Value& value, std::uint64_t index) {
    auto chunk = wait(start_read(value, index));
    if (!chunk) return tl::unexpected(chunk.error());
    EXPECT_EQ(chunk->codec, Codec::kRaw);
    EXPECT_EQ(chunk->raw_digest, chunk->bytes->digest());
    return chunk->bytes;
  }
  Answer<void> start_write(const Value& value, std::uint64_t index) {
    Answer<void> answer;
    store->write_chunk(value.key, value.manifest.meta.version, index,
                       StoredChunk::raw(value.chunks[index]), answer.take());
    EXPECT_FALSE(answer.has_come()) << "called back inside the call";
    return answer;
  }
  Result<void> write(const Value& value, std::uint64_t index) {
    return wait(start_write(value, index));
  }
  Result<std::uint64_t> expire(const ChunkSet& set, base::Duration ttl, bool only_longer) {
    Answer<std::uint64_t> answer;
    store->expire_chunks(set, 0, set.chunk_count, ttl, only_longer, answer.take());
    return wait(answer);
  }
  // Chunks, then the manifest.
  void put(const Value& value) {
    std::vector<Answer<void>> writes;
    for (std::uint64_t i = 0; i < value.count(); ++i) writes.push_back(start_write(value, i));
    for (auto& written : writes) {
      const auto result = wait(written);
      ASSERT_TRUE(result) << result.error().message;
    }
    const auto committed = commit(value);
    ASSERT_TRUE(committed) << committed.error().message;
    ASSERT_EQ(committed->kind, CommitKind::kCommitted);
  }

  static std::string chunk_name(const Value& value, std::uint64_t index) {
    return ChunkNames("t:", proto::as_bytes(value.key), value.manifest.meta.version).name(index);
  }
  static std::string stored_chunk(const Value& value, std::uint64_t index) {
    const auto chunk = value.chunks[index];
    const ChunkHeader header = encode_chunk_header(
        {value.manifest.meta.version, chunk_key_hash(proto::as_bytes(value.key)),
         static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(chunk->size())},
        form_of(StoredChunk::raw(chunk)));
    return std::string(proto::as_text(header)) + std::string(proto::as_text(chunk->bytes()));
  }
  static bool same(const StoredChunk& a, const base::ChunkPtr& b) { return same(a.bytes, b); }
  static bool same(const base::ChunkPtr& a, const base::ChunkPtr& b) {
    return std::ranges::equal(a->bytes(), b->bytes()) && a->digest() == b->digest();
  }

  AsioLoop loop;
  base::WorkerMetrics metrics;
  std::unique_ptr<Store> store;
};

}  // namespace cistern::l2
