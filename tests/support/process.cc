#include "tests/support/process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <utility>

extern char** environ;

namespace cistern::testing {
namespace {

std::string read_file(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// The number after `field` in lines of "field number".
std::uint64_t field_of(const std::string& text, const std::string& field) {
  std::istringstream lines(text);
  std::string name;
  std::uint64_t value = 0;
  while (lines >> name >> value) {
    if (name == field) return value;
  }
  return 0;
}

std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (const std::string& text : texts) result.push_back(const_cast<char*>(text.c_str()));
  result.push_back(nullptr);
  return result;
}

}  // namespace

TempDir::TempDir() {
  std::string form = (std::filesystem::temp_directory_path() / "cistern-test-XXXXXX").string();
  if (mkdtemp(form.data()) == nullptr) throw std::runtime_error("mkdtemp: " + form);
  path_ = form;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

// --------------------------------------------------------------------------------------- Cgroup

std::unique_ptr<Cgroup> Cgroup::create(std::uint64_t limit_bytes) {
  static std::atomic<int> counter{0};
  const std::string name =
      "cistern-test-" + std::to_string(getpid()) + "-" + std::to_string(counter++);
  std::unique_ptr<Cgroup> group(new Cgroup);
  const std::string v1 = "/sys/fs/cgroup/memory/" + name;
  const std::string v2 = "/sys/fs/cgroup/" + name;
  std::string limit_file;
  if (mkdir(v1.c_str(), 0755) == 0) {
    group->path_ = v1;
    limit_file = v1 + "/memory.limit_in_bytes";
  } else if (access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0 &&
             mkdir(v2.c_str(), 0755) == 0) {
    group->path_ = v2;
    group->v2_ = true;
    limit_file = v2 + "/memory.max";
  } else {
    return nullptr;
  }
  std::ofstream limit(limit_file);
  limit << limit_bytes << std::flush;
  group->procs_fd_ = open((group->path_ + "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC);
  if (!limit.good() || group->procs_fd_ < 0) return nullptr;
  return group;
}

Cgroup::~Cgroup() {
  if (procs_fd_ >= 0) close(procs_fd_);
  if (!path_.empty()) rmdir(path_.c_str());
}

std::uint64_t Cgroup::max_usage_bytes() const {
  return std::stoull("0" +
                     read_file(path_ + (v2_ ? "/memory.peak" : "/memory.max_usage_in_bytes")));
}

std::uint64_t Cgroup::file_cache_bytes() const {
  return field_of(read_file(path_ + "/memory.stat"), v2_ ? "file" : "cache");
}

std::uint64_t Cgroup::oom_kills() const {
  return field_of(read_file(path_ + (v2_ ? "/memory.events" : "/memory.oom_control")), "oom_kill");
}

// -------------------------------------------------------------------------------------- Process

Process::Process(std::vector<std::string> argv, const ProcessOptions& options) {
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    if (!options.environment.contains(text.substr(0, text.find('=')))) environment.push_back(text);
  }
  for (const auto& [name, value] : options.environment) environment.push_back(name + "=" + value);
  std::vector<char*> arguments = pointers(argv);
  std::vector<char*> variables = pointers(environment);

  int errors[2];
  int output[2] = {-1, -1};
  if (pipe2(errors, O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
  if (options.stdout_fd < 0 && pipe2(output, O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
  const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  const int in = options.stdin_fd < 0 ? null : options.stdin_fd;
  const int out = options.stdout_fd < 0 ? output[1] : options.stdout_fd;
  const int procs = options.cgroup == nullptr ? -1 : options.cgroup->procs_fd();

  pid_ = fork();
  if (pid_ == 0) {
    // Nothing but system calls here: other threads may hold any lock.
    if (procs >= 0 && write(procs, "0", 1) != 1) _exit(126);
    signal_reset();
    if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(errors[1], 2) < 0) _exit(126);
    execve(arguments[0], arguments.data(), variables.data());
    _exit(127);
  }
  close(errors[1]);
  if (output[1] >= 0) close(output[1]);
  close(null);
  if (pid_ < 0) throw std::runtime_error("fork: " + std::string(std::strerror(errno)));
  collectors_.emplace_back([this, fd = errors[0]] { collect(fd, errors_); });
  if (output[0] >= 0) collectors_.emplace_back([this, fd = output[0]] { collect(fd, output_); });
}

void Process::signal_reset() {
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  sigaction(SIGPIPE, &action, nullptr);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

Process::~Process() {
  if (running()) {
    signal(SIGKILL);
    wait(Millis(10'000));
  }
  for (std::thread& collector : collectors_) collector.join();
}

void Process::collect(int fd, std::string& into) {
  char buffer[4096];
  while (true) {
    const ssize_t got = read(fd, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    const std::lock_guard lock(mutex_);
    if (got > 0) into.append(buffer, static_cast<std::size_t>(got));
    if (got <= 0 && &into == &errors_) errors_closed_ = true;
    changed_.notify_all();
    if (got <= 0) break;
  }
  close(fd);
}

void Process::signal(int number) const {
  if (!exit_) kill(pid_, number);
}

bool Process::running() { return !wait(Millis(0)).has_value(); }

std::optional<std::string> Process::wait_for_line(
    const std::function<bool(const std::string&)>& matches, Millis patience) {
  const auto until = std::chrono::steady_clock::now() + patience;
  std::size_t at = 0;
  std::unique_lock lock(mutex_);
  while (true) {
    for (std::size_t end; (end = errors_.find('\n', at)) != std::string::npos; at = end + 1) {
      std::string line = errors_.substr(at, end - at);
      if (matches(line)) return line;
    }
    if (errors_closed_ || changed_.wait_until(lock, until) == std::cv_status::timeout) {
      if (errors_closed_ && errors_.find('\n', at) != std::string::npos) continue;
      return std::nullopt;
    }
  }
}

std::optional<int> Process::wait(Millis patience) {
  // A child's end is awaited by looking: waitpid has no deadline, and pidfds are not everywhere.
  const auto until = std::chrono::steady_clock::now() + patience;
  while (!exit_) {
    int status = 0;
    struct rusage usage {};
    const pid_t got = wait4(pid_, &status, WNOHANG, &usage);
    if (got == pid_) {
      exit_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      max_resident_bytes_ = static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
      break;
    }
    if (std::chrono::steady_clock::now() >= until) return std::nullopt;
    std::this_thread::sleep_for(Millis(2));
  }
  return exit_;
}

std::string Process::errors() const {
  const std::lock_guard lock(mutex_);
  return errors_;
}

std::string Process::output() const {
  const std::lock_guard lock(mutex_);
  return output_;
}

std::uint64_t Process::status_bytes(const std::string& field) const {
  std::ifstream in("/proc/" + std::to_string(pid_) + "/status");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(field + ":")) return std::stoull(line.substr(field.size() + 1)) * 1024;
  }
  return 0;
}

Finished run(std::vector<std::string> argv, Millis patience, const ProcessOptions& options) {
  const std::string name = argv.front();
  auto process = std::make_unique<Process>(std::move(argv), options);
  const std::optional<int> status = process->wait(patience);
  if (!status) throw std::runtime_error(name + " did not end in time: " + process->errors());
  process->join_output();
  return {*status, process->output(), process->errors(), process->max_resident_bytes()};
}

void Process::join_output() {
  for (std::thread& collector : collectors_) collector.join();
  collectors_.clear();
}

std::string program(const std::string& name) { return std::string(CISTERN_BIN_DIR) + "/" + name; }

void wait_until_stopped(pid_t pid) {
  const auto is_stopped = [pid] {
    std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
    std::string line;
    std::getline(stat, line);
    const std::size_t close = line.rfind(')');
    return close != std::string::npos && close + 2 < line.size() && line[close + 2] == 'T';
  };
  const auto until = std::chrono::steady_clock::now() + Millis(10'000);
  while (!is_stopped()) {
    if (std::chrono::steady_clock::now() > until) {
      throw std::runtime_error("the process does not stop: " + std::to_string(pid));
    }
    std::this_thread::sleep_for(Millis(1));
  }
}

}  // namespace cistern::testing
