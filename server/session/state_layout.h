// How the hidden state of a session is laid out in a slot, as data.
//
// A model describes its state once; pool, copy, fork, digest and, later,
// snapshots are written over planes and know nothing of what is in them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/op_args.h"

namespace ttt {

using StateDigest = std::array<uint8_t, kDigestBytes>;

enum class PlaneRole {
  kFastWeights,  // learnt while reading; begins as the checkpoint's
  kPendingRows,  // rows of the unfinished mini-batch; begins empty
  kTail,         // last inputs of a convolution; begins as zero
  kLastHidden,   // the last token's final hidden vector; begins as zero
  kTokenRing,    // the last token ids; not in the digest
};

// One part of every slot: 4-byte words, row-major. Shapes begin with num_layers
// where a plane has one part a layer. A kPendingRows plane is [.., mini_batch -
// 1, words of a row] in runs of mini_batch - 1 rows. The words are canonical,
// the same on all devices; `form` is how the device keeps them. The matrices of
// PlaneForm::kSplit are the last two dimensions.
struct PlaneSpec {
  std::string name;
  PlaneRole role;
  std::vector<int64_t> shape;
  int64_t row_words = 0;  // of kPendingRows: words of one row
  PlaneForm form = PlaneForm::kWords;
  int64_t offset_bytes = 0;  // within the slot, a multiple of kLineBytes

  int64_t num_words() const;
  // Of the slot; less than the words take where the form leaves halves out.
  int64_t stored_bytes() const;
  // Of one matrix of PlaneForm::kSplit.
  int64_t matrix_words() const;
};

// Puts canonical words in the plane's form; whole matrices, where it has any.
// What kBFloat16 leaves out is rounded to nearest even.
void StoreWords(const PlaneSpec& plane, absl::Span<const uint32_t> words,
                std::byte* stored);
// The reverse.
void LoadWords(const PlaneSpec& plane, const std::byte* stored,
               absl::Span<uint32_t> words);

struct StateLayout {
  std::vector<PlaneSpec> planes;  // in canonical order
  int64_t slot_bytes = 0;         // a multiple of kLineBytes
  int32_t mini_batch = 0;

  // Appends a plane and places it.
  void Add(PlaneSpec plane);
  // The plane must exist.
  const PlaneSpec& Find(absl::string_view name) const;
};

}  // namespace ttt
