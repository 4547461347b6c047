// AVX2 with the dot products of 8-bit integers (AVX512-VNNI: Ice Lake, Zen 4 on), on vectors of 512
// bits where two panels are worked on together. The build compiles this file alone with them.
#include "kernels/cpu/leaf.h"
#include "kernels/cpu/vec_avx2.h"
#include "kernels/cpu/vec.h"
#include "kernels/cpu/leaf_gemm.h"
#include "kernels/cpu/leaf_attn.h"
#include "kernels/cpu/leaf_elem.h"
#include "kernels/cpu/leaf_delta.h"
#include "kernels/cpu/leaf_table.h"

LEAF_TABLE(vnni);
