#include "tests/bench/load/library_load.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <thread>

#include <nlohmann/json.hpp>

#include "tests/bench/load/driver.h"
#include "tests/bench/load/socket.h"
#include "tests/bench/load/value_check.h"

namespace cistern::bench {
namespace {

// A connection that fails again and again is given up.
constexpr unsigned kMaxFailures = 10;

std::unique_ptr<LibraryClient> connect(const Config& config) {
  if (config.system == "cistern") return connect_cistern_client(config);
  return config.system == "redis" ? connect_hiredis(config) : connect_libmemcached(config);
}

void check_map(const void* mapped) {
  if (mapped != MAP_FAILED) return;
  throw std::runtime_error(std::string("mapping the values failed: ") + std::strerror(errno) +
                           "; is value.bytes above what vm.max_map_count and the address space "
                           "allow?");
}

}  // namespace

ValueMemory::ValueMemory(const Corpus& corpus) : corpus_(corpus) {
  const Fd file(memfd_create("values", MFD_CLOEXEC));
  const proto::Bytes period = corpus.period();
  if (write(file.get(), period.data(), period.size()) != static_cast<ssize_t>(period.size())) {
    throw std::runtime_error(std::string("writing the values failed: ") + std::strerror(errno));
  }
  // A value begins anywhere in the first period.
  const std::uint64_t periods = corpus.max_bytes() / kPeriodBytes + 2;
  bytes_ = periods * kPeriodBytes;
  void* const all = mmap(nullptr, bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  check_map(all);
  begin_ = static_cast<std::byte*>(all);
  for (std::uint64_t i = 0; i < periods; ++i) {
    check_map(mmap(begin_ + i * kPeriodBytes, kPeriodBytes, PROT_READ, MAP_SHARED | MAP_FIXED,
                   file.get(), 0));
  }
}

ValueMemory::~ValueMemory() { munmap(begin_, bytes_); }

proto::Bytes ValueMemory::value(KeyIndex key) const {
  return {begin_ + corpus_.phase(key, 0), static_cast<std::size_t>(corpus_.size(key))};
}

LibraryLoad::LibraryLoad(const Config& config)
    : config_(config),
      corpus_(config_.key_prefix, config_.value),
      memory_(corpus_),
      plan_(config_) {
  for (unsigned i = 0; i < config_.connections; ++i) clients_.push_back(connect(config_));
}

nlohmann::json LibraryLoad::fill(KeyIndex first, KeyIndex last) {
  plan_.begin_fill(first, last);
  return drive(std::numeric_limits<std::int64_t>::max());
}

nlohmann::json LibraryLoad::run(double seconds) {
  plan_.begin_run();
  return drive(config_.operations == 0 ? now_ns() + static_cast<std::int64_t>(seconds * 1e9)
                                       : std::numeric_limits<std::int64_t>::max());
}

nlohmann::json LibraryLoad::drive(std::int64_t deadline_ns) {
  std::vector<Totals> totals(clients_.size());
  const std::int64_t cpu_began = cpu_ns();
  const std::int64_t began = now_ns();
  std::vector<std::thread> threads;
  for (unsigned i = 1; i < clients_.size(); ++i) {
    threads.emplace_back([this, i, deadline_ns, &totals] { work(i, deadline_ns, totals[i]); });
  }
  work(0, deadline_ns, totals[0]);
  for (std::thread& thread : threads) thread.join();
  plan_.stop();
  const std::int64_t elapsed = now_ns() - began;
  const std::int64_t cpu = cpu_ns() - cpu_began;
  Totals all;
  for (const Totals& one : totals) all.add(one);
  return report(all, static_cast<double>(elapsed) / 1e9, static_cast<double>(cpu) / 1e9);
}

void LibraryLoad::work(unsigned index, std::int64_t deadline_ns, Totals& totals) {
  unsigned failures = 0;
  for (std::uint64_t number = 0; now_ns() < deadline_ns && failures < kMaxFailures; ++number) {
    std::optional<Operation> next;
    {
      const std::lock_guard lock(mutex_);
      next = plan_.next(index);
    }
    if (!next) return;
    try {
      perform(*clients_[index], *next, number, totals);
      failures = 0;
    } catch (const std::exception& error) {
      ++failures;
      totals.fail("key " + corpus_.key(next->key) + ": " + error.what());
    }
  }
}

void LibraryLoad::perform(LibraryClient& client, const Operation& operation, std::uint64_t number,
                          Totals& totals) {
  const std::int64_t began = now_ns();
  if (operation.is_put) {
    put(client, operation.key, totals);
  } else {
    get(client, operation.key, number, began, totals);
  }
  totals.latency.add(now_ns() - began);
}

void LibraryLoad::get(LibraryClient& client, KeyIndex key, std::uint64_t number,
                      std::int64_t began_ns, Totals& totals) {
  ValueCheck value;
  value.begin(corpus_, key, number, config_.verifies_all);
  const bool is_hit = client.get(corpus_.key(key), [&](proto::Bytes bytes) {
    if (value.received() == 0 && value.expected() > kSmallValueBytes) {
      totals.first_byte.add(now_ns() - began_ns);
    }
    value.add(bytes);
  });
  ++totals.gets;
  if (!is_hit) {
    ++totals.misses;
    if (config_.puts_on_miss) put(client, key, totals);
    return;
  }
  ++totals.hits;
  totals.value_bytes += value.received();
  value.announce(value.received());
  const std::string error = value.error();
  if (!error.empty()) totals.fail("key " + corpus_.key(key) + ": " + error);
}

void LibraryLoad::put(LibraryClient& client, KeyIndex key, Totals& totals) {
  const proto::Bytes value = memory_.value(key);
  const bool is_stored = client.put(corpus_.key(key), value);
  ++totals.puts;
  if (is_stored) {
    totals.value_bytes += value.size();
  } else {
    ++totals.refused;
  }
}

}  // namespace cistern::bench
