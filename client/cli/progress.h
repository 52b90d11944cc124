// A bar on the terminal for transfers that take a while.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace cistern::cli {

// "1.50 GiB"; whole numbers of bytes below 1 KiB.
std::string readable_bytes(std::uint64_t bytes);

class Progress {
 public:
  // Draws on standard error if `wanted` and that is a terminal. `total_bytes`: empty if unknown.
  Progress(bool wanted, std::string what, std::optional<std::uint64_t> total_bytes);
  // Removes the bar.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void add(std::uint64_t bytes);
  std::uint64_t bytes() const { return bytes_; }
  std::chrono::duration<double> elapsed() const { return Clock::now() - begun_; }

 private:
  using Clock = std::chrono::steady_clock;
  void draw(Clock::time_point now);

  const bool wanted_;
  const std::string what_;
  const std::optional<std::uint64_t> total_bytes_;
  const Clock::time_point begun_ = Clock::now();
  Clock::time_point draw_at_;
  std::uint64_t bytes_ = 0;
  bool drawn_ = false;
};

// The line itself, `width` columns at most.
std::string progress_line(const std::string& what, std::uint64_t bytes,
                          std::optional<std::uint64_t> total_bytes, double seconds,
                          std::size_t width);

}  // namespace cistern::cli
