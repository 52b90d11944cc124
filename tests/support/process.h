// Child processes of a test: started, watched line by line, signalled by their own pid, and never
// left behind.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace cistern::testing {

using Millis = std::chrono::milliseconds;

// A directory of its own, removed with all that is in it.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::string file(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

// A memory cgroup (v1 or v2) of the test's own. Empty where the machine doesn't let us make one.
class Cgroup {
 public:
  static std::unique_ptr<Cgroup> create(std::uint64_t limit_bytes);
  ~Cgroup();

  // A descriptor through which a child puts itself in by writing "0".
  int procs_fd() const { return procs_fd_; }
  // Highest charge so far, page cache included; and what of the present charge is page cache.
  std::uint64_t max_usage_bytes() const;
  std::uint64_t file_cache_bytes() const;
  std::uint64_t oom_kills() const;
  const std::string& path() const { return path_; }

 private:
  Cgroup() = default;
  std::string path_;
  bool v2_ = false;
  int procs_fd_ = -1;
};

struct ProcessOptions {
  std::map<std::string, std::string> environment;  // added to the test's own
  int stdin_fd = -1;                               // -1: /dev/null; not closed
  int stdout_fd = -1;                              // -1: collected; not closed
  const Cgroup* cgroup = nullptr;
};

class Process {
 public:
  // argv[0] is a path. Throws std::runtime_error when it can't be started.
  Process(std::vector<std::string> argv, const ProcessOptions& options = {});
  // SIGKILL if it still runs, and reaps it.
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  void signal(int number) const;
  bool running();

  // The first line of standard error, past or to come, that satisfies `matches`; empty when there
  // is none within `patience` or before the process closes it.
  std::optional<std::string> wait_for_line(const std::function<bool(const std::string&)>& matches,
                                           Millis patience);
  // Exit status, or 128 + the signal that ended it. Empty: it still runs after `patience`.
  std::optional<int> wait(Millis patience);

  // All of standard error and of collected standard output so far.
  std::string errors() const;
  std::string output() const;

  // Waits until it and its children have closed both; afterwards errors() and output() are
  // complete.
  void join_output();

  // A field of /proc/PID/status in bytes, such as VmHWM; 0 when it's gone.
  std::uint64_t status_bytes(const std::string& field) const;
  // Highest resident set over its whole life, in bytes; after wait() has answered.
  std::uint64_t max_resident_bytes() const { return max_resident_bytes_; }

 private:
  void collect(int fd, std::string& into);
  static void signal_reset();

  pid_t pid_ = -1;
  std::optional<int> exit_;
  std::uint64_t max_resident_bytes_ = 0;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::string errors_;
  std::string output_;
  bool errors_closed_ = false;
  std::vector<std::thread> collectors_;
};

// Runs to the end: exit status, output, errors and the highest resident set.
struct Finished {
  int status;
  std::string output;
  std::string errors;
  std::uint64_t max_resident_bytes;
};
Finished run(std::vector<std::string> argv, Millis patience, const ProcessOptions& options = {});

// Waits until a process that was sent SIGSTOP has stopped. Throws std::runtime_error.
void wait_until_stopped(pid_t pid);

// A path in the build's folder of programs.
std::string program(const std::string& name);

}  // namespace cistern::testing
