// The `cistern` command as a process: what it prints, how it ends, what it leaves in the file
// system.
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include <gtest/gtest.h>

#include "tests/support/test_server.h"

namespace cistern {
namespace {

namespace fs = std::filesystem;
using test::TestServer;

struct Result {
  int exit = -1;
  std::string output;  // standard output, then standard error
};

std::string content(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

struct Cli : testing::Test {
  Cli() { fs::create_directory(dir); }
  ~Cli() override { fs::remove_all(dir); }

  // The command stands beside this test.
  const fs::path command = fs::read_symlink("/proc/self/exe").parent_path() / "cistern";
  const fs::path dir = fs::temp_directory_path() / ("cistern-cli-" + std::to_string(::getpid()));
  TestServer server;

  Result run(const std::string& arguments, const std::string& before = {}) {
    const fs::path errors = dir / ".stderr";
    const std::string line = "cd " + dir.string() + " && " + before +
                             " CISTERN_SERVER=" + server.endpoint() + " " + command.string() + " " +
                             arguments + " 2>" + errors.string();
    FILE* const pipe = ::popen(line.c_str(), "r");
    Result result;
    char buffer[4096];
    while (const std::size_t got = std::fread(buffer, 1, sizeof buffer, pipe)) {
      result.output.append(buffer, got);
    }
    const int status = ::pclose(pipe);
    result.exit = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    result.output += content(errors);
    fs::remove(errors);
    return result;
  }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(dir / name, std::ios::binary) << text;
  }
  std::size_t files() const {
    return static_cast<std::size_t>(
        std::distance(fs::directory_iterator(dir), fs::directory_iterator()));
  }
};

TEST_F(Cli, PutsAndGetsFilesAndPipes) {
  std::string text;
  for (int i = 0; i < 400'000; ++i) text += std::to_string(i);
  write("in", text);
  EXPECT_EQ(run("put k in").exit, 0);
  EXPECT_EQ(*server.find("k")->bytes, text);
  EXPECT_EQ(run("get k -o out").exit, 0);
  EXPECT_EQ(content(dir / "out"), text);
  EXPECT_EQ(run("get k").output, text);
  EXPECT_EQ(run("put piped - --quiet", "cat in |").output, "");
  EXPECT_EQ(*server.find("piped")->bytes, text);
  EXPECT_EQ(run("put empty - < /dev/null").exit, 0);
  EXPECT_EQ(run("get empty -o nothing").exit, 0);
  EXPECT_TRUE(fs::exists(dir / "nothing"));
  EXPECT_EQ(run("get k --range 10-19").output, text.substr(10, 10));
  EXPECT_EQ(run("get k --range=-7").output, text.substr(text.size() - 7));
  EXPECT_EQ(run("get k --range " + std::to_string(text.size() - 3) + "-").output,
            text.substr(text.size() - 3));
  EXPECT_EQ(run("get empty --range=-7").output, "");
}

TEST_F(Cli, OtherCommandsAndTheirJson) {
  write("in", "four");
  const Result put = run("put k in --json --ttl 1h --meta a=1 --meta b=two=2 --if-absent");
  EXPECT_EQ(put.exit, 0);
  EXPECT_NE(put.output.find(R"("size":4,"version":"0000000000001235")"), std::string::npos)
      << put.output;
  const Result stat = run("stat k --json");
  EXPECT_NE(stat.output.find(R"("metadata":{"a":"1","b":"two=2"})"), std::string::npos)
      << stat.output;
  EXPECT_NE(run("stat k").output.find("size:     4 bytes"), std::string::npos);
  EXPECT_EQ(run("touch k --ttl 5m --if-version 1235").exit, 0);
  EXPECT_NE(run("ping").output.find("answered in"), std::string::npos);
  EXPECT_NE(run("stats --json").output.find(R"({"test":true})"), std::string::npos);
  EXPECT_NE(run("get k -o out --json").output.find(R"("bytes_written":4)"), std::string::npos);
  EXPECT_EQ(run("rm k --quiet").output, "");
  EXPECT_EQ(run("stat k --json").output, "{\"key\":\"k\",\"found\":false}\n");
}

TEST_F(Cli, ExplainsForPeopleAndForScripts) {
  const auto explain = [&](const std::string& json) {
    server.set_faults({.explanation = json});
    const Result result = run("explain k");
    EXPECT_EQ(result.exit, 0) << result.output;
    return result.output;
  };
  EXPECT_EQ(
      explain(R"({"l1":{"resident":true,"size":5,"version":"000000000000002a",
                        "age_ms":125000,"idle_ms":1500,"hits":1023,"hits_at_least":true,
                        "freshness":{"current_ms_ago":250,"marked":true},
                        "expires_in_ms":60000,"leaves_in_ms":50000},
                       "last":null,"remembers_ms":null,
                       "l2":{"state":"present","size":5,"version":"000000000000002a","chunks":0,
                             "chunk_bytes":4096,"expires_in_ms":60000}})"),
      "key:         k\n"
      "memory:      5 bytes (5 B), version 000000000000002a, since 2 min 5 s, read at least "
      "1023 times, last moved up 1.5 s ago, known to be current 250 ms ago and in doubt since, "
      "expires in 1 min 0 s, leaves memory in 50.0 s at the latest\n"
      "last event:  nothing has happened to it since the daemon started\n"
      "second tier: 5 bytes (5 B), version 000000000000002a, within its manifest, expires in "
      "1 min 0 s\n");
  const std::string rejected =
      R"({"l1":{"resident":false},"last":{"event":"rejected","ago_ms":850,"text":"a write failed",)"
      R"("size":2048,"limit":1024,"code":"VALUE_TOO_LARGE"},"remembers_ms":null,)"
      R"("l2":{"state":"unknown","code":"L2_UNAVAILABLE","text":"no route"}})";
  EXPECT_EQ(explain(rejected),
            "key:         k\n"
            "memory:      not there\n"
            "last event:  rejected, 850 ms ago, VALUE_TOO_LARGE: a write failed; 2048 bytes (2.00 "
            "KiB), the limit is 1024 bytes (1.00 KiB)\n"
            "second tier: could not be asked: no route (L2_UNAVAILABLE)\n");
  EXPECT_EQ(run("explain k --json").output, rejected + "\n");
  EXPECT_EQ(run("explain k --quiet").output, "");
  EXPECT_NE(explain(R"({"last":null,"remembers_ms":7200000,"l2":{"state":"none"}})")
                .find("what happened in the last 2 h 0 min would be"),
            std::string::npos);
  // Of another version, or none of ours.
  for (const char* const odd :
       {"{}", "[]", "null", "nonsense", R"({"l1":7,"last":[],"l2":{"state":5}})",
        R"({"l1":{"resident":true,"size":"big","hits":-1.5},"last":{"ago_ms":{}}})"}) {
    EXPECT_FALSE(explain(odd).empty()) << odd;
  }
}

TEST_F(Cli, ExitStatusesSayWhatToDo) {
  write("in", "x");
  EXPECT_EQ(run("put k in").exit, 0);
  for (const char* const missing : {"get none", "rm none", "stat none", "touch none --ttl 1s"}) {
    EXPECT_EQ(run(missing).exit, 1) << missing;
  }
  for (const char* const wrong : {"",
                                  "frobnicate",
                                  "put",
                                  "put k",
                                  "get",
                                  "get ''",
                                  "get k --range 5-3",
                                  "get k --range x",
                                  "put k in --ttl 5",
                                  "put k in --ttl 10y",
                                  "put k in --meta novalue",
                                  "put k in --meta a=1 --meta a=2",
                                  "put k in --if-version xyz",
                                  "touch k",
                                  "put k in --if-absent --if-version 1",
                                  "--server nonsense ping",
                                  "get k --json",
                                  "put k /",
                                  "get k -o .",
                                  "ping --timeout 0",
                                  "get k --no-such-option"}) {
    const Result result = run(wrong);
    EXPECT_EQ(result.exit, 2) << wrong << "\n" << result.output;
    EXPECT_FALSE(result.output.empty()) << wrong;
  }
  for (const char* const refused :
       {"put k in --if-absent", "put k no-such-file", "rm k --if-version 1",
        "get k -o no-such-directory/out", "get k --range 100-"}) {
    EXPECT_EQ(run(refused).exit, 3) << refused;
  }
  EXPECT_EQ(run("put big big", "truncate -s 64M big && echo >> big &&").exit, 3);
  const Result unreachable = run("--server unix:///nonexistent.sock ping");
  EXPECT_EQ(unreachable.exit, 4);
  EXPECT_NE(unreachable.output.find("cisternd"), std::string::npos) << unreachable.output;
  for (const char* const help : {"--help", "put --help", "get --help", "--version"}) {
    EXPECT_EQ(run(help).exit, 0) << help;
  }
  EXPECT_NE(run("--help").output.find("Examples"), std::string::npos);
}

TEST_F(Cli, APartialDownloadNeverTakesTheName) {
  server.store("k", std::string(5'000'000, 'v'));
  write("out", "what was there");
  server.set_faults({.cut_get_after = 3'000'000});
  const std::size_t before = files();
  const Result cut = run("get k -o out");
  EXPECT_EQ(cut.exit, 4) << cut.output;
  EXPECT_EQ(content(dir / "out"), "what was there");
  EXPECT_EQ(files(), before);

  server.set_faults({.corrupt_byte_at = 4'000'000});
  EXPECT_EQ(run("get k -o out").exit, 4);
  EXPECT_EQ(content(dir / "out"), "what was there");
  EXPECT_NE(run("get k > piped").exit, 0);

  // A signal in the middle: the temporary file goes, too.
  server.set_faults({.stall_get_after = 3'000'000});
  const Result killed = run("get k -o out", "timeout -s TERM 0.5 env");
  EXPECT_EQ(killed.exit, 124);
  EXPECT_EQ(content(dir / "out"), "what was there");
  fs::remove(dir / "piped");
  EXPECT_EQ(files(), before);
}

TEST_F(Cli, AFileThatChangesWhileItIsPutStoresNothing) {
  server.store("k", "old");
  for (const std::size_t new_size : {1'000'000u, 5'000'001u}) {
    SCOPED_TRACE(new_size);
    write("in", std::string(5'000'000, 'a'));
    server.set_faults({.no_credit = true});
    const int before = server.counts().puts_opened;
    // Nobody takes its bytes until it has changed, and two chunks are all that is read ahead.
    std::thread change([&] {
      while (server.counts().puts_opened == before) std::this_thread::yield();
      fs::resize_file(dir / "in", new_size);
      server.set_faults({});
      server.resume();
    });
    const Result result = run("put k in");
    change.join();
    EXPECT_EQ(result.exit, 4) << result.output;
    EXPECT_NE(result.output.find("changed while"), std::string::npos) << result.output;
    EXPECT_EQ(*server.find("k")->bytes, "old");
  }
}

TEST_F(Cli, APipeThatNobodyReadsEndsItQuietly) {
  server.store("k", std::string(5'000'000, 'v'));
  const Result result = run("get k | head -c 10");
  EXPECT_EQ(result.output, "vvvvvvvvvv");
}

TEST_F(Cli, ALinkStaysALinkAndModesAreKept) {
  server.store("k", "new");
  write("target", "old");
  fs::permissions(dir / "target", fs::perms(0640));
  fs::create_symlink("target", dir / "link");
  EXPECT_EQ(run("get k -o link").exit, 0);
  EXPECT_TRUE(fs::is_symlink(dir / "link"));
  EXPECT_EQ(content(dir / "target"), "new");
  EXPECT_EQ(fs::status(dir / "target").permissions(), fs::perms(0640));
  EXPECT_EQ(run("get k -o /dev/null").exit, 0);
}

}  // namespace
}  // namespace cistern
