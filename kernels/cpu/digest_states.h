// DigestStates on the CPU. The digest itself: kernels/digest.h.
#pragma once

#include <cstdint>

#include "kernels/cpu/thread_pool.h"
#include "kernels/op_args.h"

namespace ttt {

// DigestBlockLanes of digest.h, or a faster function of the same bits.
using DigestLanesFunction = void (*)(const uint32_t* words, int64_t num_words,
                                     uint64_t* lanes);

// Takes valid args.
void DigestStates(const DigestStatesArgs& args, DigestLanesFunction lanes,
                  ThreadPool& pool);

}  // namespace ttt
