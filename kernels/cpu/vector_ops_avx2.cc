#include "kernels/cpu/vec_avx2.h"

#define TTT_ISA avx2
#include "kernels/cpu/vector_ops.inc"
