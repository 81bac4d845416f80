#include "kernels/cuda/conv_window.cuh"
#include "kernels/cuda/launchers.h"

namespace ttt {

bool CanLearnOfProjections(const LearnerOfProjectionsArgs& args) {
  const LearnerInputsArgs& inputs = args.inputs;
  const LearnerArgs& learner = args.learner;
  const int64_t places = inputs.row_stride | inputs.query_offset |
                         inputs.key_offset | inputs.value_offset;
  const bool is_aligned =
      places % 2 == 0 &&
      reinterpret_cast<uintptr_t>(inputs.projections) % sizeof(float2) == 0;
  if (inputs.conv_q_weight == nullptr || inputs.kernel != kFastConvKernel ||
      !is_aligned) {
    return false;
  }
  return learner.is_mlp ? learner.rows.num_rows <= learner.rows.batch
                        : IsLinearSpread(learner);
}

cudaError_t LaunchLearnerOfProjections(const LearnerOfProjectionsArgs& args,
                                       cudaStream_t stream) {
  if (args.learner.rows.num_rows == 0) return cudaSuccess;
  return args.learner.is_mlp ? LaunchLearnerMlpOfProjections(args, stream)
                             : LaunchLearnerLinearOfProjections(args, stream);
}

}  // namespace ttt
