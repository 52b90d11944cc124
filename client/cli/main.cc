// The `cistern` command.
#include <signal.h>

#include <cstdio>
#include <exception>
#include <string>

#include <cistern/error.h>
#include <fmt/format.h>

#include "client/cli/arguments.h"
#include "client/cli/commands.h"

namespace cistern::cli {
namespace {

Exit exit_of(const Error& error) {
  if (error.status() == Status::kUsage) return Exit::kUsage;
  return error.retryable() ? Exit::kRetryable : Exit::kPermanent;
}

Exit guarded_run(const Arguments& arguments) {
  try {
    return run(arguments);
  } catch (const Error& error) {
    const std::string what = arguments.key.empty() ? arguments.server : arguments.key;
    fmt::print(stderr, "cistern: {}: {} ({}; {})\n", what, error.message(), name(error.status()),
               error.retryable() ? "try again" : "trying again will not help");
    return exit_of(error);
  }
}

Exit main_of(int argc, char** argv) {
  // A pipe that nobody reads any more is an error of write(), which knows what to do.
  ::signal(SIGPIPE, SIG_IGN);
  try {
    const Parsed parsed = parse_arguments(argc, argv);
    if (parsed.exit) return *parsed.exit;
    const Exit exit = guarded_run(parsed.arguments);
    if (std::fflush(stdout) != 0) {
      throw Failure(Exit::kPermanent, "cannot write standard output");
    }
    return exit;
  } catch (const Failure& failure) {
    fmt::print(stderr, "cistern: {}\n", failure.what());
    return failure.exit;
  } catch (const std::exception& error) {
    fmt::print(stderr, "cistern: {}\n", error.what());
    return Exit::kRetryable;
  }
}

}  // namespace
}  // namespace cistern::cli

int main(int argc, char** argv) { return static_cast<int>(cistern::cli::main_of(argc, argv)); }
