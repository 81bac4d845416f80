#include "kernels/cpu/copy_ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/bfloat16.h"
#include "kernels/cpu/rows.h"

namespace ttt {
namespace {

void EmbedRow(const EmbedTokensArgs& args, int64_t row) {
  const int64_t size = args.hidden_size;
  const int64_t first = TokenOfRow(args, row) * size;
  float* const hidden = args.hidden + row * size;
  if (args.table.type == DType::kFloat32) {
    std::memcpy(hidden, static_cast<const float*>(args.table.data) + first,
                size * sizeof(float));
    return;
  }
  const uint16_t* const from =
      static_cast<const uint16_t*>(args.table.data) + first;
  for (int64_t c = 0; c < size; ++c) hidden[c] = BFloat16ToFloat(from[c]);
}

void TellEnds(const EmbedTokensArgs& args) {
  for (int32_t i = 0; i < args.rows.batch; ++i) {
    const int32_t* const begin = args.stop_ids + args.stop_begin[i];
    const int32_t* const end = args.stop_ids + args.stop_begin[i + 1];
    const bool has_ended = args.rows.sequences[i].num_rows == 0 ||
                           std::find(begin, end, TokenOfRow(args, i)) != end;
    args.ended[i] = has_ended ? 1 : 0;
    if (has_ended && args.next_sequences != nullptr) {
      args.next_sequences[i].num_rows = 0;
    }
  }
}

}  // namespace

void EndSequences(const EndSequencesArgs& args) {
  for (int32_t i = 0; i < args.batch; ++i) {
    const int32_t before = args.before[i];
    if (before >= 0 && args.ended[before] != 0) args.sequences[i].num_rows = 0;
  }
}

void EmbedTokens(const EmbedTokensArgs& args, ThreadPool& pool) {
  for (int32_t i = 0; i < args.rows.batch; ++i) {
    const SequenceRows& sequence = args.rows.sequences[i];
    int32_t* const ring = SlotOf<int32_t>(args.ring, sequence.slot);
    for (int32_t row = 0; row < sequence.num_rows; ++row) {
      ring[(sequence.position + row) % kTokenRingSize] =
          TokenOfRow(args, sequence.first_row + row);
    }
  }
  if (args.ended != nullptr) TellEnds(args);
  constexpr int64_t kRowsPerTask = 32;
  const int64_t num_rows = args.rows.num_rows;
  pool.Run((num_rows + kRowsPerTask - 1) / kRowsPerTask,
           [&](int64_t task, int32_t) {
             const int64_t end = std::min(num_rows, (task + 1) * kRowsPerTask);
             for (int64_t row = task * kRowsPerTask; row < end; ++row) {
               EmbedRow(args, row);
             }
           });
}

void SaveHidden(const SaveHiddenArgs& args) {
  const int64_t size = args.hidden_size;
  for (int32_t i = 0; i < args.rows.batch; ++i) {
    const SequenceRows& sequence = args.rows.sequences[i];
    args.finite[i] = 1;
    if (sequence.num_rows == 0) continue;
    const int64_t last = int64_t{sequence.first_row} + sequence.num_rows - 1;
    const float* const hidden = args.hidden + last * size;
    std::memcpy(SlotOf<float>(args.last_hidden, sequence.slot), hidden,
                size * sizeof(float));
    args.finite[i] = std::all_of(hidden, hidden + size,
                                 [](float x) { return std::isfinite(x); });
  }
}

void GatherHidden(const GatherHiddenArgs& args) {
  const int64_t size = args.hidden_size;
  for (int64_t i = 0; i < args.num_rows; ++i) {
    const float* const from =
        args.rows[i] >= 0 ? args.hidden + args.rows[i] * size
                          : SlotOf<float>(args.last_hidden, args.slots[i]);
    std::memcpy(args.output + i * size, from, size * sizeof(float));
  }
}

}  // namespace ttt
