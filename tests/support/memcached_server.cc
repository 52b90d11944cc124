#include "tests/support/memcached_server.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <csignal>
#include <sstream>
#include <stdexcept>
#include <thread>

#include <asio/buffer.hpp>
#include <asio/io_context.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/read.hpp>
#include <asio/read_until.hpp>
#include <asio/write.hpp>

#include "tests/support/redis_server.h"

namespace cistern::testing {
namespace {

using std::chrono::steady_clock;

constexpr Millis kPatience{10'000};
constexpr int kStartAttempts = 5;  // somebody else may take the free port first

bool is_last_line(const std::string& line) {
  for (const char* end : {"END", "STORED", "NOT_STORED", "EXISTS", "NOT_FOUND", "DELETED", "OK",
                          "TOUCHED", "EN", "ERROR", "CLIENT_ERROR", "SERVER_ERROR", "VERSION"}) {
    if (line == end || line.starts_with(std::string(end) + " ")) return true;
  }
  return line.starts_with("HD") || line.starts_with("mn");
}

}  // namespace

MemcachedServer::MemcachedServer(std::vector<std::string> arguments)
    : arguments_(std::move(arguments)) {
  for (int attempt = 1;; ++attempt) {
    port_ = free_port();
    try {
      start();
      return;
    } catch (const std::runtime_error&) {
      if (attempt == kStartAttempts) throw;
    }
  }
}

MemcachedServer::~MemcachedServer() = default;

std::string MemcachedServer::address() const { return "127.0.0.1:" + std::to_string(port_); }

void MemcachedServer::start() {
  std::vector<std::string> argv = {"/usr/bin/memcached", "-u", "nobody", "-l", "127.0.0.1", "-p",
                                   std::to_string(port_)};
  argv.insert(argv.end(), arguments_.begin(), arguments_.end());
  process_ = std::make_unique<Process>(argv);
  const auto until = steady_clock::now() + kPatience;
  while (!answers()) {
    if (!process_->running() || steady_clock::now() > until) {
      process_->signal(SIGKILL);
      process_->wait(kPatience);
      throw std::runtime_error("memcached does not start: " + process_->errors());
    }
    std::this_thread::sleep_for(Millis(5));
  }
}

bool MemcachedServer::answers() {
  try {
    return command("version").starts_with("VERSION");
  } catch (const std::exception&) {
    return false;
  }
}

void MemcachedServer::kill() {
  process_->signal(SIGKILL);
  if (!process_->wait(kPatience)) throw std::runtime_error("memcached does not die");
}

void MemcachedServer::freeze() {
  process_->signal(SIGSTOP);
  wait_until_stopped(pid());
}

void MemcachedServer::thaw() { process_->signal(SIGCONT); }

std::string MemcachedServer::command(const std::string& line) {
  asio::io_context io;
  asio::ip::tcp::socket socket(io);
  socket.connect({asio::ip::make_address("127.0.0.1"), port_});
  asio::write(socket, asio::buffer(line + "\r\n"));
  std::string answer;
  std::string buffer;
  for (;;) {
    const std::size_t size = asio::read_until(socket, asio::dynamic_buffer(buffer), "\r\n");
    const std::string next = buffer.substr(0, size - 2);
    buffer.erase(0, size);
    answer += next;
    if (next.starts_with("VALUE ")) {
      // VALUE key flags bytes [cas], then so many bytes and a line's end.
      std::istringstream words(next);
      std::string word, key;
      std::size_t flags = 0, bytes = 0;
      words >> word >> key >> flags >> bytes;
      while (buffer.size() < bytes + 2) {
        asio::read(socket, asio::dynamic_buffer(buffer),
                   asio::transfer_exactly(bytes + 2 - buffer.size()));
      }
      answer += "\r\n" + buffer.substr(0, bytes);
      buffer.erase(0, bytes + 2);
    } else if (is_last_line(next.substr(next.rfind('\n') + 1))) {  // a dump's lines have no CR
      return answer;
    }
    answer += "\r\n";
  }
}

std::uint64_t MemcachedServer::stat(const std::string& name) {
  const std::size_t space = name.find(' ');
  const std::string kind = space == std::string::npos ? "" : " " + name.substr(0, space);
  const std::string field = space == std::string::npos ? name : name.substr(space + 1);
  const std::string all = command("stats" + kind);
  const std::string start = "STAT " + field + " ";
  const std::size_t at = all.find(start);
  std::uint64_t number = 0;
  if (at == std::string::npos ||
      std::from_chars(&all[at + start.size()], all.data() + all.size(), number).ec != std::errc()) {
    throw std::runtime_error("stats has no number " + name);
  }
  return number;
}

std::string MemcachedServer::value(const std::string& key) {
  const std::string answer = command("get " + key);
  const std::size_t line = answer.find("\r\n");
  if (line == std::string::npos) return {};
  return answer.substr(line + 2, answer.size() - line - 2 - std::string("\r\nEND").size());
}

std::uint64_t MemcachedServer::cas_of(const std::string& key) {
  std::istringstream words(command("gets " + key));
  std::string word;
  std::uint64_t flags = 0, bytes = 0, cas = 0;
  words >> word >> word >> flags >> bytes >> cas;
  return cas;
}

long MemcachedServer::seconds_left(const std::string& key) {
  const std::string answer = command("mg " + key + " t");
  if (!answer.starts_with("HD t")) return -2;
  return std::stol(answer.substr(4));
}

std::vector<std::string> MemcachedServer::keys(const std::string& prefix) {
  std::vector<std::string> keys;
  std::istringstream lines(command("lru_crawler metadump all"));
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("key=" + prefix)) continue;
    keys.push_back(line.substr(4, line.find(' ') - 4));
  }
  std::sort(keys.begin(), keys.end());
  return keys;
}

}  // namespace cistern::testing
