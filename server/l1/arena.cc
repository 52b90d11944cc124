#include "server/l1/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <new>

#include "server/base/check.h"
#include "server/base/chunk.h"

namespace cistern::l1 {
namespace {

constexpr std::uint64_t kAccessStepPages = 64;
constexpr unsigned kEmptiestSearchPages = 16;

Handle handle_of(std::uint32_t page, std::size_t grain) {
  return static_cast<Handle>((std::size_t{page} << kPageShift) | grain);
}
std::uint32_t page_of(Handle handle) { return handle >> kPageShift; }
std::uint16_t grain_of(Handle handle) {
  return static_cast<std::uint16_t>(handle & ((Handle{1} << kPageShift) - 1));
}
std::size_t grain_of_slot(std::uint8_t size_class, std::size_t slot) {
  return (kPageHeaderBytes + slot * kClassBytes[size_class]) / kGrainBytes;
}

}  // namespace

Arena::Arena(std::uint64_t max_pages) : max_pages_(std::min(max_pages, kMaxPages)) {
  CHECK(max_pages_ > 0);
  void* const reserved = ::mmap(nullptr, max_pages_ * kPageBytes, PROT_NONE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) throw std::bad_alloc();
  base_ = static_cast<std::byte*>(reserved);
  // A huge page would make memory resident that no page of ours is charged for.
  ::madvise(base_, max_pages_ * kPageBytes, MADV_NOHUGEPAGE);
}

Arena::~Arena() {
  ::munmap(base_, max_pages_ * kPageBytes);
  base::Chunk::add_other_storage(-static_cast<std::int64_t>(page_count_ * kPageBytes));
}

Handle Arena::allocate(std::uint8_t size_class) {
  Class& from = classes_[size_class];
  if (from.first == 0) return kNoHandle;
  const std::uint32_t number = from.first - 1;
  Page& header = page(number);
  std::size_t grain = header.free_grain;
  if (grain != 0) {
    header.free_grain = static_cast<std::uint16_t>(at(handle_of(number, grain)).chain);
  } else {
    grain = grain_of_slot(size_class, header.fresh++);
  }
  if (++header.used == slots_per_page(size_class)) unlist(number);
  count_free(size_class, -1);
  const Handle handle = handle_of(number, grain);
  Block& block = at(handle);
  block = Block{};
  block.flags = kLive;
  block.size_class = size_class & 0x3F;
  return handle;
}

void Arena::release(Handle handle) {
  const std::uint32_t number = page_of(handle);
  Page& header = page(number);
  Block& block = at(handle);
  DCHECK(block.has(kLive) && block.size_class == header.size_class);
  block.flags = 0;
  block.chain = header.free_grain;
  header.free_grain = grain_of(handle);
  --header.used;
  if (!header.listed) {
    list_first(number);
  } else if (header.used == slots_per_page(header.size_class) / 2) {
    // Fuller pages are filled first, so that emptier ones become empty.
    unlist(number);
    list_last(number);
  }
  count_free(header.size_class, 1);
}

bool Arena::make_accessible(std::uint64_t page_count) {
  if (page_count <= accessible_pages_) return true;
  const std::uint64_t until = std::min(max_pages_, accessible_pages_ + kAccessStepPages);
  if (::mprotect(base_ + accessible_pages_ * kPageBytes, (until - accessible_pages_) * kPageBytes,
                 PROT_READ | PROT_WRITE) != 0) {
    return false;
  }
  accessible_pages_ = until;
  return true;
}

bool Arena::add_page(std::uint8_t size_class) {
  while (free_hint_ < free_pages_.size() && free_pages_[free_hint_] == 0) ++free_hint_;
  std::uint32_t number = 0;
  if (free_hint_ < free_pages_.size()) {
    std::uint64_t& word = free_pages_[free_hint_];
    number = static_cast<std::uint32_t>(free_hint_ * 64 +
                                        static_cast<std::size_t>(std::countr_zero(word)));
    word &= word - 1;
  } else {
    if (frontier_ == max_pages_ || !make_accessible(frontier_ + 1)) return false;
    number = static_cast<std::uint32_t>(frontier_++);
    if (number / 64 == free_pages_.size()) free_pages_.push_back(0);
  }
  Page& header = page(number);
  header = Page{};
  header.size_class = size_class;
  ++page_count_;
  base::Chunk::add_other_storage(kPageBytes);
  list_last(number);
  count_free(size_class, slots_per_page(size_class));
  return true;
}

std::uint32_t Arena::detach_page(std::uint8_t size_class, std::vector<Handle>& live) {
  CHECK((reclaimable_ >> size_class & 1) != 0);
  std::uint32_t emptiest = classes_[size_class].last;
  unsigned looked_at = 0;
  for (std::uint32_t one = emptiest; one != 0 && looked_at < kEmptiestSearchPages; ++looked_at) {
    if (page(one - 1).used < page(emptiest - 1).used) emptiest = one;
    one = page(one - 1).previous;
  }
  const std::uint32_t number = emptiest - 1;
  Page& header = page(number);
  unlist(number);
  count_free(size_class, static_cast<std::int64_t>(header.used) - slots_per_page(size_class));
  live.clear();
  for (std::size_t slot = 0; slot < header.fresh; ++slot) {
    const Handle handle = handle_of(number, grain_of_slot(size_class, slot));
    if (at(handle).has(kLive)) live.push_back(handle);
  }
  DCHECK(live.size() == header.used);
  return number;
}

void Arena::free_page(std::uint32_t number) {
  ::madvise(&page(number), kPageBytes, MADV_DONTNEED);
  free_pages_[number / 64] |= std::uint64_t{1} << (number % 64);
  free_hint_ = std::min<std::size_t>(free_hint_, number / 64);
  --page_count_;
  base::Chunk::add_other_storage(-std::int64_t{kPageBytes});
}

void Arena::list_first(std::uint32_t number) {
  Page& header = page(number);
  Class& in = classes_[header.size_class];
  header.previous = 0;
  header.next = in.first;
  header.listed = true;
  (in.first != 0 ? page(in.first - 1).previous : in.last) = number + 1;
  in.first = number + 1;
}

void Arena::list_last(std::uint32_t number) {
  Page& header = page(number);
  Class& in = classes_[header.size_class];
  header.next = 0;
  header.previous = in.last;
  header.listed = true;
  (in.last != 0 ? page(in.last - 1).next : in.first) = number + 1;
  in.last = number + 1;
}

void Arena::unlist(std::uint32_t number) {
  Page& header = page(number);
  Class& in = classes_[header.size_class];
  (header.next != 0 ? page(header.next - 1).previous : in.last) = header.previous;
  (header.previous != 0 ? page(header.previous - 1).next : in.first) = header.next;
  header.listed = false;
}

void Arena::count_free(std::uint8_t size_class, std::int64_t delta) {
  Class& of = classes_[size_class];
  of.free_slots += static_cast<std::uint64_t>(delta);
  const std::uint64_t bit = std::uint64_t{1} << size_class;
  reclaimable_ =
      of.free_slots >= slots_per_page(size_class) ? reclaimable_ | bit : reclaimable_ & ~bit;
}

}  // namespace cistern::l1
