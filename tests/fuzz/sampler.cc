// Sampling parameters from the door to the op: whatever the door lets through
// chooses a token of the vocabulary, the same one each time.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/fast_backend.h"
#include "kernels/cpu/reference_backend.h"
#include "server/base/check.h"
#include "tests/fuzz/fuzz_cases.pb.h"
#include "tests/fuzz/fuzz_targets.h"
#include "tests/fuzz/request_checks.h"

namespace ttt {
namespace {

constexpr int32_t kMaxVocab = 256;
constexpr int32_t kMaxCandidates = 20;

// The arrays of a call on one row, no larger than they have to be.
struct Row {
  std::vector<float> logits;
  std::vector<int32_t> bias_ids;
  std::vector<float> bias_values;
  std::vector<int32_t> ring = std::vector<int32_t>(kTokenRingSize, 0);
  SampleRow sample;
  int32_t max_candidates;
};

struct Chosen {
  int32_t token = 0;
  float logprob = 0;
  uint8_t finite = 0;
  std::vector<int32_t> candidates;
  std::vector<float> logprobs;
};

std::vector<float> Logits(const fuzz::SamplerCase& c) {
  std::vector<float> logits(c.logits().begin(), c.logits().end());
  logits.resize(std::clamp<size_t>(logits.size(), 1, kMaxVocab));
  return logits;
}

Row MakeRow(const fuzz::SamplerCase& c, const SamplingParams& params) {
  Row row;
  row.logits = Logits(c);
  const int32_t vocab_size = static_cast<int32_t>(row.logits.size());
  for (const auto& [id, bias] : params.logit_bias) {
    row.bias_ids.push_back(id);
    row.bias_values.push_back(bias);
  }
  for (int i = 0; i < std::min(c.ring_size(), kTokenRingSize); ++i) {
    row.ring[i] = c.ring(i);
  }
  row.max_candidates = std::min(vocab_size, kMaxCandidates);
  row.sample = {
      .given_token = kSampleToken,
      .slot = 0,
      .position = std::max<int64_t>(0, c.position()),
      .seed = params.seed,
      .temperature = params.temperature,
      .top_k = params.top_k,
      .top_p = params.top_p,
      .min_p = params.min_p,
      .repetition_penalty = params.repetition_penalty,
      .presence_penalty = params.presence_penalty,
      .frequency_penalty = params.frequency_penalty,
      .bias_begin = 0,
      .bias_end = static_cast<int32_t>(row.bias_ids.size()),
      .num_candidates = std::clamp(c.num_candidates(), 0, row.max_candidates)};
  return row;
}

Chosen Sample(Row& row, Backend& backend) {
  Chosen chosen;
  chosen.candidates.resize(row.max_candidates);
  chosen.logprobs.resize(row.max_candidates);
  const SampleTokensArgs args{
      .logits = row.logits.data(),
      .samples = &row.sample,
      .bias_ids = row.bias_ids.data(),
      .bias_values = row.bias_values.data(),
      .ring = {.base = reinterpret_cast<std::byte*>(row.ring.data()),
               .slot_stride = kTokenRingSize * 4},
      .token_ids = &chosen.token,
      .logprobs = &chosen.logprob,
      .candidate_ids = chosen.candidates.data(),
      .candidate_logprobs = chosen.logprobs.data(),
      .finite = &chosen.finite,
      .num_rows = 1,
      .vocab_size = static_cast<int32_t>(row.logits.size()),
      .max_candidates = row.max_candidates};
  TTT_CHECK(backend.SampleTokens(args).ok());
  return chosen;
}

bool SameBits(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

bool SameBits(const Chosen& a, const Chosen& b) {
  return a.token == b.token && a.finite == b.finite &&
         SameBits(a.logprob, b.logprob) && a.candidates == b.candidates &&
         std::equal(a.logprobs.begin(), a.logprobs.end(), b.logprobs.begin(),
                    [](float x, float y) { return SameBits(x, y); });
}

void CheckChosen(const Row& row, const Chosen& chosen) {
  const bool finite =
      std::all_of(row.logits.begin(), row.logits.end(),
                  [](float logit) { return std::isfinite(logit); });
  TTT_CHECK(finite == (chosen.finite != 0));
  if (!finite) {
    TTT_CHECK(chosen.token == kNoToken && chosen.logprob == 0);
    return;
  }
  const int32_t vocab_size = static_cast<int32_t>(row.logits.size());
  TTT_CHECK(chosen.token >= 0 && chosen.token < vocab_size);
  TTT_CHECK(chosen.logprob <= 1e-3f);  // false for NaN
  for (int32_t i = 0; i < row.sample.num_candidates; ++i) {
    const int32_t id = chosen.candidates[i];
    TTT_CHECK(id >= 0 && id < vocab_size);
    TTT_CHECK(i == 0 || row.logits[chosen.candidates[i - 1]] >= row.logits[id]);
  }
}

// A token that top_k dropped is not drawn, if nothing else moved the logits.
void CheckTopK(const Row& row, const Chosen& chosen) {
  const SampleRow& sample = row.sample;
  const bool moved = sample.bias_end > 0 || sample.repetition_penalty != 1 ||
                     sample.presence_penalty != 0 ||
                     sample.frequency_penalty != 0;
  if (moved || chosen.finite == 0) return;
  const int64_t better = std::count_if(
      row.logits.begin(), row.logits.end(),
      [&](float logit) { return logit > row.logits[chosen.token]; });
  TTT_CHECK(sample.top_k == 0 || better < sample.top_k);
  TTT_CHECK(sample.temperature != 0 || better == 0);
}

}  // namespace

void FuzzSampler(absl::string_view bytes) {
  static const auto* const reference =
      new std::unique_ptr<Backend>(CreateReferenceBackend(Precision::kFloat32));
  static const auto* const fast = new std::unique_ptr<Backend>(
      CreateFastBackend(Precision::kFloat32, 1, DetectIsa()).value());
  fuzz::SamplerCase c;
  if (!ReadMessage(bytes, &c)) return;
  v1::CompleteRequest message;
  *message.mutable_sampling() = c.sampling();
  RequestLimits limits = FuzzLimits(true);
  limits.vocab_size = static_cast<int32_t>(Logits(c).size());
  const auto request = ValidateComplete(message, limits);
  if (!request.ok()) {
    return CheckRefusal(request.status(), message.GetDescriptor());
  }
  Row row = MakeRow(c, request->sampling);
  std::vector<Chosen> all;
  for (Backend* const backend : {reference->get(), fast->get()}) {
    const Chosen chosen = Sample(row, *backend);
    CheckChosen(row, chosen);
    CheckTopK(row, chosen);
    TTT_CHECK(SameBits(chosen, Sample(row, *backend)));
    all.push_back(chosen);
  }
  // Without a draw there is nothing to round.
  TTT_CHECK(all[0].candidates == all[1].candidates);
  TTT_CHECK(row.sample.temperature != 0 || all[0].token == all[1].token);
}

}  // namespace ttt
