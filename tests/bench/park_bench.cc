#include "tests/bench/park_bench.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "server/base/status_macros.h"
#include "server/session/host_states.h"
#include "tests/bench/statistics.h"
#include "tests/bench/stopwatch.h"

namespace ttt {
namespace {

constexpr int64_t kMostCeilingBytes = int64_t{512} << 20;

// Seconds of each round.
struct Times {
  std::vector<double> to_host;    // one large copy
  std::vector<double> to_device;  // the same
  std::vector<double> park;       // all states
  std::vector<double> wake;
  std::vector<double> both;  // half of them each way
  std::vector<double> park_beside_steps;
  std::vector<double> step;  // alone
  std::vector<double> step_beside;
};

// Sessions [0, states) are parked and woken; those behind them run steps.
class ParkBench {
 public:
  static absl::StatusOr<std::unique_ptr<ParkBench>> Create(
      const ParkOptions& options, ResidentSessions* sessions,
      Backend* backend) {
    const int64_t needed = options.states + kParkStepRows;
    if (sessions->count() < needed) {
      return absl::InvalidArgumentError(
          absl::StrCat("sessions is ", sessions->count(), ", and ",
                       options.states, " states to park need ", needed));
    }
    auto bench = std::unique_ptr<ParkBench>(
        new ParkBench(options.states, sessions, backend));
    TTT_ASSIGN_OR_RETURN(
        bench->host_,
        HostStates::Create(options.states, &sessions->pool(), backend));
    bench->ceiling_bytes_ =
        std::min(kMostCeilingBytes, needed * bench->slot_bytes());
    TTT_ASSIGN_OR_RETURN(bench->block_,
                         backend->AllocateHost(bench->ceiling_bytes_));
    TTT_RETURN_IF_ERROR(sessions->Clear());
    // States that differ, at all phases.
    for (int64_t first = 0; first < needed; first += kParkStepRows) {
      std::vector<ResidentSessions::Turn> turns;
      for (int64_t i = first; i < std::min(first + kParkStepRows, needed);
           ++i) {
        turns.push_back({i, static_cast<int32_t>(17 + i % 16)});
      }
      TTT_RETURN_IF_ERROR(sessions->Run(turns));
    }
    TTT_RETURN_IF_ERROR(bench->Step());
    TTT_ASSIGN_OR_RETURN(bench->digests_, sessions->Digests(options.states));
    return bench;
  }

  absl::Status Round(Times& times) {
    TTT_RETURN_IF_ERROR(Ceilings(times));
    const int64_t half = states_ / 2;
    TTT_RETURN_IF_ERROR(Time(times.park, [this] {
      absl::Status status = Park(0, states_);
      status.Update(WaitForAll());
      return status;
    }));
    TTT_RETURN_IF_ERROR(TakeSlots(0, states_));
    TTT_RETURN_IF_ERROR(Time(times.wake, [this] {
      absl::Status status = Wake(0, states_);
      status.Update(WaitForAll());
      return status;
    }));
    TTT_RETURN_IF_ERROR(Forget());

    TTT_RETURN_IF_ERROR(Park(0, half));
    TTT_RETURN_IF_ERROR(WaitForAll());
    TTT_RETURN_IF_ERROR(TakeSlots(0, half));
    TTT_RETURN_IF_ERROR(Time(times.both, [this, half] {
      absl::Status status;
      for (int64_t i = 0; i < half; ++i) {
        status.Update(Wake(i, i + 1));
        status.Update(Park(half + i, half + i + 1));
      }
      status.Update(WaitForAll());
      return status;
    }));
    TTT_RETURN_IF_ERROR(Forget());
    return BesideSteps(times);
  }

  // Of the sessions that were parked and woken.
  absl::Status Check() {
    TTT_ASSIGN_OR_RETURN(const std::vector<StateDigest> digests,
                         sessions_->Digests(states_));
    if (digests == digests_) return absl::OkStatus();
    return absl::InternalError("a state is another after it was parked");
  }

  int64_t ceiling_bytes() const { return ceiling_bytes_; }
  int64_t slot_bytes() const { return sessions_->pool().layout().slot_bytes; }

 private:
  ParkBench(int64_t states, ResidentSessions* sessions, Backend* backend)
      : states_(states),
        sessions_(sessions),
        backend_(*backend),
        parked_(states) {}

  template <typename Work>
  absl::Status Time(std::vector<double>& seconds, const Work& work) {
    TTT_RETURN_IF_ERROR(backend_.Synchronize());
    absl::Status status;
    seconds.push_back(TimeToRun([&] { status = work(); }));
    return status;
  }

  // The states that lie first, all at once, and back to where they were.
  absl::Status Ceilings(Times& times) {
    std::byte* const states = sessions_->pool().slots().base;
    TTT_RETURN_IF_ERROR(Time(times.to_host, [=, this]() -> absl::Status {
      TTT_ASSIGN_OR_RETURN(
          const DeviceCopy copy,
          backend_.StartCopyToHost(block_->data(), states, ceiling_bytes_));
      return backend_.Wait(copy);
    }));
    return Time(times.to_device, [=, this]() -> absl::Status {
      TTT_ASSIGN_OR_RETURN(
          const DeviceCopy copy,
          backend_.StartCopyToDevice(states, block_->data(), ceiling_bytes_));
      return backend_.Wait(copy);
    });
  }

  absl::Status Park(int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      TTT_ASSIGN_OR_RETURN(parked_[i], host_->Park(sessions_->state(i)));
    }
    return absl::OkStatus();
  }
  // Moves the sessions to slots of undefined content.
  absl::Status TakeSlots(int64_t begin, int64_t end) {
    std::vector<StateSlot> old;
    for (int64_t i = begin; i < end; ++i)
      old.push_back(sessions_->TakeState(i));
    // Not the one that the session just had.
    std::rotate(old.begin(), old.begin() + old.size() / 2, old.end());
    sessions_->pool().Collect();
    for (int64_t i = begin; i < end; ++i) {
      sessions_->GiveState(i, std::move(old[i - begin]));
    }
    return absl::OkStatus();
  }
  absl::Status Wake(int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      TTT_RETURN_IF_ERROR(host_->Wake(parked_[i], sessions_->state(i)));
    }
    return absl::OkStatus();
  }
  absl::Status WaitForAll() {
    for (const HostState& state : parked_) {
      if (state.has_value()) TTT_RETURN_IF_ERROR(host_->Wait(state));
    }
    return absl::OkStatus();
  }
  absl::Status Forget() {
    for (HostState& state : parked_) state = HostState();
    sessions_->pool().Collect();
    return absl::OkStatus();
  }

  absl::Status Step() {
    std::vector<ResidentSessions::Turn> turns;
    for (int64_t i = states_; i < states_ + kParkStepRows; ++i) {
      turns.push_back({i, 1});
    }
    return sessions_->Run(turns);
  }
  absl::Status BesideSteps(Times& times) {
    constexpr int kSteps = 16;  // a mini-batch
    std::vector<double> seconds;
    TTT_RETURN_IF_ERROR(Time(seconds, [this] {
      absl::Status status;
      for (int i = 0; i < kSteps; ++i) status.Update(Step());
      return status;
    }));
    times.step.push_back(seconds[0] / kSteps);
    int steps = 0;
    TTT_RETURN_IF_ERROR(
        Time(times.park_beside_steps, [this, &steps]() -> absl::Status {
          TTT_RETURN_IF_ERROR(Park(0, states_));
          for (bool has_ended = false; !has_ended; ++steps) {
            TTT_RETURN_IF_ERROR(Step());
            TTT_ASSIGN_OR_RETURN(has_ended, host_->HasEnded(parked_.back()));
          }
          return absl::OkStatus();
        }));
    times.step_beside.push_back(times.park_beside_steps.back() / steps);
    return Forget();
  }

  const int64_t states_;
  ResidentSessions* const sessions_;
  Backend& backend_;
  std::unique_ptr<HostStates> host_;
  std::vector<HostState> parked_;
  int64_t ceiling_bytes_ = 0;
  std::unique_ptr<DeviceBuffer> block_;  // [ceiling_bytes_] of the host
  std::vector<StateDigest> digests_;
};

struct Line {
  absl::string_view name;
  double gigabytes_per_second;
  double share;  // of the large copy the same way
};

}  // namespace

absl::Status RunPark(const ParkOptions& options, ResidentSessions* sessions,
                     Backend* backend) {
  TTT_ASSIGN_OR_RETURN(const std::unique_ptr<ParkBench> bench,
                       ParkBench::Create(options, sessions, backend));
  Times times;
  for (int32_t round = 0; round < options.rounds; ++round) {
    TTT_RETURN_IF_ERROR(bench->Round(times));
    TTT_RETURN_IF_ERROR(bench->Check());
  }
  const auto rate = [](double bytes, const std::vector<double>& seconds) {
    return bytes / Summarize(seconds).median / 1e9;
  };
  const double bytes =
      static_cast<double>(options.states) * bench->slot_bytes();
  const auto ceiling_bytes = static_cast<double>(bench->ceiling_bytes());
  const double to_host = rate(ceiling_bytes, times.to_host);
  const double to_device = rate(ceiling_bytes, times.to_device);
  std::vector<Line> lines = {
      {"to_host_ceiling", to_host, 1},
      {"to_device_ceiling", to_device, 1},
      {"park", rate(bytes, times.park), 0},
      {"wake", rate(bytes, times.wake), 0},
      {"park_and_wake", rate(bytes, times.both), 0},
      {"park_beside_steps", rate(bytes, times.park_beside_steps), 0},
  };
  lines[2].share = lines[2].gigabytes_per_second / to_host;
  lines[3].share = lines[3].gigabytes_per_second / to_device;
  lines[4].share = lines[4].gigabytes_per_second / (to_host + to_device);
  lines[5].share = lines[5].gigabytes_per_second / to_host;
  const double step = Summarize(times.step).median;
  const double step_beside = Summarize(times.step_beside).median;
  if (options.json) {
    nlohmann::ordered_json json = {{"mode", "park"},
                                   {"states", options.states},
                                   {"slot_bytes", bench->slot_bytes()}};
    for (const Line& line : lines) {
      const std::string name(line.name);
      json[name + "_bytes_per_second"] = line.gigabytes_per_second * 1e9;
      json[name + "_share"] = line.share;
    }
    json["step_seconds"] = step;
    json["step_beside_seconds"] = step_beside;
    std::printf("%s\n", json.dump().c_str());
    return absl::OkStatus();
  }
  std::printf("park: %lld states of %lld bytes, digests equal\n",
              static_cast<long long>(options.states),
              static_cast<long long>(bench->slot_bytes()));
  for (const Line& line : lines) {
    std::printf("  %-20s %8.2f GB/s %6.1f%%\n", std::string(line.name).c_str(),
                line.gigabytes_per_second, line.share * 100);
  }
  std::printf("  a step of %d rows %.3f ms, beside copies %.3f ms\n",
              kParkStepRows, step * 1e3, step_beside * 1e3);
  std::fflush(stdout);
  return absl::OkStatus();
}

}  // namespace ttt
