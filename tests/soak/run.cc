#include "tests/soak/run.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <thread>

#include <nlohmann/json.hpp>

namespace cistern::soak {
namespace {

constexpr unsigned kKeysOfEach = 2;
constexpr unsigned kSharedKeys = 48;
constexpr std::size_t kLargeKeys = 32;
constexpr std::chrono::seconds kCrowdTime(2);
constexpr std::size_t kMostWrong = 50;  // reported; more say nothing new

}  // namespace

Run::Run(const Options& options, unsigned owners)
    : options_(options),
      until_(began_ + std::chrono::seconds(options.seconds)),
      keys_(owners, kKeysOfEach, kSharedKeys) {}

void Run::pause(std::chrono::milliseconds time) const {
  // The actor's own pace.
  std::this_thread::sleep_until(std::min(until_, Clock::now() + time));
}

void Run::count(std::string_view operation, std::string_view result, std::uint64_t times) {
  const std::lock_guard lock(mutex_);
  counts_[std::string(operation)][std::string(result)] += times;
}

void Run::wrong(const std::string& what) {
  const std::lock_guard lock(mutex_);
  if (wrong_.size() < kMostWrong) wrong_.push_back(what);
}

void Run::moved(std::uint64_t read_bytes, std::uint64_t written_bytes) {
  read_bytes_ += read_bytes;
  written_bytes_ += written_bytes;
}

void Run::stored_large(std::size_t key) {
  const std::lock_guard lock(mutex_);
  if (large_.size() < kLargeKeys) large_.resize(large_.size() + 1);
  large_[next_large_++ % large_.size()] = key;
}

std::size_t Run::large_key(std::uint64_t draw) {
  if (draw == 0) draw = static_cast<std::uint64_t>((Clock::now() - began_) / kCrowdTime);
  const std::lock_guard lock(mutex_);
  return large_.empty() ? draw % keys_.count() : large_[draw % large_.size()];
}

std::string Run::counts() const {
  const std::lock_guard lock(mutex_);
  return nlohmann::json(counts_).dump();
}

std::vector<std::string> Run::all_wrong() const {
  const std::lock_guard lock(mutex_);
  return wrong_;
}

std::uint64_t Actor::log_uniform(std::uint64_t least, std::uint64_t most) {
  const double low = std::log2(static_cast<double>(least));
  const double high = std::log2(static_cast<double>(most));
  const double exponent = std::uniform_real_distribution<double>(low, high)(random_);
  return std::clamp(static_cast<std::uint64_t>(std::exp2(exponent)), least, most);
}

void Actor::run() {
  while (!run_.is_over()) {
    try {
      step();
    } catch (const std::exception& error) {
      run_.wrong(std::string("an actor did not expect: ") + error.what());
      run_.pause(std::chrono::milliseconds(1000));
    }
  }
}

}  // namespace cistern::soak
