#include "server/session/canonical_state.h"

#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "server/base/check.h"

namespace ttt {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr int64_t kWordBytes = 4;

// Words of a plane that stand together: all of it, or the rows of a mini-batch.
struct Run {
  const PlaneSpec* plane;
  int64_t stored_begin;  // bytes from the start of the slot
  int64_t words;         // valid
};

template <typename Visit>
void ForEachRun(const StateLayout& layout, int64_t tokens, const Visit& visit) {
  for (const PlaneSpec& plane : layout.planes) {
    const int64_t words = plane.num_words();
    if (words == 0) continue;
    int64_t run_words = words;
    int64_t valid = words;
    if (plane.role == PlaneRole::kPendingRows) {
      run_words = (layout.mini_batch - 1) * plane.row_words;
      valid = tokens % layout.mini_batch * plane.row_words;
    }
    const int64_t run_bytes = plane.stored_bytes() / (words / run_words);
    for (int64_t run = 0; run < words / run_words; ++run) {
      visit(Run{&plane, plane.offset_bytes + run * run_bytes, valid});
    }
  }
}

}  // namespace

int64_t CanonicalBytes(const StateLayout& layout, int64_t tokens) {
  TTT_CHECK(tokens >= 0);
  int64_t words = 0;
  ForEachRun(layout, tokens, [&](const Run& run) { words += run.words; });
  return words * kWordBytes;
}

std::vector<std::byte> ToCanonical(const StateLayout& layout, int64_t tokens,
                                   const std::byte* slot) {
  std::vector<std::byte> bytes(CanonicalBytes(layout, tokens));
  std::vector<uint32_t> words;
  std::byte* to = bytes.data();
  ForEachRun(layout, tokens, [&](const Run& run) {
    words.resize(run.words);
    LoadWords(*run.plane, slot + run.stored_begin, absl::MakeSpan(words));
    std::memcpy(to, words.data(), run.words * kWordBytes);
    to += run.words * kWordBytes;
  });
  return bytes;
}

absl::Status FromCanonical(const StateLayout& layout, int64_t tokens,
                           absl::Span<const std::byte> bytes, std::byte* slot) {
  if (tokens < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("FromCanonical: tokens is ", tokens));
  }
  if (const int64_t wanted = CanonicalBytes(layout, tokens);
      static_cast<int64_t>(bytes.size()) != wanted) {
    return absl::InvalidArgumentError(
        absl::StrCat("FromCanonical: bytes has ", bytes.size(),
                     " bytes, and a state of ", tokens, " tokens ", wanted));
  }
  std::memset(slot, 0, layout.slot_bytes);
  std::vector<uint32_t> words;
  const std::byte* from = bytes.data();
  ForEachRun(layout, tokens, [&](const Run& run) {
    words.resize(run.words);
    if (words.empty()) return;
    std::memcpy(words.data(), from, run.words * kWordBytes);
    from += run.words * kWordBytes;
    StoreWords(*run.plane, words, slot + run.stored_begin);
  });
  return absl::OkStatus();
}

}  // namespace ttt
