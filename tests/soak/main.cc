// cistern-soak: the load of the soak, against a daemon that somebody else started. A line of JSON
// on standard output for every second, and one with everything at the end. Judges nothing but bytes
// and versions; soak.py does the rest.
#include <csignal>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tests/soak/prober.h"
#include "tests/soak/run.h"

namespace cistern::soak {
namespace {

// Of 100 connections that don't probe; the rest are library actors.
constexpr unsigned kSlowReaders = 12;
constexpr unsigned kStalledReaders = 10;
constexpr unsigned kAbandoningWriters = 10;
constexpr unsigned kTinyActors = 8;
constexpr unsigned kPassersBy = 3;

nlohmann::json figures_of(std::vector<std::unique_ptr<Prober>>& probers) {
  nlohmann::json all = nlohmann::json::array();
  for (const auto& prober : probers) {
    const ProbeFigures figures = prober->figures();
    all.push_back({{"hits", figures.hits},
                   {"others", figures.others},
                   {"unanswered", figures.unanswered},
                   {"p99_us", figures.p99_us},
                   {"worst_us", figures.worst_us},
                   {"worst_at_s", figures.worst_at_s},
                   {"worst_us_since_last", figures.worst_us_since_last}});
  }
  return all;
}

std::vector<std::unique_ptr<Actor>> cast_of(Run& run, unsigned library_actors) {
  std::vector<std::unique_ptr<Actor>> actors;
  const unsigned all = run.options().connections;
  unsigned number = 100;  // below are the probers
  const auto add = [&](unsigned share, auto&& make) {
    for (unsigned i = 0; i < (all * share + 99) / 100; ++i) actors.push_back(make(run, number++));
  };
  add(kSlowReaders, slow_reader);
  add(kStalledReaders, stalled_reader);
  add(kAbandoningWriters, abandoning_writer);
  add(kTinyActors, tiny_actor);
  add(kPassersBy, passer_by);
  for (unsigned owner = 0; owner < library_actors; ++owner) {
    actors.push_back(library_actor(run, number++, owner));
  }
  return actors;
}

void report(const Run& run, std::vector<std::unique_ptr<Prober>>& probers, bool is_end) {
  nlohmann::json line = {{"read_bytes", run.read_bytes()},
                         {"written_bytes", run.written_bytes()},
                         {"wrong", run.all_wrong()},
                         {"probes", figures_of(probers)}};
  if (is_end) line["counts"] = nlohmann::json::parse(run.counts());
  line["is_end"] = is_end;
  std::cout << line.dump() << std::endl;
}

void soak(const Options& options) {
  const unsigned library_actors = std::max(1u, options.connections *
                                                   (100 - kSlowReaders - kStalledReaders -
                                                    kAbandoningWriters - kTinyActors - kPassersBy) /
                                                   100);
  Run run(options, library_actors);
  std::vector<std::unique_ptr<Prober>> probers;
  probers.push_back(std::make_unique<Prober>(run, 0, options.tcp_endpoint));
  probers.push_back(std::make_unique<Prober>(run, 1, options.tcp_endpoint));
  probers.push_back(std::make_unique<Prober>(run, 2, options.unix_endpoint));
  const std::vector<std::unique_ptr<Actor>> actors = cast_of(run, library_actors);
  std::vector<std::thread> threads;
  for (const auto& prober : probers) threads.emplace_back([&prober] { prober->run(); });
  run.pause(std::chrono::milliseconds(500));  // so that the probers are in before it is full
  for (const auto& actor : actors) threads.emplace_back([&actor] { actor->run(); });
  while (!run.is_over()) {
    run.pause(std::chrono::milliseconds(1000));
    report(run, probers, false);
  }
  for (std::thread& thread : threads) thread.join();
  report(run, probers, true);
}

}  // namespace
}  // namespace cistern::soak

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  cistern::soak::Options options;
  CLI::App app("The load of the soak; see soak.py.");
  app.add_option("--tcp", options.tcp_endpoint, "tcp://HOST:PORT of the daemon")->required();
  app.add_option("--unix", options.unix_endpoint, "unix:///PATH of the daemon")->required();
  app.add_option("--connections", options.connections)->check(CLI::Range(20, 4000));
  app.add_option("--seconds", options.seconds)->check(CLI::Range(1, 1'000'000));
  app.add_option("--seed", options.seed);
  app.add_option("--max-value-bytes", options.max_value_bytes)
      ->check(CLI::Range(1u << 21, 1u << 31));
  CLI11_PARSE(app, argc, argv);
  cistern::soak::soak(options);
  return 0;
}
