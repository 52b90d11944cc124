#include "server/signals.h"

#include <pthread.h>
#include <unistd.h>

#include <csignal>

#include "server/base/log.h"

namespace cistern {
namespace {

// Ends run() without being a signal that anybody sends.
constexpr int kStop = SIGUSR2;

sigset_t awaited() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGTERM);
  ::sigaddset(&set, SIGINT);
  ::sigaddset(&set, kStop);
  return set;
}

}  // namespace

Signals::Signals() {
  const sigset_t set = awaited();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  thread_ = std::thread([this] { run(); });
}

Signals::~Signals() {
  ::pthread_kill(thread_.native_handle(), kStop);
  thread_.join();
}

int Signals::wait() { return first_.get_future().get(); }

void Signals::run() {
  const sigset_t set = awaited();
  bool draining = false;
  for (;;) {
    int number = 0;
    if (::sigwait(&set, &number) != 0) continue;
    if (number == kStop) return;
    if (draining) {
      log::warn("killed", {{"signal", number}, {"text", "a second signal; ending at once"}});
      log::shutdown();
      ::_exit(128 + number);
    }
    draining = true;
    first_.set_value(number);
  }
}

}  // namespace cistern
