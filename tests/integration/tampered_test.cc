// What lies in the second tier is not what was written there: a flipped bit, a part of something
// else, a lie. No byte of it reaches a client; the value is lost, with its reason counted, and its
// manifest is removed.
#include <algorithm>
#include <functional>
#include <map>
#include <random>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "client/cpp/client.h"
#include "proto/digest.h"
#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/support/redis_server.h"
#include "tests/support/values.h"

namespace cistern::testing {
namespace {

constexpr std::size_t kChunk = 64 * 1024;
const Millis kPatience(60'000);
#ifdef CISTERN_SANITIZED
constexpr int kRounds = 100;
#else
constexpr int kRounds = 1000;
#endif

using Items = std::map<std::string, std::string>;  // what Redis has, by name

std::string flipped(std::string bytes, std::size_t bit) {
  bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
  return bytes;
}

std::string manifest_of(const Items& all) {
  for (const auto& [name, bytes] : all) {
    if (name.starts_with("cistern:m:")) return name;
  }
  throw std::runtime_error("no manifest");
}
// By their index.
std::vector<std::string> chunks_of(const Items& all) {
  std::map<unsigned long, std::string> chunks;
  for (const auto& [name, bytes] : all) {
    if (name.starts_with("cistern:c:")) {
      chunks[std::stoul(name.substr(name.rfind(':') + 1))] = name;
    }
  }
  std::vector<std::string> names;
  for (const auto& [index, name] : chunks) names.push_back(name);
  return names;
}

// One daemon writes; another, which has none of it in memory, reads.
class Tampered : public ::testing::Test {
 protected:
  Tampered()
      : writer_({.config = config(), .server = {}}),
        reader_({.config = config(), .server = "  workers: 1\n"}),
        writes_({.endpoint = writer_.endpoint()}),
        reads_({.endpoint = reader_.endpoint()}) {}

  std::string config() const {
    return fmt::format(
        "l1: {{max_bytes: 16MiB}}\nstorage: {{chunk_bytes: {}KiB}}\n"
        "l2: {{kind: redis, redis: {{url: \"{}\"}}}}\n",
        kChunk / 1024, redis_.url());
  }

  // What the value `key` consists of. Chunks of other values, and of older versions, aren't asked
  // for: the test writes one key at a time.
  Items items() {
    Items all;
    for (const std::string& name : redis_.keys("cistern:[mc]:*")) {
      all[name] = redis_.command({"GET", name}).text;
    }
    return all;
  }
  void store(const Items& all) {
    for (const auto& [name, bytes] : all) redis_.command({"SET", name, bytes, "EX", "600"});
  }
  double lost(const std::string& reason = {}) const {
    std::vector<std::string> labels;
    if (!reason.empty()) labels.push_back("reason=\"" + reason + "\"");
    return reader_.metric("cistern_l2_lost_total", labels);
  }

  // The reader asks for it: every byte that it is given is right, the end doesn't come, and the
  // next one is told that there is no such value.
  ::testing::AssertionResult is_lost(const std::string& key, std::span<const std::byte> value) {
    std::size_t at = 0;
    try {
      std::optional<Reader> reader = reads_.open(key);
      if (!reader) return ::testing::AssertionFailure() << "absent instead of lost";
      for (;;) {
        const std::span<const std::byte> bytes = reader->next();
        if (bytes.empty()) return ::testing::AssertionFailure() << "read to its end";
        if (bytes.size() > value.size() - at ||
            !std::ranges::equal(bytes, value.subspan(at, bytes.size()))) {
          return ::testing::AssertionFailure() << "a wrong byte after " << at;
        }
        at += bytes.size();
      }
    } catch (const Error& error) {
      if (error.status() != Status::kValueLost) {
        return ::testing::AssertionFailure() << error.what();
      }
    }
    // The manifest's removal went over the same connection before this.
    if (reads_.stat(key)) return ::testing::AssertionFailure() << "its manifest is still there";
    return ::testing::AssertionSuccess();
  }

  RedisServer redis_;
  Daemon writer_;
  Daemon reader_;
  Client writes_;
  Client reads_;
};

TEST_F(Tampered, EveryBitOfASmallValue) {
  const std::string text = "a small value, which lies in its manifest";
  writes_.put("small", as_bytes(text), {.metadata = R"({"made":"by a test"})"});
  const Items sound = items();
  ASSERT_EQ(sound.size(), 1u);
  const auto& [name, bytes] = *sound.begin();
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    store({{name, flipped(bytes, bit)}});
    ASSERT_TRUE(is_lost("small", as_bytes(text))) << "bit " << bit;
  }
  EXPECT_EQ(lost(), static_cast<double>(8 * bytes.size()));
  EXPECT_EQ(lost("other"), 0);
  store(sound);
  EXPECT_EQ(reads_.get("small")->text(), text);
}

TEST_F(Tampered, AnyBitOfALargeValue) {
  const std::uint64_t seed = std::random_device{}();
  std::cout << "seed " << seed << "\n";
  std::mt19937_64 random(seed);
  const std::vector<std::byte> value = value_of(7, 15 * kChunk + 1000);
  writes_.put("large", value);
  const Items sound = items();
  ASSERT_EQ(sound.size(), 17u);
  std::size_t total = 0;
  for (const auto& [name, bytes] : sound) total += bytes.size();
  for (int round = 0; round < kRounds; ++round) {
    std::size_t at = random() % total;
    for (const auto& [name, bytes] : sound) {
      if (at >= bytes.size()) {
        at -= bytes.size();
        continue;
      }
      const std::size_t bit = 8 * at + random() % 8;
      store({{name, flipped(bytes, bit)}});
      ASSERT_TRUE(is_lost("large", value)) << "bit " << bit << " of " << name;
      const std::string manifest = manifest_of(sound);
      store({{name, bytes}, {manifest, sound.at(manifest)}});
      break;
    }
  }
  EXPECT_EQ(lost(), kRounds);
  EXPECT_EQ(lost("other"), 0);
  EXPECT_EQ(reads_.get("large")->bytes, value);
  EXPECT_TRUE(eventually([&] { return reader_.in_transfers() == 0; }, kPatience));
}

// A manifest with another header, whose digest fits: only a writer with a defect makes one.
std::string forged(const std::string& manifest, const std::function<void(std::string&)>& change,
                   std::uint64_t chunk_count) {
  constexpr std::size_t kFixedBytes = 48, kDigestAt = 40;
  std::string json = manifest.substr(kFixedBytes);
  change(json);
  std::string fixed = manifest.substr(0, kFixedBytes);
  auto* const at = reinterpret_cast<std::byte*>(fixed.data());
  proto::store_le<std::uint64_t>(at + 16, chunk_count);
  proto::store_le(at + 32, static_cast<std::uint32_t>(json.size()));
  proto::store_le<std::uint64_t>(at + kDigestAt, 0);
  proto::store_le<std::uint64_t>(at + kDigestAt,
                                 proto::chunk_digest(proto::as_bytes(fixed + json)));
  return fixed + json;
}

void replace(std::string& json, const std::string& from, const std::string& to) {
  const std::size_t at = json.find(from);
  ASSERT_NE(at, std::string::npos) << from << " in " << json;
  json.replace(at, from.size(), to);
}

struct Case {
  const char* name;
  const char* reason;
  // Changes what lies there; `other` is another value of the same size, under another key, and
  // `older` an older version of the same.
  std::function<void(Items& all, const Items& other, const Items& older)> tamper;
};

std::vector<Case> chunk_cases(const std::vector<std::string>& chunks) {
  return {
      {"two chunks are swapped", "chunk_header",
       [=](Items& all, const Items&, const Items&) { std::swap(all[chunks[1]], all[chunks[2]]); }},
      {"a chunk is there twice", "chunk_header",
       [=](Items& all, const Items&, const Items&) { all[chunks[3]] = all[chunks[2]]; }},
      {"a chunk is of another version", "chunk_header",
       [=](Items& all, const Items&, const Items& old) {
         all[chunks[0]] = old.at(chunks_of(old)[0]);
       }},
      {"a chunk is of another key", "chunk_header",
       [=](Items& all, const Items& from, const Items&) {
         all[chunks[0]] = from.at(chunks_of(from)[0]);
       }},
      {"a chunk is gone", "missing",
       [=](Items& all, const Items&, const Items&) { all.erase(chunks[3]); }},
      {"a chunk is cut off", "chunk_length",
       [=](Items& all, const Items&, const Items&) { all[chunks[1]].pop_back(); }},
      {"a chunk is cut off in its header", "chunk_length",
       [=](Items& all, const Items&, const Items&) { all[chunks[1]].resize(20); }},
      {"a chunk is empty", "chunk_length",
       [=](Items& all, const Items&, const Items&) { all[chunks[1]].clear(); }},
      {"a chunk goes on", "chunk_length",
       [=](Items& all, const Items&, const Items&) { all[chunks[1]] += 'x'; }},
      {"a chunk is of 8 MiB", "chunk_length",
       [=](Items& all, const Items&, const Items&) { all[chunks[1]].resize(8 << 20); }},
      {"a chunk claims a codec", "chunk_form",
       [=](Items& all, const Items&, const Items&) { all[chunks[1]][5] = 1; }},
      {"a chunk's bytes are another's", "chunk_digest",
       [=](Items& all, const Items&, const Items&) {
         all[chunks[1]].replace(56, kChunk, all[chunks[2]], 56, kChunk);
       }},
  };
}

std::vector<Case> manifest_cases(const std::string& manifest, const std::string& chunk,
                                 std::size_t size) {
  const std::string size_text = fmt::format("\"size\":{}", size);
  const std::string chunk_text = fmt::format("\"chunk_bytes\":{}", kChunk);
  const auto lie = [&](const std::string& from, const std::string& to, std::uint64_t count) {
    return [=](Items& all, const Items&, const Items&) {
      all[manifest] = forged(
          all[manifest], [&](std::string& json) { replace(json, from, to); }, count);
    };
  };
  return {
      {"the manifest is another key's", "other_key",
       [=](Items& all, const Items& from, const Items&) {
         all[manifest] = from.at(manifest_of(from));
       }},
      {"the manifest is a chunk", "magic",
       [=](Items& all, const Items&, const Items&) { all[manifest] = all[chunk]; }},
      {"the manifest is of a later envelope version", "envelope_version",
       [=](Items& all, const Items&, const Items&) { all[manifest][4] = 3; }},
      {"the manifest is cut off", "length",
       [=](Items& all, const Items&, const Items&) { all[manifest].resize(60); }},
      {"the header goes on past the end", "length",
       [=](Items& all, const Items&, const Items&) { all[manifest][33] = '\x7f'; }},
      {"the header is no JSON", "json", lie("{", "[", 4)},
      {"the header lacks the size", "field", lie("\"size\"", "\"side\"", 4)},
      {"chunks of size 0", "field", lie(chunk_text, "\"chunk_bytes\":0", 4)},
      {"2^63 chunks", "contradiction", lie("{", "{", std::uint64_t{1} << 63)},
      {"a size of 2^63", "field", lie(size_text, "\"size\":9223372036854775808", 4)},
      {"a size that its chunks contradict", "contradiction",
       lie(size_text, fmt::format("\"size\":{}", size + 1), 4)},
      {"a size that needs chunks which never were", "missing",
       lie(size_text, fmt::format("\"size\":{}", std::uint64_t{1000} * kChunk), 1000)},
      {"a shorter size than that of the last chunk", "chunk_length",
       lie(size_text, fmt::format("\"size\":{}", size - 1), 4)},
      {"fewer chunks than there were", "value_digest",
       lie(size_text, fmt::format("\"size\":{}", size - kChunk), 3)},
      {"another digest", "value_digest",
       [=](Items& all, const Items&, const Items&) {
         const auto next_digit = [](std::string& json) {
           char& digit = json[json.find("\"digest\":\"") + 10];
           digit = digit == '0' ? '1' : '0';
         };
         all[manifest] = forged(all[manifest], next_digit, 4);
       }},
  };
}

TEST_F(Tampered, WithPartsOfSomethingElse) {
  const std::vector<std::byte> value = value_of(1, 4 * kChunk);
  const std::vector<std::byte> old_value = value_of(2, 4 * kChunk);
  writes_.put("key", old_value);
  const Items older = items();
  redis_.command({"FLUSHALL"});
  writes_.put("other", old_value);
  const Items other = items();
  redis_.command({"FLUSHALL"});
  writes_.put("key", value);
  const Items sound = items();
  const std::string manifest = manifest_of(sound);
  const std::vector<std::string> chunks = chunks_of(sound);
  ASSERT_EQ(chunks.size(), 4u);
  std::vector<Case> cases = chunk_cases(chunks);
  std::ranges::move(manifest_cases(manifest, chunks[0], value.size()), std::back_inserter(cases));
  for (const Case& each : cases) {
    SCOPED_TRACE(each.name);
    Items all = sound;
    each.tamper(all, other, older);
    redis_.command({"FLUSHALL"});
    store(all);
    const double before = lost(each.reason);
    const double others = lost();
    EXPECT_TRUE(is_lost("key", value));
    EXPECT_EQ(lost(each.reason), before + 1);
    EXPECT_EQ(lost(), others + 1);
    EXPECT_TRUE(eventually([&] { return reader_.in_transfers() == 0; }, kPatience));
  }
  redis_.command({"FLUSHALL"});
  store(sound);
  EXPECT_EQ(reads_.get("key")->bytes, value);
}

}  // namespace
}  // namespace cistern::testing
