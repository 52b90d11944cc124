// How much memory is used, as the kernel says.
//
// RSS alone would not do: what a memfd holds shows in it only while it is mapped, and what the
// kernel keeps in socket buffers never.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/base/memory.h"

namespace cistern::base {

class MemoryProbe {
 public:
  // Of `cgroup`, whose limit the process has: its anonymous, shared and socket bytes. Without one,
  // or where it doesn't tell: RssAnon and RssShmem of this process. Keeps its files open, which
  // takes 12 us a sample instead of 20.
  explicit MemoryProbe(const std::optional<CgroupFolder>& cgroup, const SystemPaths& paths = {});
  MemoryProbe(MemoryProbe&& other) noexcept;
  MemoryProbe& operator=(MemoryProbe&&) = delete;
  ~MemoryProbe();

  // Empty when the kernel doesn't answer. Any thread.
  std::optional<std::uint64_t> used_bytes() const;
  // "cgroup" or "process".
  std::string_view source() const { return source_; }

 private:
  // Fields of one file that are summed, each a line that begins with its name; the first must be
  // there. Without any, the file is one number.
  struct File {
    int fd = -1;
    std::vector<std::string_view> fields;
    std::uint64_t unit_bytes = 1;
  };
  bool open(const std::string& path, std::vector<std::string_view> fields,
            std::uint64_t unit_bytes = 1);
  void close();

  std::vector<File> files_;
  std::string_view source_ = "process";
};

}  // namespace cistern::base
