#include "kernels/cpu/vec_avx512.h"

#define TTT_ISA avx512
#include "kernels/cpu/vector_ops.inc"
