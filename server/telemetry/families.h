// Metrics that are read at a scrape instead of being counted.
#pragma once

#include <prometheus/metric_family.h>

#include <string>
#include <utility>
#include <vector>

#include "server/telemetry/metrics.h"

namespace ttt {

using Families = std::vector<prometheus::MetricFamily>;

// A gauge without labels.
prometheus::MetricFamily Gauge(const std::string& name, const std::string& help,
                               double value);
// A gauge with one label, and its value for each value of the label.
prometheus::MetricFamily Gauge(
    const std::string& name, const std::string& help, const std::string& label,
    const std::vector<std::pair<std::string, double>>& values);
// A counter that is kept elsewhere, without labels and with one.
prometheus::MetricFamily CountSoFar(const std::string& name,
                                    const std::string& help, double value);
prometheus::MetricFamily CountSoFar(
    const std::string& name, const std::string& help, const std::string& label,
    const std::vector<std::pair<std::string, double>>& values);
// A gauge that is 1, for what its labels tell.
prometheus::MetricFamily Info(
    const std::string& name, const std::string& help,
    const std::vector<prometheus::ClientMetric::Label>& labels);

// What of the server is read at a scrape.
Families GaugeFamilies(const Metrics::Gauges& gauges);

// What Prometheus expects of every process: time on the processors, resident
// memory, open files, start. Thread-safe.
class ProcessMetrics {
 public:
  ProcessMetrics();

  // What the system does not tell is left out.
  Families Collect() const;

 private:
  const double start_time_seconds_;  // 0: unknown
};

}  // namespace ttt
