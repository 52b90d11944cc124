#include "server/base/memory.h"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <sstream>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "proto/limits.h"

namespace cistern::base {
namespace {

std::optional<std::string> read_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!file || !std::getline(file, line)) return std::nullopt;
  return line;
}

std::optional<std::uint64_t> parse_number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end == text.data()) return std::nullopt;
  return value;
}

// A line "Name:   123 kB" of a file of /proc, in bytes.
std::uint64_t kilobytes_of(const std::string& path, std::string_view name) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    const std::string_view view = line;
    if (!view.starts_with(name) || view.size() <= name.size() || view[name.size()] != ':') continue;
    const std::size_t digits = view.find_first_of("0123456789");
    if (digits == std::string_view::npos) return 0;
    return parse_number(view.substr(digits)).value_or(0) * proto::kKiB;
  }
  return 0;
}

// The folder of a cgroup and all above it. Inside a container the path that the kernel names may
// not be visible, or may climb out of the namespace ("/.."): the mount's root stands for it.
void add_upwards(std::vector<CgroupFolder>& folders, const std::string& mount, std::string group,
                 bool unified) {
  if (group.find("/..") != std::string::npos) group.clear();
  while (!group.empty() && group != "/") {
    folders.push_back({mount + group, unified});
    group.resize(group.rfind('/'));
  }
  folders.push_back({mount, unified});
}

// Every cgroup that bounds the process for `controller` ("memory" or "cpu").
std::vector<CgroupFolder> cgroups(const SystemPaths& paths, std::string_view controller) {
  std::vector<CgroupFolder> folders;
  std::ifstream file(paths.proc + "/self/cgroup");
  std::string line;
  while (std::getline(file, line)) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string group = line.substr(second + 1);
    if (controllers.empty()) {
      add_upwards(folders, paths.cgroup, group, true);
      add_upwards(folders, paths.cgroup + "/unified", group, true);
      continue;
    }
    std::stringstream list(controllers);
    for (std::string one; std::getline(list, one, ',');) {
      if (one != controller) continue;
      add_upwards(folders, paths.cgroup + "/" + one, group, false);
      if (controllers != one) {
        add_upwards(folders, paths.cgroup + "/" + controllers, group, false);
      }
    }
  }
  return folders;
}

std::optional<double> cpu_quota(const CgroupFolder& folder) {
  double quota = 0;
  double period = 0;
  if (folder.unified) {
    const auto line = read_line(folder.path + "/cpu.max");
    if (!line) return std::nullopt;
    std::istringstream fields(*line);
    if (!(fields >> quota >> period)) return std::nullopt;  // "max 100000"
  } else {
    const auto quota_us = parse_number(read_line(folder.path + "/cpu.cfs_quota_us").value_or(""));
    const auto period_us = parse_number(read_line(folder.path + "/cpu.cfs_period_us").value_or(""));
    if (!quota_us || !period_us) return std::nullopt;  // "-1"
    quota = static_cast<double>(*quota_us);
    period = static_cast<double>(*period_us);
  }
  if (quota <= 0 || period <= 0) return std::nullopt;
  return quota / period;
}

unsigned cores_by_affinity() {
  // The kernel refuses a set that is smaller than its own.
  for (int cpus = 1024; cpus <= 1 << 20; cpus *= 2) {
    cpu_set_t* const set = CPU_ALLOC(static_cast<std::size_t>(cpus));
    if (set == nullptr) return 1;
    const std::size_t bytes = CPU_ALLOC_SIZE(static_cast<std::size_t>(cpus));
    const int count = ::sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (count > 0) return static_cast<unsigned>(count);
  }
  return 1;
}

}  // namespace

std::uint64_t machine_memory_bytes(const SystemPaths& paths) {
  return kilobytes_of(paths.proc + "/meminfo", "MemTotal");
}

std::optional<CgroupLimit> cgroup_memory_limit(const SystemPaths& paths) {
  const std::uint64_t machine = machine_memory_bytes(paths);
  std::optional<CgroupLimit> tightest;
  for (const CgroupFolder& folder : cgroups(paths, "memory")) {
    const std::string file =
        folder.path + (folder.unified ? "/memory.max" : "/memory.limit_in_bytes");
    const auto bytes = parse_number(read_line(file).value_or(""));  // "max" is no number
    // v1 says "no limit" as a number near 2^63.
    if (!bytes || (machine != 0 && *bytes >= machine) || *bytes >= std::uint64_t{1} << 62) continue;
    if (!tightest || *bytes < tightest->bytes) tightest = CgroupLimit{*bytes, file, folder};
  }
  return tightest;
}

MemoryLimit automatic_memory_limit(const SystemPaths& paths) {
  if (const auto limit = cgroup_memory_limit(paths)) {
    const std::uint64_t margin = std::max<std::uint64_t>(32 * proto::kMiB, limit->bytes / 10);
    const std::uint64_t half = limit->bytes / 2;
    return {limit->bytes > margin ? std::max(limit->bytes - margin, half) : half,
            fmt::format("{} ({} bytes)", limit->file, limit->bytes), limit->folder};
  }
  const std::uint64_t machine = machine_memory_bytes(paths);
  return {machine / 100 * kMachineSharePercent,
          fmt::format("{} % of MemTotal ({} bytes)", kMachineSharePercent, machine)};
}

MemoryUsage memory_usage(const SystemPaths& paths) {
  const std::string status = paths.proc + "/self/status";
  return {kilobytes_of(status, "VmRSS"), kilobytes_of(status, "VmHWM"),
          kilobytes_of(status, "RssAnon"), kilobytes_of(status, "RssShmem")};
}

unsigned usable_cores(const SystemPaths& paths) {
  unsigned cores = std::max(1U, cores_by_affinity());
  for (const CgroupFolder& folder : cgroups(paths, "cpu")) {
    const auto quota = cpu_quota(folder);
    if (!quota) continue;
    const auto whole = static_cast<unsigned>(std::min(*quota, 1e6));
    cores = std::min(cores, std::max(1U, static_cast<double>(whole) < *quota ? whole + 1 : whole));
  }
  return cores;
}

}  // namespace cistern::base
