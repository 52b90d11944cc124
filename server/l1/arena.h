// A shard's memory for blocks: pages of 32 KiB, each cut into slots of one size class. Addresses
// are reserved once, so that a handle is an offset; pages that are let go of return to the kernel.
// Under the shard's lock. Charging pages to the budget is the caller's.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "server/l1/block.h"

namespace cistern::l1 {

class Arena {
 public:
  // Addresses for up to `max_pages` (at most kMaxPages). Throws std::bad_alloc.
  explicit Arena(std::uint64_t max_pages);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  Block& at(Handle handle) {
    return *reinterpret_cast<Block*>(base_ + std::size_t{handle} * kGrainBytes);
  }

  // A free slot, its block live and its class set; kNoHandle when the class has none.
  Handle allocate(std::uint8_t size_class);
  // The block must have been destroyed.
  void release(Handle handle);

  // One more page for the class; false when the addresses or the kernel's memory have run out.
  bool add_page(std::uint8_t size_class);
  std::uint64_t pages() const { return page_count_; }
  std::uint64_t free_slots(std::uint8_t size_class) const {
    return classes_[size_class].free_slots;
  }

  // Classes whose free slots are as many as a page has, so that a page can be emptied into others.
  std::uint64_t reclaimable() const { return reclaimable_; }
  // Takes the emptiest page of such a class (as far as a short search finds it) out of allocation
  // and returns the handles of its live blocks, to be moved by allocate() and a copy; then the page
  // must be given to free_page().
  std::uint32_t detach_page(std::uint8_t size_class, std::vector<Handle>& live);
  void free_page(std::uint32_t page);

 private:
  // At the start of each page in use. Pages with free slots are in their class' list.
  struct Page {
    std::uint32_t next, previous;  // number + 1; 0: none
    std::uint16_t used;
    std::uint16_t free_grain;  // the first free slot among those used before; 0: none
    std::uint16_t fresh;       // the first slot that was never used
    std::uint8_t size_class;
    bool listed;
  };
  static_assert(sizeof(Page) <= kPageHeaderBytes);
  struct Class {
    std::uint32_t first = 0, last = 0;  // number + 1; fuller pages towards the first
    std::uint64_t free_slots = 0;
  };

  Page& page(std::uint32_t number) {
    return *reinterpret_cast<Page*>(base_ + std::size_t{number} * kPageBytes);
  }
  void list_first(std::uint32_t number);
  void list_last(std::uint32_t number);
  void unlist(std::uint32_t number);
  void count_free(std::uint8_t size_class, std::int64_t delta);
  bool make_accessible(std::uint64_t page_count);

  std::byte* base_ = nullptr;
  const std::uint64_t max_pages_;
  std::uint64_t accessible_pages_ = 0;
  std::uint64_t frontier_ = 0;             // pages that were ever used
  std::vector<std::uint64_t> free_pages_;  // a bit for each page below the frontier
  std::size_t free_hint_ = 0;              // no word before it has a bit
  std::uint64_t page_count_ = 0;
  std::uint64_t reclaimable_ = 0;
  std::array<Class, kClassCount> classes_;
};

}  // namespace cistern::l1
