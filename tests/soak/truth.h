// What the soak's writers wrote, so that every reader can judge what it gets: the bytes follow from
// the write's id, which the metadata names, and of a key with one writer it's known which writes a
// reader may still see.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace cistern::soak {

// One write of one key; the id is unique in a run.
struct Write {
  std::uint64_t id = 0;
  std::uint64_t size = 0;
};

// The metadata of a write, and the other way round; id 0 when it isn't one of this key.
std::string metadata_of(std::string_view key, const Write& write);
Write write_of(std::string_view key, std::string_view metadata);

// The bytes of a write from `offset` on.
void make_content(std::span<std::byte> target, std::uint64_t seed, std::uint64_t id,
                  std::uint64_t offset);
bool is_content(std::span<const std::byte> bytes, std::uint64_t seed, std::uint64_t id,
                std::uint64_t offset);

// A small value that says by itself which write of which key it is: 16 bytes and some more.
std::vector<std::byte> tiny_value(std::string_view key, std::uint64_t seed, std::uint64_t id);
bool is_tiny_value(std::string_view key, std::uint64_t seed, std::span<const std::byte> bytes);

// The writes of a key that has one writer, who writes one after the other. Any thread reads.
class Order {
 public:
  // Before a write or a removal: its number.
  std::uint64_t begin() { return started_.fetch_add(1) + 1; }
  // The daemon has acknowledged it: nothing older may be seen from now on.
  void acknowledged(std::uint64_t number) { oldest_ = number; }

  std::uint64_t oldest() const { return oldest_; }
  std::uint64_t newest() const { return started_; }

 private:
  std::atomic<std::uint64_t> started_{0};
  std::atomic<std::uint64_t> oldest_{0};
};

// All keys of the values that carry metadata. The first ones have one writer each.
class Keys {
 public:
  Keys(unsigned owners, unsigned of_each, unsigned shared);

  std::size_t count() const { return names_.size(); }
  const std::string& name(std::size_t key) const { return names_[key]; }
  // Null for a key that everybody writes.
  Order* order(std::size_t key) { return key < orders_.size() ? &orders_[key] : nullptr; }
  std::size_t owned(unsigned owner, std::uint64_t which) const {
    return owner * of_each_ + which % of_each_;
  }
  std::size_t shared(std::uint64_t which) const {
    return orders_.size() + which % (names_.size() - orders_.size());
  }

 private:
  const unsigned of_each_;
  std::vector<Order> orders_;
  std::vector<std::string> names_;
};

}  // namespace cistern::soak
