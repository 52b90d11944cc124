// What the container and the machine allow, and what the process takes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace cistern::base {

// Where the kernel's files are; tests put their own there.
struct SystemPaths {
  std::string proc = "/proc";
  std::string cgroup = "/sys/fs/cgroup";
};

struct CgroupFolder {
  std::string path;
  bool unified = false;  // v2
};

struct CgroupLimit {
  std::uint64_t bytes = 0;
  std::string file;  // the one that says so
  CgroupFolder folder{};
};

// The tightest memory limit from the process' own cgroup up to the root: memory.max (v2) and
// memory.limit_in_bytes (v1). Empty where none is set, or none below the machine's memory.
std::optional<CgroupLimit> cgroup_memory_limit(const SystemPaths& paths = {});

// MemTotal, bytes; 0 when it cannot be read.
std::uint64_t machine_memory_bytes(const SystemPaths& paths = {});

// Share of MemTotal that `memory.limit: auto` takes where no cgroup sets a limit.
inline constexpr unsigned kMachineSharePercent = 50;

struct MemoryLimit {
  std::uint64_t bytes = 0;
  std::string source;                    // for the log: what it was computed from
  std::optional<CgroupFolder> cgroup{};  // whose limit it is, if it is one's
};
// `memory.limit: auto`: the cgroup's limit less the larger of 32 MiB and 10 % (what the kernel
// keeps for the process and what nobody accounts), never less than half of it; else
// kMachineSharePercent of the machine's memory.
MemoryLimit automatic_memory_limit(const SystemPaths& paths = {});

// From /proc/self/status; 0 where the kernel doesn't say.
struct MemoryUsage {
  std::uint64_t resident_bytes = 0;       // VmRSS
  std::uint64_t peak_resident_bytes = 0;  // VmHWM
  std::uint64_t anonymous_bytes = 0;      // RssAnon
  std::uint64_t shared_bytes = 0;         // RssShmem
};
MemoryUsage memory_usage(const SystemPaths& paths = {});

// Cores that the process may use: its affinity, and the cgroup's CPU quota rounded up. At least 1.
unsigned usable_cores(const SystemPaths& paths = {});

}  // namespace cistern::base
