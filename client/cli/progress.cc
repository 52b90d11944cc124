#include "client/cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace cistern::cli {
namespace {

constexpr auto kPatience = std::chrono::milliseconds(500);
constexpr auto kBetweenDraws = std::chrono::milliseconds(100);
constexpr std::size_t kBarColumns = 24;

std::size_t columns() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

}  // namespace

std::string readable_bytes(std::uint64_t bytes) {
  constexpr std::array<std::string_view, 5> kUnits{"KiB", "MiB", "GiB", "TiB", "PiB"};
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double size = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  while (size >= 1024 && unit + 1 < kUnits.size()) {
    size /= 1024;
    ++unit;
  }
  return fmt::format("{:.2f} {}", size, kUnits[unit]);
}

std::string progress_line(const std::string& what, std::uint64_t bytes,
                          std::optional<std::uint64_t> total_bytes, double seconds,
                          std::size_t width) {
  const double rate = seconds > 0 ? static_cast<double>(bytes) / seconds : 0;
  const std::string speed = readable_bytes(static_cast<std::uint64_t>(rate)) + "/s";
  std::string line;
  if (total_bytes && *total_bytes > 0) {
    const double share =
        std::min(1.0, static_cast<double>(bytes) / static_cast<double>(*total_bytes));
    const auto full = static_cast<std::size_t>(share * static_cast<double>(kBarColumns));
    const double left =
        rate > 0 ? static_cast<double>(*total_bytes - std::min(*total_bytes, bytes)) / rate : 0;
    const auto whole = static_cast<std::uint64_t>(left);
    line = fmt::format("{} [{}{}] {:3.0f} %  {} of {}  {}  {}:{:02} left", what,
                       std::string(full, '#'), std::string(kBarColumns - full, '.'), share * 100,
                       readable_bytes(bytes), readable_bytes(*total_bytes), speed, whole / 60,
                       whole % 60);
  } else {
    line = fmt::format("{}  {}  {}", what, readable_bytes(bytes), speed);
  }
  if (line.size() > width) line.resize(width);
  return line;
}

Progress::Progress(bool wanted, std::string what, std::optional<std::uint64_t> total_bytes)
    : wanted_(wanted && ::isatty(STDERR_FILENO) == 1),
      what_(std::move(what)),
      total_bytes_(total_bytes),
      draw_at_(begun_ + kPatience) {}

Progress::~Progress() {
  if (drawn_) std::fputs("\r\033[K", stderr);
}

void Progress::add(std::uint64_t bytes) {
  bytes_ += bytes;
  if (!wanted_) return;
  const Clock::time_point now = Clock::now();
  if (now >= draw_at_) draw(now);
}

void Progress::draw(Clock::time_point now) {
  const double seconds = std::chrono::duration<double>(now - begun_).count();
  const std::string line =
      progress_line(what_, bytes_, total_bytes_, seconds, std::max<std::size_t>(columns(), 2) - 1);
  fmt::print(stderr, "\r{}\033[K", line);
  std::fflush(stderr);
  drawn_ = true;
  draw_at_ = now + kBetweenDraws;
}

}  // namespace cistern::cli
