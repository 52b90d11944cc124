// SIGTERM and SIGINT: the first one asks for a drain, the second one ends the process at once.
#pragma once

#include <future>
#include <thread>

namespace cistern {

class Signals {
 public:
  // Blocks both for this thread and those that it starts, and ignores SIGPIPE. To be made before
  // any other thread.
  Signals();
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  // Returns the first one's number once it has come.
  int wait();

 private:
  void run();

  std::promise<int> first_;
  std::thread thread_;
};

}  // namespace cistern
