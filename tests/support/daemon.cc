#include "tests/support/daemon.h"

#include <httplib.h>

#include <fstream>
#include <sstream>
#include <stdexcept>

namespace cistern::testing {
namespace {

// The log's lines are JSON objects; anything else is passed over.
std::optional<nlohmann::json> event_of(const std::string& line) {
  nlohmann::json event = nlohmann::json::parse(line, nullptr, false);
  if (!event.is_object() || !event.contains("event")) return std::nullopt;
  return event;
}

std::function<bool(const std::string&)> is_event(const std::string& name,
                                                 const std::string& prefix = {}) {
  return [=](const std::string& line) {
    const std::optional<nlohmann::json> event = event_of(line);
    return event && (*event)["event"] == name &&
           event->value("endpoint", std::string()).starts_with(prefix);
  };
}

}  // namespace

Daemon::Daemon(const DaemonOptions& options) {
  unix_ = "unix://" + dir_.file("cistern.sock");
  const std::string config = dir_.file("cistern.yaml");
  std::ofstream(config) << "server:\n  listen: [\"tcp://127.0.0.1:0\", \"" << unix_ << "\"]\n"
                        << options.server << "admin: {listen: \"127.0.0.1:0\"}\n"
                        << options.config;
  ProcessOptions process;
  process.cgroup = options.cgroup;
  process_ = std::make_unique<Process>(
      std::vector<std::string>{program("cisternd"), "--config", config}, process);
  if (!options.wait_until_ready) return;
  const Millis patience(30'000);
  const auto wait_for = [&](const std::string& event, const std::string& prefix) {
    const auto line = process_->wait_for_line(is_event(event, prefix), patience);
    if (!line) throw std::runtime_error("no event " + event + ": " + process_->errors());
    return *event_of(*line);
  };
  tcp_ = wait_for("listening", "tcp://").at("endpoint").get<std::string>();
  const std::string admin = wait_for("admin_listening", "").at("endpoint").get<std::string>();
  const std::size_t colon = admin.rfind(':');
  const std::size_t host = admin.find("//") == std::string::npos ? 0 : admin.find("//") + 2;
  admin_host_ = admin.substr(host, colon - host);
  admin_port_ = std::stoi(admin.substr(colon + 1));
  wait_for("ready", "");
}

std::string Daemon::admin(const std::string& path) const {
  httplib::Client client(admin_host_, admin_port_);
  const httplib::Result result = client.Get(path);
  if (!result) throw std::runtime_error("GET " + path + ": " + httplib::to_string(result.error()));
  return result->body;
}

int Daemon::admin_status(const std::string& path) const {
  httplib::Client client(admin_host_, admin_port_);
  const httplib::Result result = client.Get(path);
  return result ? result->status : 0;
}

nlohmann::json Daemon::stats() const { return nlohmann::json::parse(admin("/stats")); }

double Daemon::metric(const std::string& name, const std::vector<std::string>& labels) const {
  std::istringstream text(admin("/metrics"));
  double sum = 0;
  for (std::string line; std::getline(text, line);) {
    if (!line.starts_with(name) || line.size() == name.size()) continue;
    const char next = line[name.size()];
    if (next != ' ' && next != '{') continue;
    bool all = true;
    for (const std::string& label : labels) all = all && line.find(label) != std::string::npos;
    if (all) sum += std::stod(line.substr(line.rfind(' ') + 1));
  }
  return sum;
}

double Daemon::in_transfers() const {
  double sum = 0;
  for (const char* account : {"fills", "readers", "uploads", "held"}) {
    sum += metric("cistern_ledger_bytes", {"account=\"" + std::string(account) + "\""});
  }
  return sum;
}

int Daemon::stop(Millis patience) {
  process_->signal(SIGTERM);
  const std::optional<int> status = process_->wait(patience);
  if (!status) throw std::runtime_error("cisternd did not stop: " + process_->errors());
  return *status;
}

Finished cistern(const std::string& endpoint, std::vector<std::string> arguments, Millis patience,
                 const ProcessOptions& options) {
  std::vector<std::string> argv{program("cistern"), "--server", endpoint};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  return run(std::move(argv), patience, options);
}

}  // namespace cistern::testing
