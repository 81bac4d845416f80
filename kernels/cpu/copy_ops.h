// The ops that only move or drop rows. The same code for the reference and the
// fast backend: there is nothing to round.
#pragma once

#include "kernels/cpu/thread_pool.h"
#include "kernels/op_args.h"

namespace ttt {

// Each takes valid args.
void EndSequences(const EndSequencesArgs& args);
void EmbedTokens(const EmbedTokensArgs& args, ThreadPool& pool);
void SaveHidden(const SaveHiddenArgs& args);
void GatherHidden(const GatherHiddenArgs& args);

}  // namespace ttt
