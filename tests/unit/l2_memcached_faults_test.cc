// The memcached store with servers that die, stall, or get to a request long after it was sent.
#include <gmock/gmock.h>

#include "tests/unit/l2_memcached_fixture.h"

namespace cistern::l2 {
namespace {

using ::testing::HasSubstr;

constexpr std::uint32_t kChunkBytes = 1020 * 1024;
const seconds kPatience(60);

class MemcachedFaults : public MemcachedFixture {
 protected:
  // Looks again and again, since what is awaited isn't an event of this loop.
  bool soon(const std::function<bool()>& holds) {
    return loop.run_until(
        [&] {
          loop.after(milliseconds(5), [] {});
          return holds();
        },
        kPatience);
  }
  template <typename T>
  Result<T> await(Answer<T> answer) {
    EXPECT_TRUE(loop.run_until([&] { return answer.has_come(); }, kPatience));
    return std::move(*answer);
  }
  static bool is_out_of_reach(const base::Error& error) {
    return error.status == Status::kL2Unavailable || error.status == Status::kL2Timeout;
  }
  // Until the server's own clock is past every expiry that a commit which began now may have
  // written.
  void wait_past_limit(MemcachedServer& of, milliseconds op_timeout) {
    const auto window = static_cast<std::uint64_t>(op_timeout.count() / 1000);
    const std::uint64_t until = of.stat("time") + window + 4;
    EXPECT_TRUE(soon([&] { return of.stat("time") > until; }));
  }

  MemcachedServer server;
};

TEST_F(MemcachedFaults, ADeadServerHasNotNothing) {
  open_memcached(server.port());
  const Value value = make_value("k", 3 * kChunkBytes, 1, kChunkBytes);
  put(value);
  server.kill();
  const auto manifest = get("k");
  ASSERT_FALSE(manifest) << "not 'absent'";
  EXPECT_TRUE(is_out_of_reach(manifest.error())) << manifest.error().message;
  EXPECT_THAT(manifest.error().message, HasSubstr(server.address()));
  const auto chunk = wait(start_read(value, 1));
  ASSERT_FALSE(chunk);
  EXPECT_EQ(chunk.error().status, Status::kL2Unavailable) << chunk.error().message;
  EXPECT_EQ(store->available().error().status, Status::kL2Unavailable);
  EXPECT_EQ(remove("k").error().status, Status::kL2Unavailable);
  EXPECT_EQ(write(value, 0).error().status, Status::kL2Unavailable);
  EXPECT_EQ(expire(value.set(), seconds(5), false).error().status, Status::kL2Unavailable);

  server.start();
  EXPECT_TRUE(soon([&] { return store->available().has_value(); }));
  EXPECT_FALSE(get("k")->has_value()) << "it is empty now, and says so";
  put(value);
  EXPECT_TRUE(wait(start_read(value, 2)));
}

TEST_F(MemcachedFaults, ChunksInTheMiddleOfWhichTheServerDiesAreOutOfReach) {
  // Some arrive, the others are neither there nor lost: never "missing".
  for (const bool frozen : {false, true}) {
    SCOPED_TRACE(frozen ? "frozen" : "killed");
    MemcachedServer mine({"-m", "256"});
    Proxy proxy(mine.port());
    MemcachedOptions options = options_of({proxy.port()});
    options.op_timeout = milliseconds(1000);
    options.pool_threads = 1;
    open_memcached(options);
    const Value value = make_value("k", 12 * kChunkBytes, 1, kChunkBytes);
    put(value);
    proxy.throttle_replies(64 * 1024, milliseconds(1));
    std::vector<Answer<StoredChunk>> reads;
    for (std::uint64_t i = 0; i < value.count(); ++i) reads.push_back(start_read(value, i));
    ASSERT_TRUE(loop.run_until([&] { return reads[1].has_come(); }, kPatience));
    if (frozen) {
      proxy.freeze(true);
    } else {
      mine.kill();
      proxy.cut();
    }
    std::size_t read = 0;
    for (std::uint64_t i = 0; i < value.count(); ++i) {
      const auto chunk = await(reads[i]);
      if (chunk) {
        EXPECT_TRUE(same(*chunk, value.chunks[i])) << i;
        ++read;
      } else {
        EXPECT_TRUE(is_out_of_reach(chunk.error())) << i << " " << chunk.error().message;
      }
    }
    EXPECT_LT(read, value.count());
    proxy.freeze(false);
    close_all();
  }
}

TEST_F(MemcachedFaults, AStalledServerTakesItsTimeAndComesBack) {
  MemcachedOptions options = options_of({server.port()});
  options.op_timeout = milliseconds(500);
  open_memcached(options);
  const Value value = make_value("k", 2 * kChunkBytes, 1, kChunkBytes);
  put(value);
  server.freeze();
  const auto late = get("k");
  ASSERT_FALSE(late);
  EXPECT_TRUE(is_out_of_reach(late.error())) << late.error().message;
  // By now, or soon, it is known to be down, and nobody has to wait.
  EXPECT_TRUE(soon([&] { return !store->available(); }));
  EXPECT_EQ(get("k").error().status, Status::kL2Unavailable);
  EXPECT_GE(pool->states()[0].refused, 1u);
  server.thaw();
  EXPECT_TRUE(soon([&] { return store->available().has_value(); }));
  EXPECT_TRUE(get("k")->has_value()) << "nothing was lost";
  EXPECT_TRUE(wait(start_read(value, 1)));
}

TEST_F(MemcachedFaults, OneStalledServerDoesNotHoldUpTheOthers) {
  MemcachedServer other;
  MemcachedOptions options = options_of({server.port(), other.port()});
  options.op_timeout = seconds(20);  // so that the stall lasts for all of the test
  options.pool_threads = 3;
  open_memcached(options);
  wait_up();
  const std::string stalled_key = key_on(0);
  const std::string good_key = key_on(1);
  put(make_value(good_key, 100, 1));
  server.freeze();
  std::vector<Answer<std::optional<Manifest>>> stalled(200);
  for (auto& answer : stalled) store->get_manifest(stalled_key, answer.take());
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(get(good_key)->has_value());
  put(make_value(good_key, 100, 2));
  EXPECT_TRUE(store->available());
  EXPECT_TRUE(std::ranges::none_of(stalled, [](const auto& answer) { return answer.has_come(); }));
  server.thaw();
  for (auto& answer : stalled) EXPECT_TRUE(await(answer));
}

TEST_F(MemcachedFaults, AServerThatIsDownLeavesTheDaemonReady) {
  MemcachedServer other;
  open_memcached(options_of({server.port(), other.port()}));
  wait_up();
  server.kill();
  EXPECT_EQ(get(key_on(0)).error().status, Status::kL2Unavailable);
  EXPECT_FALSE(get(key_on(1))->has_value()) << "absent, and that for certain";
  EXPECT_TRUE(store->available());
  EXPECT_TRUE(store->ready());
  EXPECT_FALSE(pool->states()[0].is_up);
  EXPECT_THAT(pool->states()[0].why, HasSubstr(server.address()));
  EXPECT_TRUE(pool->states()[1].is_up);
  other.kill();
  EXPECT_EQ(get(key_on(1)).error().status, Status::kL2Unavailable);
  EXPECT_FALSE(store->available());
  EXPECT_FALSE(store->ready());
}

TEST_F(MemcachedFaults, AServerWithSmallerItemsIsNotUsedAndTheDaemonNotReady) {
  MemcachedServer small({"-I", "512k"});
  open_memcached(options_of({server.port(), small.port()}));
  EXPECT_TRUE(soon([&] { return !store->ready(); }));
  const auto why = store->ready();
  EXPECT_THAT(why.error().message, HasSubstr(small.address()));
  EXPECT_THAT(why.error().message, HasSubstr("524288"));
  EXPECT_THAT(why.error().message, HasSubstr("l2.memcached.item_max_bytes (1048576)"));
  EXPECT_TRUE(store->available());
  EXPECT_FALSE(get(key_on(0))->has_value());
  EXPECT_EQ(get(key_on(1)).error().message, why.error().message);
}

TEST_F(MemcachedFaults, RefusesAtOnceWhatTheQueueCannotHold) {
  MemcachedOptions options = options_of({server.port()});
  options.op_timeout = seconds(20);
  options.max_queued = 100;
  options.pool_threads = 1;
  open_memcached(options);
  wait_up();
  server.freeze();
  std::vector<Answer<CommitResult>> writes;
  for (base::Version v = 1; v <= 200; ++v) {
    writes.push_back(start_commit(make_value("k" + std::to_string(v), 10, v)));
  }
  std::size_t busy = 0;
  EXPECT_TRUE(soon([&] {
    return std::ranges::count_if(writes, [](const auto& w) { return w.has_come(); }) >= 99;
  }));
  server.thaw();
  for (auto& write : writes) {
    const auto result = await(write);
    if (!result) {
      EXPECT_EQ(result.error().status, Status::kL2Busy) << result.error().message;
      ++busy;
    }
  }
  EXPECT_GE(busy, 99u);
  EXPECT_LE(busy, 100u);
}

// -- commits whose answer doesn't come
// -------------------------------------------------------------

// A PUT that a server or the network holds back for longer than it may take.
class MemcachedLate : public MemcachedFaults {
 protected:
  static constexpr milliseconds kOpTimeout{1000};

  void open_through(Proxy& proxy) {
    MemcachedOptions options = options_of({proxy.port()});
    options.op_timeout = kOpTimeout;
    open_memcached(options);
  }
};

TEST_F(MemcachedLate, AHeldBackWriteNeverShowsUp) {
  struct Case {
    const char* what;
    bool has_old;
    const char* held;
  };
  for (const Case& each :
       {Case{"an add", false, "add t:m:k "}, Case{"a cas", true, "cas t:m:k "}}) {
    SCOPED_TRACE(each.what);
    MemcachedServer mine;
    Proxy proxy(mine.port());
    open_through(proxy);
    if (each.has_old) put(make_value("k", 100, 1));
    proxy.hold_requests(testing::containing(each.held));
    const auto begun = std::chrono::steady_clock::now();
    const auto result = await(start_commit(make_value("k", 100, 2)));
    ASSERT_TRUE(result) << result.error().message;
    EXPECT_EQ(result->kind, CommitKind::kUnknown);
    EXPECT_FALSE(result->cause.empty());
    EXPECT_GE(std::chrono::steady_clock::now() - begun, kOpTimeout) << "not before not_after";
    EXPECT_EQ(mine.value(manifest_of("k")).empty(), !each.has_old);
    // It gets there now.
    const std::uint64_t writes = mine.stat("cmd_set");
    proxy.release_held();
    EXPECT_TRUE(soon([&] { return mine.stat("cmd_set") > writes; }));
    EXPECT_EQ(mine.value(manifest_of("k")), "") << "over when it was stored";
    EXPECT_TRUE(soon([&] { return store->available().has_value(); }));
    EXPECT_FALSE(get("k")->has_value());
    close_all();
  }
}

TEST_F(MemcachedLate, AHeldBackWriteNeverReplacesALaterOne) {
  for (const bool has_old : {false, true}) {
    SCOPED_TRACE(has_old ? "a cas" : "an add");
    MemcachedServer mine;
    Proxy proxy(mine.port());
    open_through(proxy);
    if (has_old) put(make_value("k", 100, 1));
    proxy.hold_requests(testing::containing(has_old ? "cas t:m:k " : "add t:m:k "));
    const auto result = await(start_commit(make_value("k", 100, 2)));
    ASSERT_TRUE(result && result->kind == CommitKind::kUnknown);
    close_all();
    open_memcached(mine.port());  // a daemon whose way there is free
    put(make_value("k", 100, 3));
    const std::string stored = mine.value(manifest_of("k"));
    const std::uint64_t writes = mine.stat("cmd_set");
    proxy.release_held();
    EXPECT_TRUE(soon([&] { return mine.stat("cmd_set") > writes; }));
    EXPECT_EQ(mine.value(manifest_of("k")), stored);
    EXPECT_EQ((*get("k"))->meta.version, 3u);
    close_all();
  }
}

TEST_F(MemcachedLate, AHeldBackSecondStepLeavesNothing) {
  Proxy proxy(server.port());
  open_through(proxy);
  // The first step of a new key is an add, the second a cas.
  proxy.hold_requests(testing::containing("cas t:m:k "));
  const auto result = await(start_commit(make_value("k", 100, 2)));
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(result->kind, CommitKind::kUnknown);
  EXPECT_EQ(server.value(manifest_of("k")), "") << "its time is over when it is called unknown";
  proxy.release_held();
  wait_past_limit(server, kOpTimeout);
  EXPECT_EQ(server.value(manifest_of("k")), "");
}

TEST_F(MemcachedLate, AWriteThatAStoppedServerGetsToLaterNeverShowsUp) {
  MemcachedOptions options = options_of({server.port()});
  options.op_timeout = kOpTimeout;
  open_memcached(options);
  put(make_value("warm", 100, 1));
  // The look at the manifest is answered, the write isn't: whichever of them it was, what is
  // answered is either an error, and then nothing was sent, or unknown.
  std::vector<Answer<CommitResult>> writes;
  for (base::Version v = 1; v <= 30; ++v) {
    writes.push_back(start_commit(make_value("k" + std::to_string(v), 100, v)));
  }
  loop.run_until([&] { return writes[3].has_come(); });
  server.freeze();
  std::vector<std::optional<CommitKind>> kinds;
  for (auto& write : writes) {
    const auto result = await(write);
    kinds.push_back(result ? std::optional(result->kind) : std::nullopt);
  }
  server.thaw();
  EXPECT_TRUE(soon([&] { return store->available().has_value(); }));
  wait_past_limit(server, kOpTimeout);
  for (base::Version v = 1; v <= 30; ++v) {
    const auto kind = kinds[v - 1];
    const auto found = get("k" + std::to_string(v));
    ASSERT_TRUE(found);
    if (kind == CommitKind::kCommitted) {
      EXPECT_TRUE(found->has_value()) << v;
    } else if (!kind) {
      EXPECT_FALSE(found->has_value()) << v << ": an error is definite";
    }
    if (kind == CommitKind::kUnknown && found->has_value()) {
      EXPECT_EQ((*found)->meta.version, v) << "it had happened in time";
    }
  }
}

TEST_F(MemcachedLate, AReaderTakesAGhostForNothing) {
  open_memcached(server.port());
  const Value value = make_value("k", 100, 1);
  const std::string bytes = encode_manifest(proto::as_bytes(value.key), value.manifest);
  // As a server that has just been woken may show it: not over by its clock, which it hasn't looked
  // at, but by ours.
  const std::uint64_t now_s = server.stat("time");
  const auto store_with = [&](std::uint64_t not_after_s) {
    ASSERT_EQ(server.command("set " + manifest_of("k") + " " + std::to_string(not_after_s) + " 0 " +
                             std::to_string(bytes.size()) + "\r\n" + bytes),
              "STORED");
  };
  store_with(now_s - 10);
  EXPECT_FALSE(get("k")->has_value());
  EXPECT_FALSE(stamp("k")->has_value());
  EXPECT_EQ(commit(make_value("k", 100, 2), {Condition::Kind::kIfVersion, 1})->kind,
            CommitKind::kConditionFailed);
  store_with(now_s + 60);
  EXPECT_TRUE(get("k")->has_value()) << "its writer may still be at work";
  EXPECT_TRUE(stamp("k")->has_value());
}

TEST_F(MemcachedLate, ARemovalThatIsHeldBackRemovesOnlyWhatItMeant) {
  Proxy proxy(server.port());
  open_through(proxy);
  put(make_value("k", 100, 1));
  proxy.hold_requests(testing::containing("cas t:m:k "));
  Answer<CommitResult> removal;
  store->remove("k", {}, removal.take());
  const auto result = await(removal);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(result->kind, CommitKind::kUnknown);
  close_all();
  open_memcached(server.port());
  put(make_value("k", 100, 2));
  const std::uint64_t writes = server.stat("cmd_set");
  proxy.release_held();
  EXPECT_TRUE(soon([&] { return server.stat("cmd_set") > writes; }));
  EXPECT_EQ((*get("k"))->meta.version, 2u);
}

}  // namespace
}  // namespace cistern::l2
