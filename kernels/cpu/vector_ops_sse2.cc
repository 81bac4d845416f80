#include "kernels/cpu/vec_sse2.h"

#define TTT_ISA sse2
#include "kernels/cpu/vector_ops.inc"
