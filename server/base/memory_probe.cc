#include "server/base/memory_probe.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "proto/limits.h"

namespace cistern::base {
namespace {

// The largest of these files, with two dozen more fields than the kernels of today have.
constexpr std::size_t kFileBytes = 8 * proto::kKiB;

std::optional<std::uint64_t> number_at(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(": \t"), text.size()));
  std::uint64_t value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  if (parsed.ec != std::errc{} || parsed.ptr == text.data()) return std::nullopt;
  return value;
}

std::optional<std::uint64_t> field_of(std::string_view text, std::string_view name) {
  for (;;) {
    if (text.starts_with(name) && text.size() > name.size() &&
        (text[name.size()] == ' ' || text[name.size()] == ':')) {
      return number_at(text.substr(name.size()));
    }
    const std::size_t end = text.find('\n');
    if (end == std::string_view::npos) return std::nullopt;
    text.remove_prefix(end + 1);
  }
}

}  // namespace

MemoryProbe::MemoryProbe(const std::optional<CgroupFolder>& cgroup, const SystemPaths& paths) {
  if (cgroup) {
    const std::string& folder = cgroup->path;
    source_ = "cgroup";
    if (cgroup->unified) {
      open(folder + "/memory.stat", {"anon", "shmem", "sock"});
    } else if (open(folder + "/memory.stat", {"total_rss", "total_shmem"})) {
      // Where the kernel accounts for sockets.
      open(folder + "/memory.kmem.tcp.usage_in_bytes", {});
    }
    if (used_bytes()) return;
    close();
  }
  source_ = "process";
  open(paths.proc + "/self/status", {"RssAnon", "RssShmem"}, proto::kKiB);
}

MemoryProbe::MemoryProbe(MemoryProbe&& other) noexcept
    : files_(std::exchange(other.files_, {})), source_(other.source_) {}

MemoryProbe::~MemoryProbe() { close(); }

bool MemoryProbe::open(const std::string& path, std::vector<std::string_view> fields,
                       std::uint64_t unit_bytes) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  files_.push_back({fd, std::move(fields), unit_bytes});
  return true;
}

void MemoryProbe::close() {
  for (const File& file : files_) ::close(file.fd);
  files_.clear();
}

std::optional<std::uint64_t> MemoryProbe::used_bytes() const {
  if (files_.empty()) return std::nullopt;
  std::uint64_t sum = 0;
  for (const File& file : files_) {
    std::array<char, kFileBytes> buffer;
    const ssize_t n = ::pread(file.fd, buffer.data(), buffer.size(), 0);
    if (n <= 0) return std::nullopt;
    const std::string_view text(buffer.data(), static_cast<std::size_t>(n));
    if (file.fields.empty()) {
      sum += number_at(text).value_or(0);
      continue;
    }
    if (!field_of(text, file.fields.front())) return std::nullopt;
    for (const std::string_view field : file.fields) {
      sum += field_of(text, field).value_or(0) * file.unit_bytes;
    }
  }
  return sum;
}

}  // namespace cistern::base
