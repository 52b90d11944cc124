#include "server/base/rng.h"

#include <errno.h>
#include <sys/random.h>

#include <array>
#include <bit>

#include "server/base/check.h"

namespace cistern::base {
namespace {

void fill_random(void* to, std::size_t bytes) {
  auto* at = static_cast<std::byte*>(to);
  while (bytes > 0) {
    const ssize_t got = ::getrandom(at, bytes, 0);
    if (got < 0 && errno == EINTR) continue;
    CHECK(got > 0);
    at += got;
    bytes -= static_cast<std::size_t>(got);
  }
}

// xoshiro256** 1.0 of Blackman and Vigna, https://prng.di.unimi.it/xoshiro256starstar.c
class Xoshiro {
 public:
  Xoshiro() {
    do {
      fill_random(state_.data(), sizeof state_);
    } while (state_ == std::array<std::uint64_t, 4>{});
  }

  std::uint64_t next() {
    const std::uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
    const std::uint64_t shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = std::rotl(state_[3], 45);
    return result;
  }

 private:
  std::array<std::uint64_t, 4> state_{};
};

}  // namespace

std::uint64_t random_seed() {
  std::uint64_t seed = 0;
  fill_random(&seed, sizeof seed);
  return seed;
}

Version random_version() {
  thread_local Xoshiro generator;
  for (;;) {
    const Version version = generator.next();
    if (version != 0) return version;
  }
}

}  // namespace cistern::base
