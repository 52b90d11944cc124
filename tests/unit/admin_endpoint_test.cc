// The admin endpoint over HTTP, and the documentation of what it tells.
#include <httplib.h>

#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "server/admin/endpoint.h"
#include "server/admin/metrics.h"
#include "server/admin/stats.h"

namespace cistern::admin {
namespace {

using base::WorkerMetrics;

class AdminTest : public testing::Test {
 protected:
  AdminTest() {
    sources_.version = "1.2.3";
    sources_.l2_kind = "redis";
    sources_.has_l2 = true;
    sources_.invalidations_complete_at = [] { return std::chrono::steady_clock::now(); };
    sources_.workers = {&workers_[0], &workers_[1]};
    sources_.cache = &cache_;
    sources_.ledger = &ledger_;
    sources_.memory = &memory_;
    sources_.codec_pool = &codec_pool_;
    sources_.started = std::chrono::steady_clock::now();
    sources_.connections = [] { return 3; };
    sources_.connection_ends = [] {
      return std::vector<std::pair<std::string_view, std::uint64_t>>{{"idle", 4}};
    };
    sources_.loop_silence = [this] { return silence_; };
    sources_.l2_ready = [this] { return l2_; };
    sources_.breakers = {breaker_};
    sources_.state = State::kServing;
  }

  static proto::Endpoint any_port() { return proto::Endpoint::tcp("127.0.0.1", 0); }

  base::Ledger ledger_{{.limit = 64 * proto::kMiB,
                        .l1 = 8 * proto::kMiB,
                        .transfers = 8 * proto::kMiB,
                        .held = 4 * proto::kMiB,
                        .connections = proto::kMiB,
                        .codec = 8 * proto::kMiB}};
  l1::Cache cache_{{.budget_bytes = 8 * proto::kMiB}, ledger_};
  l2::CodecPool codec_pool_{{}, l2::codec_memory({}, 2, 64 * proto::kMiB), ledger_};
  l1::MemoryKeeper memory_{cache_, ledger_, base::MemoryProbe({})};
  WorkerMetrics workers_[2];
  base::Duration silence_{0};
  base::Result<void> l2_;
  const std::shared_ptr<l2::Breaker> breaker_ = l2::Breaker::make("tcp://r:1/0");
  Sources sources_;
};

TEST_F(AdminTest, ServesItsPages) {
  const Endpoint endpoint(any_port(), sources_);
  ASSERT_NE(endpoint.listening().port, 0);
  httplib::Client client("127.0.0.1", endpoint.listening().port);
  for (const char* path : {"/", "/metrics", "/healthz", "/readyz", "/stats"}) {
    const httplib::Result result = client.Get(path);
    ASSERT_TRUE(result) << path;
    EXPECT_EQ(result->status, 200) << path;
  }
  EXPECT_EQ(client.Get("/nothing")->status, 404);
  EXPECT_EQ(nlohmann::json::parse(client.Get("/stats")->body)["version"], "1.2.3");
  EXPECT_NE(client.Get("/metrics")->body.find("cistern_build_info{version=\"1.2.3\"} 1"),
            std::string::npos);
}

TEST_F(AdminTest, RefusesAPortThatIsTaken) {
  const Endpoint endpoint(any_port(), sources_);
  try {
    const Endpoint second(endpoint.listening(), sources_);
    FAIL() << "bound twice";
  } catch (const std::exception& error) {
    EXPECT_NE(std::string(error.what()).find("admin.listen"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find(std::to_string(endpoint.listening().port)),
              std::string::npos);
  }
}

TEST_F(AdminTest, SumsOverTheWorkers) {
  breaker_->connect_failed({}, "connection refused");
  workers_[0].count_request(base::Op::kGet, proto::Status::kOk, std::chrono::microseconds(20));
  workers_[1].count_request(base::Op::kGet, proto::Status::kOk, std::chrono::milliseconds(3));
  workers_[1].count_request(base::Op::kPut, proto::Status::kNoRoom, std::chrono::seconds(100));
  workers_[0].bytes_in.add(5);
  workers_[1].bytes_in.add(7);
  workers_[1].open_streams.add(2);
  const std::string text = Metrics(sources_).text();
  const auto has = [&](const std::string& line) {
    EXPECT_NE(text.find(line + "\n"), std::string::npos) << line << "\n" << text;
  };
  has("cistern_requests_total{op=\"get\",result=\"OK\"} 2");
  has("cistern_requests_total{op=\"put\",result=\"NO_ROOM\"} 1");
  has("cistern_received_bytes_total 12");
  has("cistern_open_streams 2");
  has("cistern_connections 3");
  has("cistern_connection_ends_total{reason=\"idle\"} 4");
  has("cistern_l1_budget_bytes 8388608");
  has("cistern_l2_up 1");
  has("cistern_l2_breaker_state{endpoint=\"tcp://r:1/0\"} 1");
  has("cistern_l2_breaker_opens_total{endpoint=\"tcp://r:1/0\"} 1");
  has("cistern_l2_breaker_probes_total{endpoint=\"tcp://r:1/0\"} 0");
  // Buckets are cumulative, and the last one has all.
  has("cistern_request_duration_seconds_count{op=\"get\"} 2");
  EXPECT_TRUE(std::regex_search(
      text, std::regex("duration_seconds_bucket\\{op=\"get\",le=\"2.5e-05\"\\} 1\n")))
      << text;
  has("cistern_request_duration_seconds_bucket{op=\"get\",le=\"0.005\"} 2");
  has("cistern_request_duration_seconds_bucket{op=\"put\",le=\"60\"} 0");
  has("cistern_request_duration_seconds_bucket{op=\"put\",le=\"+Inf\"} 1");
}

TEST_F(AdminTest, OneServerOfSeveralThatIsDownIsAWarning) {
  sources_.l2_servers = [] {
    return std::vector<l2::ServerState>{{"a:1", true, "", 2, 3, 4},
                                        {"b:2", false, "gone", 0, 1, 0}};
  };
  const Health ready = readiness(sources_);
  EXPECT_EQ(ready.status, 200);
  const auto json = nlohmann::json::parse(ready.body);
  ASSERT_EQ(json["degraded"].size(), 1u);
  EXPECT_EQ(json["degraded"][0]["text"], "gone");
  const std::string text = Metrics(sources_).text();
  for (const char* line :
       {"cistern_l2_server_up{server=\"a:1\"} 1\n", "cistern_l2_server_up{server=\"b:2\"} 0\n",
        "cistern_l2_server_waiting{server=\"a:1\"} 2\n",
        "cistern_l2_server_failures_total{server=\"a:1\"} 3\n",
        "cistern_l2_server_refused_total{server=\"a:1\"} 4\n"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line;
  }
  const auto servers = nlohmann::json::parse(stats_json(sources_))["l2"]["servers"];
  ASSERT_EQ(servers.size(), 2u);
  EXPECT_EQ(servers[1]["reason"], "gone");
}

TEST_F(AdminTest, ReadinessGivesItsReasons) {
  EXPECT_EQ(readiness(sources_).status, 200);
  l2_ = base::fail(proto::Status::kL2Unavailable, "no \"route\"");
  const Health lost = readiness(sources_);
  EXPECT_EQ(lost.status, 503);
  const auto json = nlohmann::json::parse(lost.body);
  EXPECT_EQ(json["reasons"][0]["reason"], "l2_unreachable");
  EXPECT_EQ(json["reasons"][0]["text"], "no \"route\"");
  sources_.serves_without_l2 = true;
  const Health degraded = readiness(sources_);
  EXPECT_EQ(degraded.status, 200);
  EXPECT_EQ(nlohmann::json::parse(degraded.body)["degraded"][0]["reason"], "l2_unreachable");
  sources_.state = State::kDraining;
  EXPECT_NE(readiness(sources_).body.find("draining"), std::string::npos);
  sources_.state = State::kStarting;
  EXPECT_NE(readiness(sources_).body.find("starting"), std::string::npos);
  EXPECT_EQ(readiness(sources_).status, 503);
}

TEST_F(AdminTest, HealthIsThatTheLoopsTurn) {
  l2_ = base::fail(proto::Status::kL2Unavailable, "down");
  EXPECT_EQ(health(sources_).status, 200);
  silence_ = kLoopPatience + std::chrono::seconds(1);
  EXPECT_EQ(health(sources_).status, 503);
  EXPECT_NE(health(sources_).body.find("loop_stuck"), std::string::npos);
}

TEST_F(AdminTest, StatsFitOneFrame) {
  // As much as there can be: every operation with every result.
  for (WorkerMetrics& worker : workers_) {
    for (auto& results : worker.requests) {
      for (auto& counter : results) counter.add(~std::uint64_t{0} >> 2);
    }
    for (auto& results : worker.l2) {
      for (auto& counter : results) counter.add(~std::uint64_t{0} >> 2);
    }
  }
  sources_.l2_servers = [] {
    return std::vector<l2::ServerState>(
        64, {std::string(40, 'h'), false, std::string(200, 'w'), 1024, 1'000'000, 1'000'000'000});
  };
  EXPECT_LE(stats_json(sources_).size(), proto::kMaxStatsBytes);
}

// METRICS.md has a row for each metric that exists, and for no other:
// | `name` | type | labels | unit | help |
// and one for each reason for which a value is lost.
TEST_F(AdminTest, ThePageHasEveryMetric) {
  std::ifstream file(std::string(CISTERN_SOURCE_DIR) + "/server/admin/METRICS.md");
  ASSERT_TRUE(file);
  std::set<std::string> rows;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("| `")) rows.insert(line);
  }
  std::set<std::string> expected;
  const auto type_name = [](prometheus::MetricType type) {
    if (type == prometheus::MetricType::Counter) return "counter";
    return type == prometheus::MetricType::Gauge ? "gauge" : "histogram";
  };
  for (const MetricInfo& info : all_metrics()) {
    std::ostringstream row;
    row << "| `" << info.name << "` | " << type_name(info.type) << " | " << info.labels << " | "
        << info.unit << " | " << info.help << " |";
    expected.insert(row.str());
  }
#define CISTERN_LOSS(enumerator, label, help) expected.insert("| `" label "` | " help " |");
#include "server/base/loss.def"
#undef CISTERN_LOSS
  for (const std::string& row : expected) EXPECT_TRUE(rows.contains(row)) << "missing: " << row;
  for (const std::string& row : rows) EXPECT_TRUE(expected.contains(row)) << "no such: " << row;
}

// What is collected stands in the table with its type, and with these labels.
TEST_F(AdminTest, CollectsWhatTheTableSays) {
  std::map<std::string, MetricInfo> table;
  for (const MetricInfo& info : all_metrics()) {
    EXPECT_TRUE(table.emplace(info.name, info).second) << info.name << " twice";
  }
  sources_.l2_servers = [] { return std::vector<l2::ServerState>{{"a:1", true, "", 0, 0, 0}}; };
  for (WorkerMetrics& worker : workers_) worker.count_put_rejected(proto::Status::kNoRoom);
  for (WorkerMetrics& worker : workers_) worker.count_lost(base::Loss::kMissing);
  std::set<std::string> collected;
  for (const prometheus::MetricFamily& family : Metrics(sources_).Collect()) {
    ASSERT_TRUE(table.contains(family.name)) << family.name;
    EXPECT_EQ(family.type, table.at(family.name).type) << family.name;
    collected.insert(family.name);
    ASSERT_FALSE(family.metric.empty()) << family.name;
    std::string labels;
    for (const auto& label : family.metric.front().label) {
      labels += (labels.empty() ? "" : ", ") + label.name;
    }
    EXPECT_EQ(labels, table.at(family.name).labels) << family.name;
  }
  EXPECT_EQ(collected.size(), table.size());
}

}  // namespace
}  // namespace cistern::admin
