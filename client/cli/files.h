// The files that values come from and go to.
#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace cistern::cli {

// A file descriptor with an owner.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd, bool owned = true) : fd_(fd), owned_(owned) {}
  Descriptor(Descriptor&& other) noexcept;
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor();
  int get() const { return fd_; }
  // False (errno says why) when the system reports a late error.
  bool close();

 private:
  int fd_ = -1;
  bool owned_ = false;
};

// What is put: read once, front to back, without mapping it.
class InputFile {
 public:
  // "-" is standard input. Throws Failure.
  explicit InputFile(const std::string& path);

  // Of a regular file: what was left of it when it was opened.
  std::optional<std::uint64_t> size() const { return size_; }
  // Fills `target` from the front; 0 is the end. Throws Failure when the file can't be read, or
  // isn't the one any more whose size was declared.
  std::size_t read(std::span<std::byte> target);

 private:
  [[noreturn]] void changed() const;

  std::string name_;
  Descriptor fd_;
  std::optional<std::uint64_t> size_;
  struct stat at_open_ {};
  std::uint64_t read_bytes_ = 0;
};

// What is got. A regular file is written under a temporary name in its directory and takes its own
// only at finish(); the temporary one goes when this is destroyed before, or when a signal ends the
// process. Standard output, pipes and devices are written directly.
class OutputFile {
 public:
  // "-" is standard output. Throws Failure.
  explicit OutputFile(const std::string& path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  // Throws Failure. A reader of a pipe that went away ends the process quietly, by SIGPIPE.
  void write(std::span<const std::byte> bytes);
  void finish();

 private:
  void open_temporary(const std::string& path);

  std::string name_;
  std::string target_;
  std::string temporary_;  // empty: written directly
  Descriptor fd_;
};

}  // namespace cistern::cli
