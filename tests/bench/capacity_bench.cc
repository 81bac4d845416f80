#include "tests/bench/capacity_bench.h"

#include <algorithm>
#include <cstdio>
#include <optional>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "server/base/status_macros.h"
#include "tests/bench/stopwatch.h"

namespace ttt {
namespace {

using Turn = ResidentSessions::Turn;

constexpr int64_t kAlone = 16;   // sessions
constexpr int32_t kTouches = 3;  // of a session, on average

// Reads until session i holds wanted[i] tokens, `width` sessions a step, at
// most `most_tokens` of each.
absl::Status ReadTo(ResidentSessions& sessions,
                    const std::vector<int64_t>& wanted, int64_t width,
                    int64_t most_tokens) {
  for (int64_t first = 0; first < static_cast<int64_t>(wanted.size());
       first += width) {
    const int64_t end =
        std::min<int64_t>(static_cast<int64_t>(wanted.size()), first + width);
    while (true) {
      std::vector<Turn> turns;
      for (int64_t i = first; i < end; ++i) {
        const int64_t left = wanted[i] - sessions.tokens(i);
        if (left > 0) {
          turns.push_back(
              {i, static_cast<int32_t>(std::min(left, most_tokens))});
        }
      }
      if (turns.empty()) break;
      TTT_RETURN_IF_ERROR(sessions.Run(turns));
    }
  }
  return absl::OkStatus();
}

// As many steps of one token each as touch a session kTouches times. Gives
// their rows.
absl::StatusOr<int64_t> Touch(ResidentSessions& sessions,
                              std::minstd_rand& random) {
  int64_t rows = 0;
  while (rows < kTouches * sessions.count()) {
    const int64_t size = std::min<int64_t>(
        sessions.count(),
        random() % 4 == 0 ? 1 + random() % kDecodeRows : kDecodeRows);
    std::vector<int64_t> chosen;
    while (static_cast<int64_t>(chosen.size()) < size) {
      const int64_t session = static_cast<int64_t>(random() % sessions.count());
      if (std::find(chosen.begin(), chosen.end(), session) == chosen.end()) {
        chosen.push_back(session);
      }
    }
    std::vector<Turn> turns;
    for (const int64_t session : chosen) turns.push_back({session, 1});
    TTT_RETURN_IF_ERROR(sessions.Run(turns));
    rows += size;
  }
  return rows;
}

absl::Status Compare(const std::vector<StateDigest>& found,
                     const std::vector<StateDigest>& wanted, int64_t count) {
  constexpr size_t kMostNamed = 16;
  std::vector<int64_t> others;
  for (int64_t i = 0; i < count; ++i) {
    if (found[i] != wanted[i]) others.push_back(i);
  }
  if (others.empty()) return absl::OkStatus();
  const size_t num_others = others.size();
  others.resize(std::min(num_others, kMostNamed));
  return absl::InternalError(absl::StrCat(
      num_others, " of ", count,
      " sessions have another digest in their second run, the first of them ",
      absl::StrJoin(others, ", ")));
}

}  // namespace

absl::Status RunCapacity(bool json, ResidentSessions& sessions,
                         Backend* backend) {
  TTT_RETURN_IF_ERROR(sessions.Clear());
  TTT_ASSIGN_OR_RETURN(const std::optional<int64_t> free_at_first,
                       backend->FreeBytes());
  std::minstd_rand random(1);
  std::vector<int64_t> prompts(sessions.count());
  for (int64_t& tokens : prompts) tokens = 1 + random() % kMostPromptTokens;
  absl::Status status;
  const double create_seconds = TimeToRun([&] {
    status = ReadTo(sessions, prompts, kDecodeRows, kMostPromptTokens);
  });
  TTT_RETURN_IF_ERROR(status);
  int64_t rows = 0;
  const double touch_seconds = TimeToRun([&] {
    const absl::StatusOr<int64_t> touched = Touch(sessions, random);
    status = touched.status();
    if (touched.ok()) rows = *touched;
  });
  TTT_RETURN_IF_ERROR(status);
  absl::StatusOr<std::vector<StateDigest>> digests;
  const double digest_seconds =
      TimeToRun([&] { digests = sessions.Digests(sessions.count()); });
  TTT_RETURN_IF_ERROR(digests.status());
  TTT_ASSIGN_OR_RETURN(const std::optional<int64_t> free_bytes,
                       backend->FreeBytes());

  std::vector<int64_t> tokens(sessions.count());
  for (int64_t i = 0; i < sessions.count(); ++i) {
    tokens[i] = sessions.tokens(i);
  }
  TTT_RETURN_IF_ERROR(sessions.Clear());
  TTT_RETURN_IF_ERROR(ReadTo(sessions, tokens, 48, 13));
  TTT_ASSIGN_OR_RETURN(const std::vector<StateDigest> again,
                       sessions.Digests(sessions.count()));
  TTT_RETURN_IF_ERROR(Compare(again, *digests, sessions.count()));
  const int64_t alone = std::min(kAlone, sessions.count());
  TTT_RETURN_IF_ERROR(sessions.Clear());
  tokens.resize(alone);
  TTT_RETURN_IF_ERROR(ReadTo(sessions, tokens, 1, 1));
  TTT_ASSIGN_OR_RETURN(const std::vector<StateDigest> single,
                       sessions.Digests(alone));
  TTT_RETURN_IF_ERROR(Compare(single, *digests, alone));

  const int64_t slot_bytes = sessions.pool().layout().slot_bytes;
  const int64_t pool_bytes = (sessions.count() + kDecodeRows) * slot_bytes;
  if (json) {
    std::printf(
        "%s\n",
        nlohmann::ordered_json(
            {{"mode", "capacity"},
             {"sessions", sessions.count()},
             {"scratch_slots", kDecodeRows},
             {"slot_bytes", slot_bytes},
             {"pool_bytes", pool_bytes},
             {"weight_bytes", sessions.model().weight_bytes()},
             {"workspace_bytes", sessions.model().workspace_bytes()},
             {"free_bytes", free_bytes.value_or(0)},
             {"late_bytes", free_at_first.value_or(0) - free_bytes.value_or(0)},
             {"driver_bytes", backend->overhead().driver_bytes},
             {"create_seconds", create_seconds},
             {"touch_seconds", touch_seconds},
             {"touch_rows", rows},
             {"digest_seconds", digest_seconds},
             {"verified", sessions.count()},
             {"verified_alone", alone}})
            .dump()
            .c_str());
    return absl::OkStatus();
  }
  std::printf(
      "capacity: %lld sessions of %lld bytes and %d scratch slots, %.2f GiB; "
      "weights %.2f GiB, workspace %.2f GiB, free %.2f GiB\n"
      "  taken late %.1f MiB of %.1f MiB reserved, by the driver before "
      "%.1f MiB\n"
      "  made in %.2f s; %lld rows at random in %.2f s (%.0f tokens/s); "
      "digests in %.3f s (%.1f GB/s)\n"
      "  all digests equal a second run's, %lld of them those of the session "
      "alone\n",
      static_cast<long long>(sessions.count()),
      static_cast<long long>(slot_bytes), kDecodeRows,
      static_cast<double>(pool_bytes) / (1 << 30),
      static_cast<double>(sessions.model().weight_bytes()) / (1 << 30),
      static_cast<double>(sessions.model().workspace_bytes()) / (1 << 30),
      static_cast<double>(free_bytes.value_or(0)) / (1 << 30),
      static_cast<double>(free_at_first.value_or(0) - free_bytes.value_or(0)) /
          (1 << 20),
      static_cast<double>(backend->overhead().reserve_bytes) / (1 << 20),
      static_cast<double>(backend->overhead().driver_bytes) / (1 << 20),
      create_seconds, static_cast<long long>(rows), touch_seconds,
      static_cast<double>(rows) / touch_seconds, digest_seconds,
      static_cast<double>(sessions.count() * slot_bytes) / digest_seconds / 1e9,
      static_cast<long long>(alone));
  std::fflush(stdout);
  return absl::OkStatus();
}

}  // namespace ttt
