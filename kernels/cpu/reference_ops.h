// The specification of the ops in code: plain float32 loops, one thread.
//
// Each takes valid args. What is fast is tested against these.
#pragma once

#include "kernels/cpu/causal_conv.h"
#include "kernels/op_args.h"

namespace ttt::reference {

void RmsNorm(const RmsNormArgs& args);
void CausalConv(const CausalConvArgs& args);
void LearnerInputs(const LearnerInputsArgs& args);
void Learner(const LearnerArgs& args);
void NormGate(const NormGateArgs& args);
void SwiGlu(const SwiGluArgs& args);

// output = input * weights^T with weights [num_outputs, num_inputs] in float32.
void Gemm(const GemmArgs& args, const float* weights);

// The functions of the model, specification sections 4 and 5.
float Sigmoid(float x);
float Gelu(float x);
float GeluDerivative(float x);

}  // namespace ttt::reference
