// cistern-load CONFIG: makes one kind of load on one server, as lines on standard input say. The
// configuration and the lines are described in README.md.
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <iostream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>

#include <nlohmann/json.hpp>

#include "tests/bench/load/runner.h"

namespace cistern::bench {
namespace {

using nlohmann::json;

constexpr int kRealtimePriority = 50;
constexpr double kMaxSeconds = 24 * 3600;

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

json pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (cpu < 0 || cpu >= CPU_SETSIZE) refuse("pin: the CPU must be a number from 0 on");
  CPU_SET(static_cast<std::size_t>(cpu), &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0) {
    refuse("pin " + std::to_string(cpu) + ": " + std::strerror(errno) +
           "; has the machine this CPU?");
  }
  return {{"pinned", cpu}};
}

json make_realtime() {
  sched_param parameters{};
  parameters.sched_priority = kRealtimePriority;
  if (sched_setscheduler(0, SCHED_FIFO, &parameters) != 0) {
    refuse(std::string("realtime: ") + std::strerror(errno) +
           "; run as root or allow it with CAP_SYS_NICE");
  }
  return {{"realtime", kRealtimePriority}};
}

json obey(Runner& runner, const Config& config, const std::string& line) {
  std::istringstream words(line);
  std::string command;
  words >> command;
  if (command == "fill") {
    std::uint64_t first = config.first_key;
    std::uint64_t last = std::uint64_t{config.first_key} + config.keys;
    if (std::uint64_t given = 0; words >> given) {
      first = given;
      if (!(words >> last)) refuse("fill FIRST LAST: LAST is missing");
    }
    if (first > last || last > kMaxKeys) refuse("fill FIRST LAST: not a range of keys");
    return runner.fill(static_cast<KeyIndex>(first), static_cast<KeyIndex>(last));
  }
  if (command == "run") {
    double seconds = 0;
    words >> seconds;
    if (!(seconds > 0 && seconds <= kMaxSeconds)) refuse("run SECONDS: more than 0, at most a day");
    return runner.run(seconds);
  }
  if (command == "pin") {
    int cpu = -1;
    words >> cpu;
    return pin(cpu);
  }
  if (command == "realtime") return make_realtime();
  refuse("'" + line + "' is no command; there are: fill [FIRST LAST], run SECONDS, pin CPU, " +
         "realtime, quit");
}

// A thousand connections need more descriptors than most shells allow; the hard limit is what
// counts.
void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

void answer(const json& line) {
  std::cout << line.dump(-1, ' ', false, json::error_handler_t::replace) << std::endl;
}

int run(const std::string& text) {
  raise_descriptor_limit();
  const Config config = parse_config(text);
  const std::unique_ptr<Runner> runner = make_runner(config);
  answer({{"ready", true}, {"pid", getpid()}});
  for (std::string line; std::getline(std::cin, line);) {
    if (line == "quit") break;
    try {
      answer(obey(*runner, config, line));
    } catch (const std::exception& error) {
      answer({{"error", error.what()}});
    }
  }
  return 0;
}

}  // namespace
}  // namespace cistern::bench

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_TIMERSLACK, 1);  // an open loop's requests are due at their nanosecond
  if (argc != 2) {
    std::cerr << "usage: cistern-load CONFIG (a JSON object; see tests/bench/load/README.md)\n";
    return 2;
  }
  try {
    return cistern::bench::run(argv[1]);
  } catch (const std::exception& error) {
    cistern::bench::answer({{"error", error.what()}});
    return 1;
  }
}
