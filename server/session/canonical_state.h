// A state as bytes that mean the same on every device.
//
// Planes in the order of the layout, each as its canonical words,
// little-endian, without gaps: fast weights as float32; of pending rows the
// valid ones, (tokens % mini_batch) a run, widened to float32; tails, the last
// hidden vector and the token ring. Nothing tells the sizes: they follow from
// the model and the number of tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/session/state_layout.h"

namespace ttt {

// Of the state of a session that holds `tokens`, >= 0.
int64_t CanonicalBytes(const StateLayout& layout, int64_t tokens);
// `slot` is a whole slot of the layout, as the device keeps it.
std::vector<std::byte> ToCanonical(const StateLayout& layout, int64_t tokens,
                                   const std::byte* slot);
// The reverse; what is not valid becomes zero. A layout that keeps rows in
// bfloat16 rounds those that are not. INVALID_ARGUMENT: tokens or the number of
// bytes is wrong; then `slot` is left alone.
absl::Status FromCanonical(const StateLayout& layout, int64_t tokens,
                           absl::Span<const std::byte> bytes, std::byte* slot);

}  // namespace ttt
