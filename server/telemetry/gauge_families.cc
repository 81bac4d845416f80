#include "server/telemetry/families.h"

namespace ttt {
namespace {

using Values = std::vector<std::pair<std::string, double>>;

// One value for each value of `label`; of an empty label, the only value.
prometheus::MetricFamily Family(prometheus::MetricType type,
                                const std::string& name,
                                const std::string& help,
                                const std::string& label,
                                const Values& values) {
  prometheus::MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  for (const auto& [text, value] : values) {
    prometheus::ClientMetric& metric = family.metric.emplace_back();
    if (!label.empty()) metric.label.push_back({label, text});
    (type == prometheus::MetricType::Gauge ? metric.gauge.value
                                           : metric.counter.value) = value;
  }
  return family;
}

prometheus::MetricFamily ServerState(const std::string& current) {
  Values values;
  for (const char* const state : {"starting", "serving", "draining"}) {
    values.emplace_back(state, state == current ? 1 : 0);
  }
  return Gauge("ttt_server_state",
               "1 for the state that the server is in, 0 for others.", "state",
               values);
}

}  // namespace

prometheus::MetricFamily Gauge(const std::string& name, const std::string& help,
                               double value) {
  return Gauge(name, help, "", {{"", value}});
}

prometheus::MetricFamily Gauge(const std::string& name, const std::string& help,
                               const std::string& label, const Values& values) {
  return Family(prometheus::MetricType::Gauge, name, help, label, values);
}

prometheus::MetricFamily CountSoFar(const std::string& name,
                                    const std::string& help, double value) {
  return CountSoFar(name, help, "", {{"", value}});
}

prometheus::MetricFamily CountSoFar(const std::string& name,
                                    const std::string& help,
                                    const std::string& label,
                                    const Values& values) {
  return Family(prometheus::MetricType::Counter, name, help, label, values);
}

prometheus::MetricFamily Info(
    const std::string& name, const std::string& help,
    const std::vector<prometheus::ClientMetric::Label>& labels) {
  prometheus::MetricFamily family = Gauge(name, help, 1);
  family.metric.front().label = labels;
  return family;
}

Families GaugeFamilies(const Metrics::Gauges& gauges) {
  const double slot_bytes = static_cast<double>(gauges.slot_bytes);
  const double utilization =
      gauges.session_slots > 0
          ? static_cast<double>(gauges.session_slots_reserved) /
                static_cast<double>(gauges.session_slots)
          : 0.0;
  return {
      Gauge("ttt_queue_requests", "Calls that are admitted and have not begun.",
            gauges.queued_requests),
      Gauge("ttt_running_turns", "Turns in the batch.", gauges.running_turns),
      Gauge("ttt_sessions", "Sessions by where their state is; empty ones too.",
            "tier",
            {{"running", gauges.sessions_running},
             {"device", gauges.sessions_device}}),
      Gauge(
          "ttt_session_bytes",
          "Bytes of hidden states by tier; forks share until their first turn.",
          "tier",
          {{"running", gauges.slots_scratch * slot_bytes},
           {"device", gauges.slots_committed * slot_bytes}}),
      Gauge("ttt_state_slots", "Slots of the state pool by use.", "use",
            {{"free", gauges.slots_free},
             {"committed", gauges.slots_committed},
             {"scratch", gauges.slots_scratch}}),
      Gauge(
          "ttt_state_pool_utilization_ratio",
          "Part of the states that the device can hold that sessions reserved.",
          utilization),
      Gauge("ttt_device_memory_bytes",
            "Device memory taken or set aside at start, by use.", "use",
            {{"weights", gauges.weight_bytes},
             {"state_pool", gauges.pool_bytes},
             {"workspace", gauges.workspace_bytes},
             {"driver", gauges.driver_bytes},
             {"backend", gauges.backend_bytes},
             {"reserve", gauges.reserve_bytes}}),
      CountSoFar("ttt_device_copy_bytes_total",
                 "Bytes copied between the host's memory and the device's.",
                 "direction",
                 {{"to_device", gauges.bytes_to_device},
                  {"to_host", gauges.bytes_to_host}}),
      CountSoFar(
          "ttt_device_graph_launches_total",
          "Launches of one or more steps that the device ran as one graph.",
          gauges.graph_launches),
      ServerState(gauges.state),
  };
}

}  // namespace ttt
