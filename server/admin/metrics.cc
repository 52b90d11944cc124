#include "server/admin/metrics.h"

#include <deque>
#include <iterator>
#include <limits>
#include <sstream>
#include <utility>

#include <prometheus/text_serializer.h>

#include "server/base/chunk.h"
#include "server/base/log.h"
#include "server/base/memory.h"

namespace cistern::admin {
namespace {

using base::WorkerMetrics;
using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

enum class Id : std::uint8_t {
#define CISTERN_METRIC(enumerator, name, type, labels, unit, help) enumerator,
#include "server/admin/metrics.def"
#undef CISTERN_METRIC
};

// As Prometheus' enum is named otherwise.
constexpr MetricType kCounter = MetricType::Counter;
constexpr MetricType kGauge = MetricType::Gauge;
constexpr MetricType kHistogram = MetricType::Histogram;

constexpr MetricInfo kMetrics[] = {
#define CISTERN_METRIC(enumerator, name, type, labels, unit, help) {name, type, labels, unit, help},
#include "server/admin/metrics.def"
#undef CISTERN_METRIC
};

double seconds(base::Duration duration) { return std::chrono::duration<double>(duration).count(); }

using Labels = std::vector<ClientMetric::Label>;

ClientMetric::Label label(std::string name, std::string_view value) {
  ClientMetric::Label made;
  made.name = std::move(name);
  made.value = std::string(value);
  return made;
}

ClientMetric sample(Labels labels) {
  ClientMetric metric;
  metric.label = std::move(labels);
  return metric;
}

// Collects one scrape.
class Collector {
 public:
  explicit Collector(const Sources& sources) : sources_(sources) {}

  std::vector<MetricFamily> run() {
    process();
    requests();
    connections();
    first_tier();
    second_tier();
    codec();
    memory();
    own();
    return {std::make_move_iterator(families_.begin()), std::make_move_iterator(families_.end())};
  }

 private:
  MetricFamily& family(const MetricInfo& info) {
    MetricFamily made;
    made.name = std::string(info.name);
    made.help = std::string(info.help);
    made.type = info.type;
    families_.push_back(std::move(made));
    return families_.back();
  }
  MetricFamily& family(Id id) { return family(kMetrics[static_cast<std::size_t>(id)]); }

  static void add(MetricFamily& to, double value, Labels labels = {}) {
    ClientMetric metric = sample(std::move(labels));
    (to.type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
    to.metric.push_back(std::move(metric));
  }
  void one(Id id, double value) { add(family(id), value); }
  void one(Id id, std::uint64_t value) { add(family(id), static_cast<double>(value)); }

  // Of one counter that every worker has.
  template <typename Select>
  double sum(Select&& select) const {
    double total = 0;
    for (const WorkerMetrics* worker : sources_.workers) {
      total += static_cast<double>(select(*worker).get());
    }
    return total;
  }

  template <typename Select>
  void histogram(MetricFamily& to, Labels labels, Select&& select) const {
    ClientMetric metric = sample(std::move(labels));
    std::uint64_t below = 0;
    for (std::size_t bucket = 0; bucket < base::Histogram::kBuckets; ++bucket) {
      for (const WorkerMetrics* worker : sources_.workers) below += select(*worker).count(bucket);
      ClientMetric::Bucket made;
      made.cumulative_count = below;
      made.upper_bound = bucket < base::kLatencyBounds.size()
                             ? base::kLatencyBounds[bucket]
                             : std::numeric_limits<double>::infinity();
      metric.histogram.bucket.push_back(made);
    }
    metric.histogram.sample_count = below;
    for (const WorkerMetrics* worker : sources_.workers) {
      metric.histogram.sample_sum += select(*worker).sum_seconds();
    }
    to.metric.push_back(std::move(metric));
  }

  void process() {
    add(family(Id::kBuildInfo), 1, {label("version", sources_.version)});
    one(Id::kUptime, seconds(std::chrono::steady_clock::now() - sources_.started));
    one(Id::kLoopSilence, seconds(sources_.loop_silence()));
    one(Id::kLogDropped, log::dropped());
  }

  // Outcomes that never happened are left out, but for OK: a series appears with its first event.
  void requests() {
    MetricFamily& counts = family(Id::kRequests);
    for (std::size_t op = 0; op < base::kOpCount; ++op) {
      for (const proto::StatusInfo& status : proto::all_statuses()) {
        const std::size_t at = base::status_index(status.status);
        const double count =
            sum([&](const WorkerMetrics& w) -> auto& { return w.requests[op][at]; });
        if (count == 0 && status.status != proto::Status::kOk) continue;
        add(counts, count,
            {label("op", name(static_cast<base::Op>(op))), label("result", status.name)});
      }
    }
    MetricFamily& latency = family(Id::kRequestLatency);
    for (std::size_t op = 0; op < base::kOpCount; ++op) {
      histogram(
          latency,
          {label("op", name(static_cast<base::Op>(op)))}, [op](const WorkerMetrics& w) -> auto& {
            return w.request_latency[op];
          });
    }
    MetricFamily& rejected = family(Id::kPutsRejected);
    for (const proto::StatusInfo& status : proto::all_statuses()) {
      const std::size_t at = base::status_index(status.status);
      const double count =
          sum([&](const WorkerMetrics& w) -> auto& { return w.puts_rejected[at]; });
      if (count > 0) add(rejected, count, {label("reason", status.name)});
    }
  }

  void connections() {
    one(Id::kConnections, sources_.connections());
    MetricFamily& ends = family(Id::kConnectionEnds);
    for (const auto& [reason, count] : sources_.connection_ends()) {
      add(ends, static_cast<double>(count), {label("reason", reason)});
    }
  }

  void first_tier() {
    const l1::Stats stats = sources_.cache->stats();
    one(Id::kL1Bytes, stats.used_bytes);
    one(Id::kL1Reserved, stats.reserved_bytes);
    one(Id::kL1Budget, stats.budget_bytes);
    one(Id::kL1Ceiling, stats.ceiling_bytes);
    one(Id::kL1ValueBytes, stats.value_bytes);
    one(Id::kL1Items, stats.items);
    one(Id::kL1Hits, stats.hits);
    one(Id::kL1Misses, stats.misses);
    MetricFamily& inserted = family(Id::kL1Inserted);
    add(inserted, static_cast<double>(stats.inserted_by_put), {label("source", "put")});
    add(inserted, static_cast<double>(stats.inserted_by_fill), {label("source", "fill")});
    MetricFamily& removed = family(Id::kL1Removed);
    for (std::size_t i = 0; i < l1::kRemovalCount; ++i) {
      add(removed, static_cast<double>(stats.removed[i]),
          {label("reason", name(static_cast<l1::Removal>(i)))});
    }
    const auto gone = [&](l1::Removal why) { return stats.removed[static_cast<std::size_t>(why)]; };
    one(Id::kL1Evictions, gone(l1::Removal::kEvicted));
    one(Id::kL1Expirations, gone(l1::Removal::kExpired));
    one(Id::kL1NoRoom, stats.no_room);
    one(Id::kL1Revoked, stats.revoked);
  }

  void l2_servers() {
    if (!sources_.l2_servers) return;
    const std::vector<l2::ServerState> servers = sources_.l2_servers();
    const auto each = [&](Id id, auto value_of) {
      MetricFamily& to = family(id);
      for (const l2::ServerState& server : servers) {
        add(to, static_cast<double>(value_of(server)), {label("server", server.name)});
      }
    };
    each(Id::kL2ServerUp, [](const l2::ServerState& s) { return s.is_up ? 1 : 0; });
    each(Id::kL2ServerWaiting, [](const l2::ServerState& s) { return s.waiting; });
    each(Id::kL2ServerFailures, [](const l2::ServerState& s) { return s.failures; });
    each(Id::kL2ServerRefused, [](const l2::ServerState& s) { return s.refused; });
  }

  void breakers() {
    const auto each = [this](Id id, auto&& value_of) {
      MetricFamily& values = family(id);
      for (const auto& breaker : sources_.breakers) {
        add(values, static_cast<double>(value_of(breaker->figures())),
            {label("endpoint", breaker->endpoint())});
      }
    };
    using Figures = l2::Breaker::Figures;
    each(Id::kBreakerState, [](const Figures& f) { return static_cast<int>(f.state); });
    each(Id::kBreakerOpens, [](const Figures& f) { return f.opens; });
    each(Id::kBreakerProbes, [](const Figures& f) { return f.probes; });
  }

  void second_tier() {
    if (!sources_.has_l2) return;
    l2_servers();
    one(Id::kL2Up, sources_.l2_ready() ? 1.0 : 0.0);
    breakers();
    if (const auto& complete_at = sources_.invalidations_complete_at) {
      const base::TimePoint at = complete_at();
      const base::TimePoint now = std::chrono::steady_clock::now();
      if (at != base::TimePoint{}) one(Id::kChannelAge, seconds(now - at));
    }
    MetricFamily& counts = family(Id::kL2Operations);
    for (std::size_t op = 0; op < base::kL2OpCount; ++op) {
      for (std::size_t result = 0; result < base::kL2ResultCount; ++result) {
        const double count = sum([&](const WorkerMetrics& w) -> auto& { return w.l2[op][result]; });
        if (count == 0 && static_cast<base::L2Result>(result) != base::L2Result::kOk) continue;
        add(counts, count,
            {label("op", name(static_cast<base::L2Op>(op))),
             label("result", name(static_cast<base::L2Result>(result)))});
      }
    }
    MetricFamily& latency = family(Id::kL2Latency);
    for (std::size_t op = 0; op < base::kL2OpCount; ++op) {
      histogram(
          latency,
          {label("op", name(static_cast<base::L2Op>(op)))}, [op](const WorkerMetrics& w) -> auto& {
            return w.l2_latency[op];
          });
    }
    MetricFamily& lost = family(Id::kL2Lost);
    for (std::size_t why = 0; why < base::kLossCount; ++why) {
      const double count = sum([&](const WorkerMetrics& w) -> auto& { return w.lost[why]; });
      if (count > 0) add(lost, count, {label("reason", name(static_cast<base::Loss>(why)))});
    }
  }

  void codec() {
    if (sources_.codec_pool == nullptr) return;
    MetricFamily& faults = family(Id::kDecodeFaults);
    for (std::size_t fault = 0; fault < codec::kFaultCount; ++fault) {
      add(faults, sum([&](const WorkerMetrics& w) -> auto& { return w.decode_faults[fault]; }),
          {label("reason", codec::kFaultLabels[fault])});
    }
    const l2::CodecPool::Stats stats = sources_.codec_pool->stats();
    MetricFamily& waiting = family(Id::kCodecWaiting);
    MetricFamily& busy = family(Id::kCodecSeconds);
    for (const std::size_t work : {std::size_t{0}, std::size_t{1}}) {
      const std::string_view name = work == 0 ? "encode" : "decode";
      add(waiting, static_cast<double>(stats.queued[work]), {label("work", name)});
      add(busy, seconds(stats.busy[work]), {label("work", name)});
    }
    one(Id::kCodecContexts, stats.context_bytes);
  }

  void memory() {
    const base::Ledger& ledger = *sources_.ledger;
    MetricFamily& used = family(Id::kLedgerBytes);
    std::uint64_t sum_bytes = 0;
    for (std::size_t i = 0; i < base::kAccountCount; ++i) {
      const auto account = static_cast<base::Account>(i);
      const std::uint64_t bytes =
          account == base::Account::kL1 ? sources_.cache->used_bytes() : ledger.used(account);
      sum_bytes += bytes;
      add(used, static_cast<double>(bytes), {label("account", name(account))});
    }
    MetricFamily& allowed = family(Id::kLedgerBudget);
    for (std::size_t i = 0; i < base::kAccountCount; ++i) {
      const auto account = static_cast<base::Account>(i);
      add(allowed, static_cast<double>(ledger.budget(account)), {label("account", name(account))});
    }
    one(Id::kLedgerSum, sum_bytes);
    one(Id::kLedgerWaiting, ledger.waiting());
    one(Id::kLedgerWaits, ledger.waits_total());
    one(Id::kLedgerWaitSeconds, seconds(ledger.waited_total()));
    one(Id::kChunkLive, base::Chunk::live_bytes());
    one(Id::kChunkSpare, base::Chunk::spare_bytes());
    one(Id::kMemoryLimit, ledger.budgets().limit);
    add(family(Id::kMemoryUsed), static_cast<double>(sources_.memory->used_bytes()),
        {label("source", sources_.memory->source())});
    one(Id::kMemoryShrinks, sources_.memory->shrinks_total());
    const base::MemoryUsage usage = base::memory_usage();
    one(Id::kResident, usage.resident_bytes);
    one(Id::kResidentPeak, usage.peak_resident_bytes);
    one(Id::kAnonymous, usage.anonymous_bytes);
  }

  void own() {
    for (const base::CounterInfo& counter : base::all_counters()) {
      add(family({counter.metric, kCounter, {}, {}, counter.help}),
          sum([&](const WorkerMetrics& w) -> auto& { return w.*counter.member; }));
    }
    for (const base::GaugeInfo& gauge : base::all_gauges()) {
      add(family({gauge.metric, kGauge, {}, {}, gauge.help}),
          sum([&](const WorkerMetrics& w) -> auto& { return w.*gauge.member; }));
    }
  }

  const Sources& sources_;
  std::deque<MetricFamily> families_;  // references to its elements last
};

}  // namespace

std::vector<MetricInfo> all_metrics() {
  std::vector<MetricInfo> all(std::begin(kMetrics), std::end(kMetrics));
  const auto unit = [](std::string_view metric) -> std::string_view {
    return metric.find("_bytes") != std::string_view::npos ? "bytes" : "";
  };
  for (const base::CounterInfo& info : base::all_counters()) {
    all.push_back({info.metric, kCounter, "", unit(info.metric), info.help});
  }
  for (const base::GaugeInfo& info : base::all_gauges()) {
    all.push_back({info.metric, kGauge, "", unit(info.metric), info.help});
  }
  return all;
}

std::vector<MetricFamily> Metrics::Collect() const { return Collector(sources_).run(); }

std::string Metrics::text() const {
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, Collect());
  return out.str();
}

}  // namespace cistern::admin
