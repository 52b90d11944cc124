#include "client/cli/files.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include <fmt/format.h>

#include "client/cli/arguments.h"

namespace cistern::cli {
namespace {

std::string reason() { return std::strerror(errno); }

// The temporary file that a signal has to remove; its first byte is 0 while there is none. A
// handler may only call what is safe there, so this is a plain array.
constexpr std::size_t kMaxPathBytes = 4096;
char temporary_path[kMaxPathBytes];

void remove_and_die(int signal_number) {
  if (temporary_path[0] != '\0') ::unlink(temporary_path);
  ::signal(signal_number, SIG_DFL);
  ::raise(signal_number);
}

constexpr int kDeadly[] = {SIGINT, SIGTERM, SIGHUP};

// While it lives, no deadly signal comes between making a file and knowing its name.
class SignalsHeld {
 public:
  SignalsHeld() {
    sigset_t held;
    sigemptyset(&held);
    for (const int number : kDeadly) sigaddset(&held, number);
    ::sigprocmask(SIG_BLOCK, &held, &before_);
  }
  ~SignalsHeld() { ::sigprocmask(SIG_SETMASK, &before_, nullptr); }
  SignalsHeld(const SignalsHeld&) = delete;
  SignalsHeld& operator=(const SignalsHeld&) = delete;

 private:
  sigset_t before_;
};

void watch_signals() {
  for (const int number : kDeadly) {
    struct sigaction action {};
    ::sigaction(number, nullptr, &action);
    if (action.sa_handler == SIG_IGN) continue;  // nohup and the like
    action = {};
    action.sa_handler = remove_and_die;
    ::sigaction(number, &action, nullptr);
  }
}

mode_t current_umask() {
  const mode_t mask = ::umask(0);
  ::umask(mask);
  return mask;
}

bool same_time(const timespec& a, const timespec& b) {
  return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

}  // namespace

Descriptor::Descriptor(Descriptor&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), owned_(std::exchange(other.owned_, false)) {}

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(owned_, other.owned_);
  return *this;
}

Descriptor::~Descriptor() { close(); }

bool Descriptor::close() {
  const int fd = std::exchange(fd_, -1);
  return fd < 0 || !owned_ || ::close(fd) == 0;
}

// --------------------------------------------------------------------------------------- Input

InputFile::InputFile(const std::string& path) : name_(path == "-" ? "standard input" : path) {
  fd_ = path == "-" ? Descriptor(STDIN_FILENO, false)
                    : Descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd_.get() < 0) {
    throw Failure(Exit::kPermanent, fmt::format("cannot open {}: {}", name_, reason()));
  }
  if (::fstat(fd_.get(), &at_open_) != 0) {
    throw Failure(Exit::kPermanent, fmt::format("cannot examine {}: {}", name_, reason()));
  }
  if (S_ISDIR(at_open_.st_mode)) {
    throw Failure(Exit::kUsage, fmt::format("{} is a directory; pack it first, for example: tar -c "
                                            "{} | cistern put KEY -",
                                            name_, name_));
  }
  if (!S_ISREG(at_open_.st_mode)) return;
  // Standard input may have been read from already.
  const off_t at = ::lseek(fd_.get(), 0, SEEK_CUR);
  const off_t left = at_open_.st_size - std::max<off_t>(at, 0);
  // Files of the kernel's (/proc) say 0 and have bytes all the same.
  if (at_open_.st_size > 0) size_ = static_cast<std::uint64_t>(std::max<off_t>(left, 0));
  ::posix_fadvise(fd_.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
}

std::size_t InputFile::read(std::span<std::byte> target) {
  while (true) {
    const ssize_t got = ::read(fd_.get(), target.data(), target.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      throw Failure(Exit::kPermanent, fmt::format("cannot read {}: {}", name_, reason()));
    }
    read_bytes_ += static_cast<std::uint64_t>(got);
    if (!size_) return static_cast<std::size_t>(got);
    if (read_bytes_ > *size_ || (got == 0 && read_bytes_ < *size_)) changed();
    if (got == 0) {
      struct stat now {};
      const bool known = ::fstat(fd_.get(), &now) == 0;
      if (known && !same_time(now.st_mtim, at_open_.st_mtim)) changed();
    }
    return static_cast<std::size_t>(got);
  }
}

void InputFile::changed() const {
  throw Failure(Exit::kRetryable,
                fmt::format("{} was changed while it was read; nothing was stored. Try again when "
                            "nobody writes to it",
                            name_));
}

// -------------------------------------------------------------------------------------- Output

OutputFile::OutputFile(const std::string& path) : name_(path) {
  if (path == "-") {
    name_ = "standard output";
    fd_ = Descriptor(STDOUT_FILENO, false);
    return;
  }
  struct stat existing {};
  const bool exists = ::stat(path.c_str(), &existing) == 0;
  if (exists && S_ISDIR(existing.st_mode)) {
    throw Failure(Exit::kUsage, fmt::format("-o {}: it is a directory; name a file in it", path));
  }
  if (exists && !S_ISREG(existing.st_mode)) {
    fd_ = Descriptor(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (fd_.get() < 0) {
      throw Failure(Exit::kPermanent, fmt::format("cannot write {}: {}", path, reason()));
    }
    return;
  }
  // A symbolic link stays one; what it points to is replaced.
  std::error_code failed;
  const std::filesystem::path resolved = std::filesystem::weakly_canonical(path, failed);
  target_ = failed ? path : resolved.string();
  open_temporary(path);
  const mode_t mode = exists ? existing.st_mode & 07777 : 0666 & ~current_umask();
  ::fchmod(fd_.get(), mode);
}

void OutputFile::open_temporary(const std::string& path) {
  const std::filesystem::path target(target_);
  std::string pattern =
      (target.parent_path() / fmt::format(".{}.XXXXXX", target.filename().string())).string();
  if (pattern.size() >= kMaxPathBytes) {
    throw Failure(Exit::kUsage, fmt::format("-o {}: the path is too long", path));
  }
  const SignalsHeld held;
  fd_ = Descriptor(::mkostemp(pattern.data(), O_CLOEXEC));
  if (fd_.get() < 0) {
    throw Failure(Exit::kPermanent,
                  fmt::format("cannot create a file beside {}: {}", path, reason()));
  }
  temporary_ = pattern;
  std::memcpy(temporary_path, pattern.c_str(), pattern.size() + 1);
  watch_signals();
}

OutputFile::~OutputFile() {
  if (temporary_.empty()) return;
  const SignalsHeld held;
  ::unlink(temporary_.c_str());
  temporary_path[0] = '\0';
}

void OutputFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t wrote = ::write(fd_.get(), bytes.data(), bytes.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0 && errno == EPIPE) {
      ::signal(SIGPIPE, SIG_DFL);
      ::raise(SIGPIPE);
    }
    if (wrote < 0) {
      throw Failure(Exit::kPermanent, fmt::format("cannot write {}: {}", name_, reason()));
    }
    bytes = bytes.subspan(static_cast<std::size_t>(wrote));
  }
}

void OutputFile::finish() {
  if (!fd_.close()) {
    throw Failure(Exit::kPermanent, fmt::format("cannot write {}: {}", name_, reason()));
  }
  if (temporary_.empty()) return;
  const SignalsHeld held;
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) {
    throw Failure(Exit::kPermanent, fmt::format("cannot give {} its name: {}", name_, reason()));
  }
  temporary_.clear();
  temporary_path[0] = '\0';
}

}  // namespace cistern::cli
