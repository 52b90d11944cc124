// The real daemon, started by a test on free ports with a configuration of the test's own.
#pragma once

#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include "tests/support/process.h"

namespace cistern::testing {

struct DaemonOptions {
  // YAML, over the test's defaults: TCP and unix listeners of its own, an admin port of its own.
  // Sections may be given whole; `server` and `admin` are the test's.
  std::string config;
  std::string server;  // more lines of the `server` section, indented by two
  const Cgroup* cgroup = nullptr;
  bool wait_until_ready = true;
};

class Daemon {
 public:
  explicit Daemon(const DaemonOptions& options);

  const std::string& endpoint() const { return tcp_; }        // tcp://127.0.0.1:PORT
  const std::string& unix_endpoint() const { return unix_; }  // unix://PATH
  Process& process() { return *process_; }

  // GET of the admin listener. Throws when it doesn't answer.
  std::string admin(const std::string& path) const;
  int admin_status(const std::string& path) const;
  nlohmann::json stats() const;
  // The sum of all samples of a metric whose labels contain all of `labels` (text such as
  // op="get"); 0 when there is none.
  double metric(const std::string& name, const std::vector<std::string>& labels = {}) const;
  // What fills, readers and uploads have of the ledger, and what is held of evicted values.
  double in_transfers() const;

  // SIGTERM and the exit status.
  int stop(Millis patience = Millis(30'000));

 private:
  TempDir dir_;
  std::string tcp_, unix_, admin_host_;
  int admin_port_ = 0;
  std::unique_ptr<Process> process_;
};

// `cistern --server ENDPOINT arguments...`
Finished cistern(const std::string& endpoint, std::vector<std::string> arguments,
                 Millis patience = Millis(120'000), const ProcessOptions& options = {});

}  // namespace cistern::testing
