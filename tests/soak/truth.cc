#include "tests/soak/truth.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tests/support/values.h"

namespace cistern::soak {
namespace {

constexpr std::size_t kTinyHead = 16;
constexpr std::uint64_t kTinySizes = 300;

std::uint64_t mixed(std::uint64_t seed, std::uint64_t id) {
  return (seed + 1) * 0x9E3779B97F4A7C15u ^ id * 0xD6E8FEB86659FD93u;
}

}  // namespace

std::string metadata_of(std::string_view key, const Write& write) {
  return fmt::format(R"({{"key":"{}","id":{},"size":{}}})", key, write.id, write.size);
}

Write write_of(std::string_view key, std::string_view metadata) {
  const nlohmann::json fields = nlohmann::json::parse(metadata, nullptr, false);
  if (!fields.is_object() || fields.value("key", "") != key) return {};
  return {fields.value("id", std::uint64_t{0}), fields.value("size", std::uint64_t{0})};
}

void make_content(std::span<std::byte> target, std::uint64_t seed, std::uint64_t id,
                  std::uint64_t offset) {
  const std::uint64_t skip = offset % 8;
  if (skip != 0) {
    std::array<std::byte, 8> word;
    testing::fill(word, mixed(seed, id), offset - skip);
    const std::size_t bytes = std::min<std::size_t>(8 - skip, target.size());
    std::copy_n(word.begin() + static_cast<std::ptrdiff_t>(skip), bytes, target.begin());
    target = target.subspan(bytes);
    offset += bytes;
  }
  testing::fill(target, mixed(seed, id), offset);
}

bool is_content(std::span<const std::byte> bytes, std::uint64_t seed, std::uint64_t id,
                std::uint64_t offset) {
  std::array<std::byte, 4096> expected;
  while (!bytes.empty()) {
    const std::size_t step = std::min(bytes.size(), expected.size());
    make_content(std::span(expected).first(step), seed, id, offset);
    if (std::memcmp(bytes.data(), expected.data(), step) != 0) return false;
    bytes = bytes.subspan(step);
    offset += step;
  }
  return true;
}

std::vector<std::byte> tiny_value(std::string_view key, std::uint64_t seed, std::uint64_t id) {
  std::vector<std::byte> value(kTinyHead + id % kTinySizes);
  const std::uint64_t name = std::hash<std::string_view>()(key);
  std::memcpy(value.data(), &id, 8);
  std::memcpy(value.data() + 8, &name, 8);
  make_content(std::span(value).subspan(kTinyHead), seed, id, 0);
  return value;
}

bool is_tiny_value(std::string_view key, std::uint64_t seed, std::span<const std::byte> bytes) {
  if (bytes.size() < kTinyHead) return false;
  std::uint64_t id = 0;
  std::memcpy(&id, bytes.data(), 8);
  return std::ranges::equal(bytes, tiny_value(key, seed, id));
}

Keys::Keys(unsigned owners, unsigned of_each, unsigned shared)
    : of_each_(of_each), orders_(std::size_t{owners} * of_each) {
  for (std::size_t i = 0; i < orders_.size(); ++i) names_.push_back(fmt::format("own-{}", i));
  for (unsigned i = 0; i < shared; ++i) names_.push_back(fmt::format("shared-{}", i));
}

}  // namespace cistern::soak
