#include "server/base/chunk.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "server/base/check.h"
#include "server/base/fresh_memory.h"
#include "server/base/spare_pool.h"

namespace cistern::base {
namespace {

constexpr std::size_t kPageBytes = 4 * proto::kKiB;
constexpr std::size_t kMapFromBytes = 64 * proto::kKiB;
// The object and its shared_ptr's counts, in one heap block.
constexpr std::size_t kBookkeepingBytes = 80;
static_assert(sizeof(Chunk) + 2 * sizeof(void*) + 2 * sizeof(int) <= kBookkeepingBytes);

std::size_t in_pages(std::size_t bytes) {
  return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

// jemalloc's size classes: multiples of 16 to 128, then four to each doubling.
std::size_t heap_class(std::size_t bytes) {
  const std::size_t step = bytes <= 128 ? 16 : std::bit_ceil(bytes) / 8;
  return (bytes + step - 1) / step * step;
}

std::size_t buffer_bytes(std::size_t capacity) {
  return capacity >= kMapFromBytes ? in_pages(capacity) : heap_class(capacity);
}

// Never destroyed: chunks may outlive main's statics.
SparePool& pool() {
  static SparePool* const the_pool = new SparePool;
  return *the_pool;
}

std::byte* map(std::size_t bytes) {
  if (std::byte* const spare = pool().take(bytes)) return spare;
  void* const data =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  note_fresh({static_cast<std::byte*>(data), bytes});
  return static_cast<std::byte*>(data);
}

std::byte* from_heap(std::size_t bytes) {
  void* const data = std::malloc(bytes);
  if (data == nullptr) throw std::bad_alloc();
  return static_cast<std::byte*>(data);
}

}  // namespace

std::shared_ptr<Chunk> Chunk::allocate(std::size_t capacity_bytes) {
  CHECK(capacity_bytes > 0);
  struct Constructible : Chunk {};
  const std::shared_ptr<Chunk> chunk = std::make_shared<Constructible>();
  if (capacity_bytes >= kMapFromBytes) {
    chunk->data_ = map(in_pages(capacity_bytes));
    chunk->mapped_ = in_pages(capacity_bytes);
  } else {
    chunk->data_ = from_heap(capacity_bytes);
  }
  chunk->capacity_ = capacity_bytes;
  pool().add_live(static_cast<std::int64_t>(chunk->allocated_bytes()));
  return chunk;
}

Chunk::~Chunk() {
  if (data_ == nullptr) return;
  pool().add_live(-static_cast<std::int64_t>(allocated_bytes()));
  if (mapped_ != 0) {
    pool().give(data_, mapped_);
  } else {
    std::free(data_);
  }
}

void Chunk::seal(std::size_t size, proto::ChunkDigest digest) {
  CHECK(size <= capacity_);
  const std::size_t before = allocated_bytes();
  const std::size_t keep = std::max<std::size_t>(size, 1);
  if (mapped_ != 0 && keep < kMapFromBytes) {
    // So that what a sealed chunk takes follows from its size alone, and a whole mapping is
    // recycled.
    std::byte* const moved = from_heap(keep);
    std::memcpy(moved, data_, size);
    pool().give(std::exchange(data_, moved), std::exchange(mapped_, 0));
    capacity_ = keep;
  } else if (mapped_ != 0 && in_pages(keep) < mapped_) {
    const std::size_t tail = mapped_ - in_pages(keep);
    if (::munmap(data_ + in_pages(keep), tail) == 0) {
      mapped_ -= tail;
      capacity_ = keep;
    } else {
      ::madvise(data_ + in_pages(keep), tail, MADV_DONTNEED);
    }
  } else if (mapped_ == 0 && heap_class(keep) < heap_class(capacity_)) {
    if (void* const smaller = std::realloc(data_, keep)) {
      data_ = static_cast<std::byte*>(smaller);
      capacity_ = keep;
    }
  }
  pool().add_live(-static_cast<std::int64_t>(before - allocated_bytes()));
  size_ = size;
  digest_ = digest;
}

std::size_t Chunk::allocated_bytes() const {
  return kBookkeepingBytes + (mapped_ != 0 ? mapped_ : heap_class(capacity_));
}

std::size_t Chunk::allocated_for(std::size_t capacity_bytes) {
  return kBookkeepingBytes + buffer_bytes(capacity_bytes);
}

std::uint64_t Chunk::live_bytes() { return pool().live_bytes(); }
std::uint64_t Chunk::spare_bytes() { return pool().bytes(); }
void Chunk::set_spare_limit(std::uint64_t bytes) { pool().set_limit(bytes); }
void Chunk::set_storage_budget(std::uint64_t bytes) { pool().set_budget(bytes); }
void Chunk::add_other_storage(std::int64_t bytes) { pool().add_other(bytes); }
std::uint64_t Chunk::release_spares(std::uint64_t bytes) { return pool().release(bytes); }
void Chunk::release_old_spares(TimePoint now) { pool().release_old(now); }

}  // namespace cistern::base
