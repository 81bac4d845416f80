#include "server/model/state_reads.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "server/base/check.h"
#include "server/base/status_macros.h"

namespace ttt {
namespace {

constexpr int64_t kRingBytes = kTokenRingSize * sizeof(int32_t);

std::vector<uint32_t> FingerprintWords(const std::string& model,
                                       const std::string& numerics) {
  std::string text = model + "/" + numerics;
  text.resize((text.size() + 3) / 4 * 4);
  std::vector<uint32_t> words(text.size() / 4);
  std::memcpy(words.data(), text.data(), text.size());
  return words;
}

std::vector<DigestPlane> DigestPlanes(const StateLayout& layout) {
  std::vector<DigestPlane> planes;
  for (const PlaneSpec& plane : layout.planes) {
    if (plane.role == PlaneRole::kTokenRing || plane.num_words() == 0) continue;
    if (plane.role == PlaneRole::kPendingRows) {
      const int64_t run = (layout.mini_batch - 1) * plane.row_words;
      planes.push_back({plane.offset_bytes, plane.num_words() / run, run,
                        plane.row_words, true});
    } else {
      planes.push_back(
          {plane.offset_bytes, 1, plane.num_words(), plane.num_words(), false});
    }
    planes.back().form = plane.form;
    if (plane.form == PlaneForm::kSplit) {
      planes.back().matrix_words = plane.matrix_words();
    }
  }
  return planes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<StateDigests>> StateDigests::Queue(
    Backend* backend, const StatePool& pool,
    const std::string& model_fingerprint, absl::Span<const int32_t> slots,
    absl::Span<const int64_t> tokens) {
  TTT_CHECK(slots.size() == tokens.size());
  std::unique_ptr<StateDigests> digests(new StateDigests());
  if (slots.empty()) return digests;
  TTT_RETURN_IF_ERROR(pool.AwaitImports(slots));
  const std::vector<DigestPlane> planes = DigestPlanes(pool.layout());
  const std::vector<uint32_t> header =
      FingerprintWords(model_fingerprint, backend->info().numerics_fingerprint);
  digests->digests_.resize(slots.size());
  digests->finite_.resize(slots.size());
  TTT_ASSIGN_OR_RETURN(
      digests->queued_,
      backend->QueueDigests(
          {.slots = pool.slots(),
           .slot_ids = slots.data(),
           .positions = tokens.data(),
           .planes = planes.data(),
           .num_planes = static_cast<int32_t>(planes.size()),
           .header = header.data(),
           .header_words = static_cast<int32_t>(header.size()),
           .digests = digests->digests_.data()->data(),
           .finite = digests->finite_.data(),
           .batch = static_cast<int32_t>(slots.size()),
           .mini_batch = static_cast<int32_t>(pool.layout().mini_batch)}));
  return digests;
}

absl::StatusOr<std::vector<std::optional<StateDigest>>> StateDigests::Finish() {
  if (queued_ != nullptr) TTT_RETURN_IF_ERROR(queued_->Finish());
  std::vector<std::optional<StateDigest>> results(digests_.size());
  for (size_t i = 0; i < results.size(); ++i) {
    if (finite_[i] != 0) results[i] = digests_[i];
  }
  return results;
}

absl::StatusOr<std::unique_ptr<LastTokens>> LastTokens::Queue(
    Backend* backend, const StatePool& pool, int32_t slot, int64_t tokens,
    std::vector<std::unique_ptr<Readback>>* spares) {
  TTT_RETURN_IF_ERROR(pool.AwaitImports(absl::MakeConstSpan(&slot, 1)));
  std::unique_ptr<LastTokens> last(new LastTokens(tokens, spares));
  if (spares->empty()) {
    TTT_ASSIGN_OR_RETURN(last->ring_, backend->CreateReadback(kRingBytes));
  } else {
    last->ring_ = std::move(spares->back());
    spares->pop_back();
  }
  const StatePlane slots = pool.slots();
  TTT_RETURN_IF_ERROR(
      last->ring_->Copy(0,
                        slots.base + slot * slots.slot_stride +
                            pool.layout().Find("token_ring").offset_bytes,
                        kRingBytes));
  return last;
}

LastTokens::~LastTokens() {
  if (ring_ != nullptr) spares_.push_back(std::move(ring_));
}

absl::StatusOr<std::vector<int32_t>> LastTokens::Finish() {
  TTT_RETURN_IF_ERROR(ring_->Wait());
  std::vector<int32_t> ids(kTokenRingSize);
  std::memcpy(ids.data(), ring_->data(), kRingBytes);
  if (tokens_ >= kTokenRingSize) {
    std::rotate(ids.begin(), ids.begin() + tokens_ % kTokenRingSize, ids.end());
  } else {
    ids.resize(tokens_);
  }
  return ids;
}

}  // namespace ttt
