// The figures of Sources in Prometheus' form, collected anew for each scrape.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include "server/admin/sources.h"

namespace cistern::admin {

struct MetricInfo {
  std::string_view name;
  prometheus::MetricType type;
  std::string_view labels;  // separated by ", "
  std::string_view unit;
  std::string_view help;
};
// All of metrics.def, then the workers' own counters and gauges.
std::vector<MetricInfo> all_metrics();

class Metrics final : public prometheus::Collectable {
 public:
  // `sources` outlives it.
  explicit Metrics(const Sources& sources) : sources_(sources) {}
  // Any thread. Sums over the workers; a request that ends meanwhile is in it or isn't.
  std::vector<prometheus::MetricFamily> Collect() const override;
  // The text format.
  std::string text() const;

 private:
  const Sources& sources_;
};

}  // namespace cistern::admin
