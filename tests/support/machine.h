// A /proc and a /sys/fs/cgroup of a test's own.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

#include "server/base/memory.h"

namespace cistern::testing {

class Machine {
 public:
  Machine() {
    char name[] = "/tmp/cistern-machine-XXXXXX";
    if (::mkdtemp(name) == nullptr) throw std::runtime_error("no folder in /tmp");
    root_ = name;
    paths = {root_ + "/proc", root_ + "/cgroup"};
    put("proc/meminfo", "MemTotal:        8388608 kB\nMemFree: 1 kB\n");
  }
  ~Machine() { std::filesystem::remove_all(root_); }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  // In place, as the kernel's files change for those who have them open.
  void put(const std::string& file, const std::string& text) {
    const std::filesystem::path path = root_ + "/" + file;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  base::SystemPaths paths;

 private:
  std::string root_;
};

}  // namespace cistern::testing
