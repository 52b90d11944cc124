#include "tests/support/redis_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <csignal>
#include <stdexcept>
#include <thread>

#include <hiredis/hiredis.h>

namespace cistern::testing {
namespace {

using std::chrono::steady_clock;

constexpr Millis kPatience{10'000};
constexpr int kStartAttempts = 5;  // somebody else may take the free port first

RedisReply copy(const redisReply& from) {
  RedisReply to;
  switch (from.type) {
    case REDIS_REPLY_INTEGER:
      to.kind = RedisReply::Kind::kInteger;
      to.integer = from.integer;
      break;
    case REDIS_REPLY_NIL:
      to.kind = RedisReply::Kind::kNil;
      break;
    case REDIS_REPLY_ARRAY:
      to.kind = RedisReply::Kind::kArray;
      for (std::size_t i = 0; i < from.elements; ++i) to.elements.push_back(copy(*from.element[i]));
      break;
    default:
      to.kind = from.type == REDIS_REPLY_ERROR ? RedisReply::Kind::kError : RedisReply::Kind::kText;
      to.text.assign(from.str, static_cast<std::size_t>(from.len));
  }
  return to;
}

}  // namespace

std::uint16_t free_port() {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  const bool is_bound = fd >= 0 &&
                        ::bind(fd, reinterpret_cast<const sockaddr*>(&address), length) == 0 &&
                        ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0;
  if (fd >= 0) ::close(fd);
  if (!is_bound) throw std::runtime_error("no free port");
  return ntohs(address.sin_port);
}

void RedisServer::Free::operator()(redisContext* context) const { redisFree(context); }

RedisServer::RedisServer(std::vector<std::string> arguments) : arguments_(std::move(arguments)) {
  for (std::size_t i = 0; i + 1 < arguments_.size(); ++i) {
    if (arguments_[i] == "--requirepass") password_ = arguments_[i + 1];
  }
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

RedisServer::~RedisServer() = default;

std::string RedisServer::url(unsigned db) const {
  const std::string login = password_.empty() ? "" : ":" + password_ + "@";
  return "redis://" + login + "127.0.0.1:" + std::to_string(port_) + "/" + std::to_string(db);
}

std::string RedisServer::unix_url(unsigned db) const {
  const std::string login = password_.empty() ? "" : ":" + password_ + "@";
  return "unix://" + login + unix_path() + "?db=" + std::to_string(db);
}

void RedisServer::start() {
  std::vector<std::string> argv = {"/usr/bin/redis-server",
                                   "--port",
                                   std::to_string(port_),
                                   "--bind",
                                   "127.0.0.1",
                                   "--unixsocket",
                                   unix_path(),
                                   "--save",
                                   "",
                                   "--appendonly",
                                   "no",
                                   "--dir",
                                   dir_.path().string()};
  argv.insert(argv.end(), arguments_.begin(), arguments_.end());
  process_ = std::make_unique<Process>(argv);
  connection_.reset();
  const auto until = steady_clock::now() + kPatience;
  while (!answers()) {
    if (!process_->running() || steady_clock::now() > until) {
      process_->signal(SIGKILL);
      process_->wait(kPatience);
      throw std::runtime_error("redis-server does not start: " + process_->output());
    }
    std::this_thread::sleep_for(Millis(5));
  }
}

bool RedisServer::answers() {
  try {
    return command({"PING"}).text == "PONG";
  } catch (const std::runtime_error&) {
    return false;
  }
}

bool RedisServer::running() { return process_->running(); }

void RedisServer::stop() {
  connection_.reset();
  process_->signal(SIGTERM);
  if (!process_->wait(kPatience)) throw std::runtime_error("redis-server does not stop");
}

void RedisServer::kill() {
  connection_.reset();
  process_->signal(SIGKILL);
  if (!process_->wait(kPatience)) throw std::runtime_error("redis-server does not die");
}

void RedisServer::freeze() {
  process_->signal(SIGSTOP);
  wait_until_stopped(pid());
}

void RedisServer::thaw() { process_->signal(SIGCONT); }

redisContext* RedisServer::connection() {
  if (connection_ && connection_->err == 0) return connection_.get();
  connection_.reset(redisConnectWithTimeout("127.0.0.1", port_, timeval{2, 0}));
  if (!connection_ || connection_->err != 0) {
    const std::string why = connection_ ? connection_->errstr : "out of memory";
    connection_.reset();
    throw std::runtime_error("redis-server cannot be reached: " + why);
  }
  redisSetTimeout(connection_.get(), timeval{10, 0});
  if (!password_.empty()) command({"AUTH", password_});
  return connection_.get();
}

RedisReply RedisServer::command(std::initializer_list<std::string_view> words) {
  return command(std::vector<std::string>(words.begin(), words.end()));
}

RedisReply RedisServer::command(const std::vector<std::string>& words) {
  redisContext* const context = connection();
  std::vector<const char*> arguments;
  std::vector<std::size_t> lengths;
  for (const std::string& word : words) {
    arguments.push_back(word.data());
    lengths.push_back(word.size());
  }
  auto* const reply = static_cast<redisReply*>(
      redisCommandArgv(context, static_cast<int>(words.size()), arguments.data(), lengths.data()));
  if (reply == nullptr) {
    const std::string why = context->errstr;
    connection_.reset();
    throw std::runtime_error("redis-server does not answer: " + why);
  }
  RedisReply copied = copy(*reply);
  freeReplyObject(reply);
  return copied;
}

std::string RedisServer::info(const std::string& field) {
  const std::string all = "\n" + command({"INFO", "all"}).text;
  const std::string start = "\n" + field + ":";
  const std::size_t at = all.find(start);
  if (at == std::string::npos) return {};
  const std::size_t from = at + start.size();
  return all.substr(from, all.find('\r', from) - from);
}

std::uint64_t RedisServer::info_number(const std::string& field) {
  const std::string text = info(field);
  std::uint64_t number = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), number).ec != std::errc()) {
    throw std::runtime_error("INFO has no number " + field);
  }
  return number;
}

std::vector<std::string> RedisServer::keys(const std::string& pattern) {
  std::vector<std::string> names;
  for (const RedisReply& key : command({"KEYS", pattern}).elements) names.push_back(key.text);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace cistern::testing
