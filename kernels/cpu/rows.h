// Addresses of the parts of a state.
#pragma once

#include <cstdint>

#include "kernels/op_args.h"

namespace ttt {

template <typename T>
inline T* SlotOf(const StatePlane& plane, int32_t slot) {
  return reinterpret_cast<T*>(plane.base + slot * plane.slot_stride);
}

}  // namespace ttt
